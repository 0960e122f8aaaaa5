"""Signs with one scale per tensor and error feedback: EF-signSGD.

Source: Karimireddy et al., "Error feedback fixes SignSGD" (ICML 2019), algorithm 1: q = (||v||_1 / d) sign(v), so that
||v - q||^2 = ||v||^2 - ||v||_1^2 / d. Deviation: the sign of 0 is +.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext
from fedlama.choices.codecs.compiled import arrays_of, by_rows, suits_kernels
from fedlama.choices.codecs.difference import RESIDUAL, DifferenceCodec, Rows
from fedlama.choices.codecs.packing import code_bytes, from_bytes, pack_codes, to_bytes, tree_sum, unpack_codes
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register
from fedlama.kernels import round_to_signs


@register("codec")
@dataclass(frozen=True)
class Sign(DifferenceCodec):
    """Send the mean magnitude of a difference and the sign of each number.

    ``differences`` with 1 bit does the same with a scale for every 512 numbers, which is more exact.

    Args:
        feedback: Add what was left out to the next difference; without it, signs lead nowhere near an optimum.
        down: Whether downloads are coded in the same way.

    Example:
        >>> Sign().transmit(torch.tensor([[3.0, -1.0, 2.0]])).tolist()
        [[2.0, -2.0, 2.0]]
    """

    name: ClassVar[str] = "sign"
    feedback: bool = True
    down: bool = True

    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of one float32 and of one bit per number."""
        return 4 + code_bytes(spec.size, 1)

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute in two passes over the memory, where kernels are available and it is worth loading them."""
        if not suits_kernels(stacked):
            return super()._arriving(stacked, context)
        arrays = arrays_of(stacked, context.reference, context.state.get(RESIDUAL))

        def compute(row: int) -> None:
            change = arrays.values[row], arrays.reference, arrays.residuals[row]
            round_to_signs(arrays.received[row], arrays.left[row], *change, past_caches=arrays.past_caches)

        by_rows(compute, arrays, context)
        return arrays.arriving, {RESIDUAL: arrays.residual} if RESIDUAL in context.state else {}

    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write the scale, then the signs."""
        scale = tree_sum(values.abs()) / rows.elements  # (rows, 1)
        return torch.cat([to_bytes(scale), pack_codes((values >= 0).to(torch.uint8), 1)], 1), {}

    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Read scale and signs."""
        scale = from_bytes(packed[:, :4], torch.float32)
        signs = unpack_codes(packed[:, 4:], 1, rows.elements).to(torch.float32) * 2.0 - 1.0
        return signs * scale
