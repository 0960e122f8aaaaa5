"""Stochastic rounding in blocks: unbiased, without any state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedlama.choices.codecs.base import Address, CohortContext
from fedlama.choices.codecs.compiled import arrays_of, by_pieces
from fedlama.choices.codecs.packing import square_root, tree_sum
from fedlama.core.randomness import keyed_halves
from fedlama.kernels import Chance, round_stochastically

LEAST_BITS = 4
FEW_BITS = "stochastic rounding in fewer bits made runs diverge"
"""Why: with 2 bits and error feedback, all of three seeds did."""


def stochastic_codes(
    parts: Tensor, bits: int, addresses: Sequence[Address], *, by_norm: bool = False
) -> tuple[Tensor, Tensor]:
    """Round every number up or down at random, so that its expectation is the number itself.

    The probability is exact to 2^-17, since 16 random bits decide.

    Args:
        parts: v, float32 (rows, blocks, size).
        bits: Bits per code.
        addresses: The address of each row's random numbers.
        by_norm: Whether the highest level stands for a block's norm instead of its largest magnitude.

    Returns:
        Step sizes (rows, blocks, 1), and codes (rows, blocks, size) as uint8: v is about (code - 2^(bits-1)) * step.
    """
    middle = 2 ** (bits - 1)
    size = square_root(tree_sum(parts * parts)) if by_norm else parts.abs().amax(2, keepdim=True)
    steps = size / (middle - 1)
    scaled = parts / torch.where(steps > 0, steps, torch.ones_like(steps))
    codes = (scaled + uniform_rows(addresses, parts[0].numel(), parts.device).view(parts.shape)).floor()
    return steps, (codes.nan_to_num(0.0).clamp(1 - middle, middle - 1) + middle).to(torch.uint8)


def stochastic_arriving(stacked: Tensor, context: CohortContext, bits: int, *, by_norm: bool = False) -> Tensor:
    """Return what arrives of differences that are rounded at random, in compiled loops.

    Args:
        stacked: (clients, ...), which suits kernels.
        context: Reference and addresses.
        bits: As for :func:`stochastic_codes`, whose bits these are.
        by_norm: Likewise.
    """
    arrays, keys = arrays_of(stacked, context.reference, None), [address.key for address in context.addresses()]

    def compute(row: int, part: slice) -> None:
        chance = Chance(bits, by_norm, keys[row], part.start)
        change = arrays.values[row, part], arrays.reference[part]
        round_stochastically(arrays.received[row, part], *change, chance, past_caches=arrays.past_caches)

    by_pieces(compute, arrays, context)
    return arrays.arriving


def uniform_rows(addresses: Sequence[Address], elements: int, device: torch.device) -> Tensor:
    """Return random numbers in (0, 1), float32 (rows, elements): odd multiples of 2^-17."""
    drawn = np.stack([keyed_halves(address.key, elements) for address in addresses])
    numbers = torch.from_numpy(drawn.astype(np.float32)).to(device)
    return (numbers + 0.5) / 65536.0
