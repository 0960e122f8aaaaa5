"""Differences rounded to a few bits, block by block, while each block is in the nearest cache.

The rule is that of :mod:`fedlama.choices.codecs.differences`, and so are the bits: sums are added up by halves, and no
product is contracted with a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel

BLOCK = 512
"""Numbers that share a step."""
TWO_BITS, FOUR_BITS, LARGEST = np.float32(0.9957), np.float32(0.3352), np.float32(127.0)


@kernel
def round_row(
    received: Any, left: Any, steps: Any, codes: Any, values: Any, reference: Any, residual: Any, bits: int
) -> None:
    """Round v = x - r + e of one client: r + q, the new e = v - q, the steps of the blocks, and the codes.

    Args:
        received: r + q, float32 (columns,); overwritten.
        left: v - q, float32 (columns,), or empty where it is not wanted; overwritten.
        steps: float32 (blocks,); overwritten.
        codes: uint8 (columns,), or empty where they are not wanted; overwritten.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        bits: 1, 2, 4 or 8.
    """
    change, work = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for block in range(len(steps)):
        start = block * BLOCK
        width = min(BLOCK, len(values) - start)
        for column in range(width):  # change (512) <- values (512) - reference (512)
            change[column] = values[start + column] - reference[start + column]
        if len(residual) > 0:
            for column in range(width):  # change (512) <- change (512) + residual (512)
                change[column] += residual[start + column]
        for column in range(width, BLOCK):
            change[column] = np.float32(0.0)
        steps[block] = _largest(change, work) / LARGEST if bits == 8 else _scaled(change, work, width, bits)
        _rounded(change, work, steps[block], bits)
        if len(codes) > 0:
            half = np.float32(1 << (bits - 1))
            for column in range(width):  # codes (512) <- work (512)
                codes[start + column] = np.uint8(np.int64(work[column] + half))
        middle = np.float32(0.0) if bits == 8 else np.float32(0.5)
        for column in range(width):  # work (512) <- q (512)
            work[column] = (work[column] + middle) * steps[block]
        for column in range(width):  # received (512) <- reference (512) + work (512)
            received[start + column] = reference[start + column] + work[column]
        if len(left) > 0:
            for column in range(width):  # left (512) <- change (512) - work (512)
                left[start + column] = change[column] - work[column]


@kernel
def _scaled(change: Any, work: Any, width: int, bits: int) -> Any:
    """Return a block's step: a multiple of the root mean square, or for 1 bit twice the mean magnitude."""
    if bits == 1:
        for column in range(BLOCK):  # work (512) <- |change| (512)
            work[column] = abs(change[column])
    else:
        for column in range(BLOCK):  # work (512) <- change^2 (512)
            work[column] = change[column] * change[column]
    half = BLOCK // 2
    while half > 0:
        for column in range(half):  # work (half) <- work (half) + work (half)
            work[column] += work[column + half]
        half //= 2
    mean = work[0] / np.float32(width)
    if bits == 1:
        return mean * np.float32(2.0)
    return np.sqrt(mean) * (TWO_BITS if bits == 2 else FOUR_BITS)


@kernel
def _largest(change: Any, work: Any) -> Any:
    """Return the largest magnitude of a block; NaN where there is one."""
    for column in range(BLOCK):  # work (512) <- |change| (512)
        work[column] = abs(change[column])
    half = BLOCK // 2
    while half > 0:
        for column in range(half):  # work (half) <- the larger one of work (half) and work (half), or NaN
            first, second = work[column], work[column + half]
            work[column] = first if first > second or first != first else second
        half //= 2
    return work[0]


@kernel
def _rounded(change: Any, work: Any, step: Any, bits: int) -> None:
    """Fill in the codes of a block as whole numbers around 0."""
    divisor = step if step > 0.0 else np.float32(1.0)
    high = np.float32((1 << (bits - 1)) - 1)
    low = -high if bits == 8 else -high - np.float32(1.0)
    for column in range(BLOCK):  # work (512) <- change (512)
        work[column] = np.divide(change[column], divisor)
    if bits == 8:
        for column in range(BLOCK):  # work (512), to even
            work[column] = np.rint(work[column])
    else:
        for column in range(BLOCK):  # work (512)
            work[column] = np.floor(work[column])
    for column in range(BLOCK):  # work (512)
        code = work[column]
        code = np.float32(0.0) if code != code else code
        code = low if code < low else code
        work[column] = high if code > high else code
