"""Stochastic rounding by the largest magnitude of a block: unbiased, without any state."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedlama.choices.codecs.base import Address
from fedlama.core.randomness import keyed_halves

LEAST_BITS = 4
"""Fewest bits: with 2, differences with error feedback diverged under all of three seeds."""


def stochastic_codes(parts: Tensor, bits: int, addresses: Sequence[Address]) -> tuple[Tensor, Tensor]:
    """Round every number up or down at random, so that its expectation is the number itself.

    The probability is exact to 2^-17, since 16 random bits decide.

    Args:
        parts: v, float32 (rows, blocks, size).
        bits: Bits per code.
        addresses: The address of each row's random numbers.

    Returns:
        Step sizes (rows, blocks, 1), and codes (rows, blocks, size) as uint8: v is about (code - 2^(bits-1)) * step.
    """
    middle = 2 ** (bits - 1)
    steps = parts.abs().amax(2, keepdim=True) / (middle - 1)
    scaled = parts / torch.where(steps > 0, steps, torch.ones_like(steps))
    codes = (scaled + uniform_rows(addresses, parts[0].numel(), parts.device).view(parts.shape)).floor()
    return steps, (codes.nan_to_num(0.0).clamp(1 - middle, middle - 1) + middle).to(torch.uint8)


def uniform_rows(addresses: Sequence[Address], elements: int, device: torch.device) -> Tensor:
    """Return random numbers in (0, 1), float32 (rows, elements): odd multiples of 2^-17."""
    drawn = np.stack([keyed_halves(address.key, elements) for address in addresses])
    numbers = torch.from_numpy(drawn.astype(np.float32)).to(device)
    return (numbers + 0.5) / 65536.0
