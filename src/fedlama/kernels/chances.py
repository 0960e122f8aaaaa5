"""Differences rounded up or down at random, block by block; the rule and the bits are those of QSGD's quantiser here.

See :mod:`fedlama.choices.codecs.stochastic`. The random numbers belong to (key, column), so columns are independent.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, CHUNK, clamped, fetch_ahead, largest, sum_of_squares, take_change, write
from fedlama.kernels.drawing import mixed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import floats, offset


@kernel
def round_at_random(
    received: Any, values: Any, reference: Any, first: int, key: Any, bits: int, by_norm: bool, past_caches: bool
) -> None:
    """Round v = x - r of one client and write r + q.

    Args:
        received: r + q, float32 (columns,); overwritten.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        first: The number of the first of these columns in the client's row, a multiple of 512.
        key: uint64: what the client's random numbers belong to.
        bits: 4 or 8.
        by_norm: Whether the highest code stands for a block's norm instead of its largest magnitude.
        past_caches: Whether r + q is written past the caches.
    """
    change, work, noise = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    hashed = np.empty(BLOCK // 4, np.uint64)
    high = np.float32((1 << (bits - 1)) - 1)
    for start in range(0, len(values), BLOCK):
        width = min(BLOCK, len(values) - start)
        take_change(change, values, reference, values[:0], start, width)
        fetch_ahead(values, values[:0], start + BLOCK)
        _draw(noise, hashed, (first + start) // 4, key)
        size = np.sqrt(sum_of_squares(change, work)) if by_norm else largest(change)
        step = size / high
        divisor = step if step > 0.0 else np.float32(1.0)
        v, chance = floats(change), floats(noise)
        for chunk in range(0, width, CHUNK):
            count, r = min(CHUNK, width - chunk), offset(floats(reference), start + chunk)
            for column in range(count):  # work (128) <- reference (128) + q (128)
                scaled = np.divide(v[chunk + column], divisor) + chance[chunk + column]
                code = clamped(np.floor(scaled), -high, high)
                work[column] = r[column] + (code + np.float32(0.0)) * step  # a code of -0 is sent as 0
            write(offset(floats(received), start + chunk), floats(work), count, past_caches)


@kernel
def _draw(noise: Any, hashed: Any, first: int, key: Any) -> None:
    """Write 512 random numbers in (0, 1), odd multiples of 2^-17, four of each hashed position from `first` on."""
    for position in range(len(hashed)):  # hashed (128)
        hashed[position] = mixed(key ^ mixed(np.uint64(first + position)))
    halves = hashed.view(np.uint16)
    for column in range(len(noise)):  # noise (512) <- halves (512)
        noise[column] = (np.float32(halves[column]) + np.float32(0.5)) * np.float32(1.0 / 65536.0)
