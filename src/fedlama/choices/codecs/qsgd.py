"""Differences with stochastic rounding and no state: QSGD's quantiser, as FedPAQ sends local updates with it.

Sources: Alistarh et al., "QSGD" (NeurIPS 2017), section 3.1, with blocks of 512 and codes of a fixed length instead of
Elias coding; by default scaled by the largest magnitude, as in its experiments. Reisizadeh et al., "FedPAQ" (AISTATS
2020): differences from the value received last go up, downloads are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from fedlama.choices.codecs.base import CodecState, CohortContext
from fedlama.choices.codecs.compiled import suits_kernels
from fedlama.choices.codecs.difference import DifferenceCodec, Rows
from fedlama.choices.codecs.packing import BLOCK, blocks, code_bytes, from_bytes, pack_codes, to_bytes, unpack_codes
from fedlama.choices.codecs.stochastic import FEW_BITS, stochastic_arriving, stochastic_codes
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse


@register("codec")
@dataclass(frozen=True)
class QSGD(DifferenceCodec):
    """Send differences rounded up or down at random, so that what arrives has the right expectation.

    Args:
        bits: Bits per number with its sign: 4 or 8, so 7 or 127 levels on each side of 0.
        scale: What the highest level of a block stands for: its ``"largest"`` magnitude, or its ``"norm"``. With the
            norm, most numbers of a block of 512 fall between 0 and the first level.
        down: Whether downloads are coded in the same way.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> QSGD(bits=8).transmit(torch.tensor([[127.0, -5.0, 0.0]])).tolist()  # multiples of a step arrive exactly
        [[127.0, -5.0, 0.0]]
    """

    name: ClassVar[str] = "qsgd"
    bits: int = 4
    scale: Literal["largest", "norm"] = "largest"
    down: bool = False

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = one_of(self, "scale", ("largest", "norm"))
        if self.bits not in (4, 8):
            problems.append(f"QSGD: bits is {self.bits}, expected 4 or 8, because {FEW_BITS}; choose 4")
        refuse(problems)

    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of one float32 per block and of `bits` per number."""
        return 4 * -(-spec.size // BLOCK) + code_bytes(spec.size, self.bits)

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute in one pass over the memory, where kernels are available and it is worth loading them."""
        if not suits_kernels(stacked):
            return super()._arriving(stacked, context)
        return stochastic_arriving(stacked, context, self.bits, by_norm=self.scale == "norm"), {}

    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write the steps of all blocks, then the codes of all numbers."""
        steps, codes = stochastic_codes(blocks(values), self.bits, rows.addresses, by_norm=self.scale == "norm")
        packed = pack_codes(codes.view(len(values), -1)[:, : rows.elements], self.bits)
        return torch.cat([to_bytes(steps.view(len(values), -1)), packed], 1), {}

    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Read steps and codes."""
        count = -(-rows.elements // BLOCK)
        steps = from_bytes(packed[:, : 4 * count], torch.float32).unsqueeze(2)  # (rows, blocks, 1)
        codes = unpack_codes(packed[:, 4 * count :], self.bits, rows.elements)
        values: Tensor = (blocks(codes).to(torch.float32) - 2 ** (self.bits - 1)) * steps  # (rows, blocks, 512)
        return values.view(len(packed), -1)[:, : rows.elements]
