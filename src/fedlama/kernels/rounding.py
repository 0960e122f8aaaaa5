"""Differences rounded to a few bits, block by block, while each block is in the nearest cache.

The rule is that of :mod:`fedlama.choices.codecs.differences`, and so are the bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import (
    BLOCK,
    CHUNK,
    clamped,
    fetch_ahead,
    largest,
    sum_of_magnitudes,
    sum_of_squares,
    take_change,
    write,
)
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import floats, offset

TWO_BITS, FOUR_BITS, LARGEST = np.float32(0.9957), np.float32(0.3352), np.float32(127.0)


@kernel
def round_row(out: Any, values: Any, reference: Any, residual: Any, bits: int, past_caches: bool) -> None:
    """Round v = x - r + e of one client: r + q, the new e = v - q, the steps of the blocks, and the codes.

    Args:
        out: The :class:`~fedlama.kernels.codecs.Rounded`, overwritten: r + q, float32 (columns,); v - q, float32
            (columns,) or empty where it is not wanted; steps, float32 (blocks,); codes, uint8 (columns,) or empty.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        bits: 1, 2, 4 or 8.
        past_caches: Whether r + q and v - q are written past the caches, as large arrays should be.
    """
    received, left, steps, codes = out
    change, work = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for block in range(len(steps)):
        start = block * BLOCK
        width = min(BLOCK, len(values) - start)
        take_change(change, values, reference, residual, start, width)
        fetch_ahead(values, residual, start + BLOCK)
        step = largest(change) / LARGEST if bits == 8 else _scaled(change, work, width, bits)
        steps[block] = step
        if len(codes) > 0:
            _write_codes(codes[start : start + width], change, step, bits)
        for first in range(0, width, CHUNK):
            count, r = min(CHUNK, width - first), offset(floats(reference), start + first)
            rest = offset(floats(change), first)
            _split(floats(work), rest, r, count, step, bits)
            if len(left) > 0:
                write(offset(floats(left), start + first), rest, count, past_caches)
            write(offset(floats(received), start + first), floats(work), count, past_caches)


@kernel
def _split(arrived: Any, change: Any, reference: Any, width: int, step: Any, bits: int) -> None:
    """Set arrived to r + q, and the change to what q leaves of it; all memory."""
    divisor = step if step > 0.0 else np.float32(1.0)
    low, high = _range(bits)
    if bits == 8:
        for column in range(width):  # arrived (width) <- reference (width) + q (width)
            code = clamped(np.rint(np.divide(change[column], divisor)), low, high)
            q = (code + np.float32(0.0)) * step  # a code of -0 is sent as 0
            change[column] -= q
            arrived[column] = reference[column] + q
    else:
        for column in range(width):  # arrived (width) <- reference (width) + q (width)
            q = (clamped(np.floor(np.divide(change[column], divisor)), low, high) + np.float32(0.5)) * step
            change[column] -= q
            arrived[column] = reference[column] + q


@kernel
def _write_codes(codes: Any, change: Any, step: Any, bits: int) -> None:
    """Write the codes of a block as whole numbers from 0 on, or from 1 on with 8 bits."""
    divisor, half = step if step > 0.0 else np.float32(1.0), np.float32(1 << (bits - 1))
    low, high = _range(bits)
    for column in range(len(codes)):  # codes (512) <- change (512)
        scaled = np.divide(change[column], divisor)
        code = clamped(np.rint(scaled) if bits == 8 else np.floor(scaled), low, high)
        codes[column] = np.uint8(np.int32(code + half))


@kernel
def _range(bits: int) -> Any:
    """Return the lowest and the highest code of some bits."""
    high = np.float32((1 << (bits - 1)) - 1)
    return -high if bits == 8 else -high - np.float32(1.0), high


@kernel
def _scaled(change: Any, work: Any, width: int, bits: int) -> Any:
    """Return a block's step: a multiple of the root mean square, or for 1 bit twice the mean magnitude."""
    if bits == 1:
        return sum_of_magnitudes(change, work) / np.float32(width) * np.float32(2.0)
    return np.sqrt(sum_of_squares(change, work) / np.float32(width)) * (TWO_BITS if bits == 2 else FOUR_BITS)
