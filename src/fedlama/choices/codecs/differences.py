"""Differences in 8, 4, 2 or 1 bits with error feedback, in both directions.

Each block of 512 numbers has one step size, so a number takes `bits` bits and 1/16 of a bit for its share of the step:

    bits      step                                                      q
    1, 2, 4   c * (root mean square of the block); for 1 bit            (clamp(floor(v / step)) + 1/2) * step
              2 * (mean magnitude of the block)
    8         (largest magnitude of the block) / 127                    round(v / step) * step

The constants c are the optimal uniform steps for numbers with a normal distribution (Max, "Quantizing for minimum
distortion", 1960); of such a block the relative squared error is 0.36 with 1 bit, 0.12 with 2 and 0.012 with 4.

Rounding is deterministic and below 8 bits its scale is the root mean square, because error feedback needs a
contraction, ||v - Q(v)|| < ||v||. It is one for every block with 1, 4 and 8 bits, and with 2 bits unless up to 3 of a
block's numbers hold nearly all of its norm (then at most 1.06 ||v||; the residual stays bounded there too). Stochastic
rounding by the largest magnitude is far from one with 2 bits, and runs diverged.

For cohorts that change in every round no client is there long enough to send its residual. ``feedback=False`` is for
them: differences go up with stochastic rounding by the largest magnitude (unbiased, 4 or 8 bits), and weights come down
in 8 bits (:mod:`fedlama.choices.codecs.eight_bit_rows`), also to clients that join.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedlama.choices.codecs.base import Codec, CodecState, CohortContext
from fedlama.choices.codecs.compiled import arrays_of, by_pieces, suits_kernels
from fedlama.choices.codecs.difference import RESIDUAL, DifferenceCodec, Rows
from fedlama.choices.codecs.eight_bit_rows import EightBitRows
from fedlama.choices.codecs.packing import (
    BLOCK,
    block_lengths,
    blocks,
    code_bytes,
    from_bytes,
    pack_codes,
    square_root,
    to_bytes,
    tree_sum,
    unpack_codes,
)
from fedlama.choices.codecs.stochastic import FEW_BITS, LEAST_BITS, stochastic_arriving, stochastic_codes
from fedlama.core.layers import TensorSpec
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse
from fedlama.kernels import Rounded, can_compile, round_differences

STEPS = {2: 0.9957, 4: 0.3352}
"""Step size over the root mean square, by bits."""
_LARGEST_CODE = 127


@register("codec")
@dataclass(frozen=True)
class Differences(DifferenceCodec):
    """Send differences in few bits.

    Args:
        bits: Bits per number: 8, 4, 2 or 1.
        feedback: Add what rounding left out to the next difference. Without it, rounding is stochastic, and `bits` is
            4 or 8.
        down: Whether downloads are coded too: as differences, or without feedback as 8-bit weights.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> codec = Differences(bits=2)
        >>> codec.payload_bytes(TensorSpec("w", (40, 30), torch.float32, trainable=True))  # 1200 / 4, and 3 steps
        312
        >>> codec.transmit(torch.tensor([[3.0, 0.5, -0.5, -3.0]])).tolist()[0][:2]  # one client's tensor
        [3.212000846862793, 1.0706669092178345]
    """

    name: ClassVar[str] = "differences"
    bits: int = 4
    feedback: bool = True
    down: bool = True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = [] if self.bits in (1, 2, 4, 8) else _wrong_bits(self.bits, "8, 4, 2 or 1", "choose one of them")
        if not problems and not self.feedback and self.bits < LEAST_BITS:
            problems = _wrong_bits(
                self.bits,
                f"4 or 8 without feedback, because {FEW_BITS}",
                "choose 4 bits, or feedback=true",
            )
        refuse(problems)

    @property
    def download(self) -> Codec | None:
        """The codec of downloads: this one too, or without feedback weights in 8 bits, unless :attr:`down` is false."""
        return EightBitRows() if self.down and not self.feedback else super().download

    def packed_bytes(self, spec: TensorSpec) -> int:
        """Return the bytes of one float32 per block and of `bits` per number."""
        return 4 * -(-spec.size // BLOCK) + code_bytes(spec.size, self.bits)

    def _arriving(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, CodecState]:
        """Compute in one pass over the memory, where kernels are available and it is worth loading them."""
        if not suits_kernels(stacked) or (self.feedback and RESIDUAL not in context.state):
            return super()._arriving(stacked, context)
        if not self.feedback:
            return stochastic_arriving(stacked, context, self.bits), {}
        rounded = _compiled(stacked, context, self.bits)
        return rounded.received, {RESIDUAL: rounded.left}

    def _sent(self, stacked: Tensor, context: CohortContext) -> tuple[Tensor, Tensor, CodecState]:
        """Do the same, with what is sent."""
        if not self.compiles(stacked, context):
            return super()._sent(stacked, context)
        rounded = _compiled(stacked, context, self.bits, codes=True)
        packed = torch.cat([to_bytes(rounded.steps), pack_codes(rounded.codes, self.bits)], 1)
        return packed, rounded.received, {RESIDUAL: rounded.left}

    def pack(self, values: Tensor, rows: Rows) -> tuple[Tensor, CodecState]:
        """Write the steps of all blocks, then the codes of all numbers."""
        parts = blocks(values)  # (rows, blocks, 512)
        if not self.feedback:
            steps, codes = stochastic_codes(parts, self.bits, rows.addresses)
        else:
            steps, codes = _rounded(parts, self.bits, rows.elements)
        packed = pack_codes(codes.view(len(values), -1)[:, : rows.elements], self.bits)
        return torch.cat([to_bytes(steps.view(len(values), -1)), packed], 1), {}

    def unpack(self, packed: Tensor, rows: Rows) -> Tensor:
        """Read steps and codes."""
        count = -(-rows.elements // BLOCK)
        steps = from_bytes(packed[:, : 4 * count], torch.float32).unsqueeze(2)  # (rows, blocks, 1)
        codes = unpack_codes(packed[:, 4 * count :], self.bits, rows.elements)
        middle = 2 ** (self.bits - 1) - (0.5 if self.feedback and self.bits < 8 else 0.0)
        values: Tensor = (blocks(codes).to(torch.float32) - middle) * steps  # (rows, blocks, 512)
        return values.view(len(packed), -1)[:, : rows.elements]

    def rounded(self, values: Tensor, rows: Rows) -> Tensor:
        """Round in compiled loops, where they are available."""
        if not (self.feedback and values.device.type == "cpu" and can_compile()):
            return super().rounded(values, rows)
        arriving = torch.empty(values.shape)
        nothing, steps = np.empty(0, np.float32), np.empty(-(-rows.elements // BLOCK), np.float32)
        nowhere = np.full(rows.elements, -0.0, np.float32)  # a reference whose sum with a number has the number's bits
        for received, row in zip(arriving.numpy(), values.contiguous().numpy(), strict=True):
            out = Rounded(received, nothing, steps, np.empty(0, np.uint8))
            round_differences(out, row, nowhere, nothing, self.bits)
        return arriving


class _Compiled(NamedTuple):
    """What kernels compute for a cohort.

    Attributes:
        received: What arrives, (clients, ...).
        left: The new residual, likewise.
        steps: The steps, (clients, blocks).
        codes: The codes, uint8 (clients, elements), or (clients, 0) where they are not wanted.
    """

    received: Tensor
    left: Tensor
    steps: Tensor
    codes: Tensor


def _compiled(stacked: Tensor, context: CohortContext, bits: int, *, codes: bool = False) -> _Compiled:
    """Round in compiled loops, with the bits of :func:`_rounded`."""
    clients, elements = len(stacked), stacked[0].numel()
    arrays = arrays_of(stacked, context.reference, context.state[RESIDUAL])
    steps = torch.empty(clients, -(-elements // BLOCK))
    numbers = torch.empty(clients, elements if codes else 0, dtype=torch.uint8)
    its_steps, its_codes = steps.numpy(), numbers.numpy()

    def compute(row: int, part: slice) -> None:
        blocks_of_part = slice(part.start // BLOCK, part.stop // BLOCK)
        results = arrays.received[row, part], arrays.left[row, part]
        out = Rounded(*results, its_steps[row, blocks_of_part], its_codes[row, part])
        change = arrays.values[row, part], arrays.reference[part], arrays.residuals[row, part]
        round_differences(out, *change, bits, past_caches=arrays.past_caches)

    by_pieces(compute, arrays, context)
    return _Compiled(arrays.arriving, arrays.residual, steps, numbers)


def _rounded(parts: Tensor, bits: int, elements: int) -> tuple[Tensor, Tensor]:
    """Return step sizes (rows, blocks, 1), and codes (rows, blocks, 512) rounded in a deterministic way."""
    half = 2 ** (bits - 1)
    lengths = block_lengths(elements).to(parts.device)
    if bits == 8:
        steps = parts.abs().amax(2, keepdim=True) / _LARGEST_CODE
    elif bits == 1:
        steps = tree_sum(parts.abs()) / lengths * 2.0
    else:
        steps = square_root(tree_sum(parts * parts) / lengths) * STEPS[bits]
    scaled = parts / torch.where(steps > 0, steps, torch.ones_like(steps))
    codes = scaled.round() if bits == 8 else scaled.floor()
    lowest = 1 - half if bits == 8 else -half
    return steps, (codes.clamp(lowest, half - 1).nan_to_num(0.0) + half).to(torch.uint8)


def _wrong_bits(bits: object, expected: str, remedy: str) -> list[str]:
    return [f"Differences: bits is {bits}, expected {expected}; {remedy}"]
