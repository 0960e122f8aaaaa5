"""Differences rounded to a few bits, block by block, while each block is in the nearest cache.

The rule is that of :mod:`fedlama.choices.codecs.differences`, and so are the bits: sums are added up by halves, and no
product is contracted with a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import address_of, floats, load, offset, stream

BLOCK = 512
"""Numbers that share a step."""
TWO_BITS, FOUR_BITS, LARGEST = np.float32(0.9957), np.float32(0.3352), np.float32(127.0)


@kernel
def round_row(out: Any, values: Any, reference: Any, residual: Any, bits: int, past_caches: bool) -> None:
    """Round v = x - r + e of one client: r + q, the new e = v - q, the steps of the blocks, and the codes.

    Args:
        out: The :class:`~fedlama.kernels.stacks.Rounded`, overwritten: r + q, float32 (columns,); v - q, float32
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
        # Memory rather than arrays: with indices that cannot be negative LLVM makes vectors of these loops.
        x, r, e = offset(floats(values), start), offset(floats(reference), start), offset(floats(residual), start)
        arrived, rest = offset(floats(received), start), offset(floats(left), start)
        width = min(BLOCK, len(values) - start)
        if len(residual) > 0:
            for column in range(width):  # change (512) <- values (512) - reference (512) + residual (512)
                change[column] = (x[column] - r[column]) + e[column]
        else:
            for column in range(width):  # change (512) <- values (512) - reference (512)
                change[column] = x[column] - r[column]
        for column in range(width, BLOCK):
            change[column] = np.float32(0.0)
        step = _largest(change, work) / LARGEST if bits == 8 else _scaled(change, work, width, bits)
        steps[block] = step
        if len(codes) > 0:
            _write_codes(codes[start : start + width], change, step, bits)
        _split(work, change, r, width, step, bits)
        if len(left) > 0:
            _write(rest, floats(change), width, past_caches)
        _write(arrived, floats(work), width, past_caches)


@kernel
def _split(arrived: Any, change: Any, reference: Any, width: int, step: Any, bits: int) -> None:
    """Set arrived to r + q, and the change to what q leaves of it; all (512,)."""
    divisor = step if step > 0.0 else np.float32(1.0)
    if bits == 8:
        for column in range(width):  # arrived (512) <- reference (512) + q (512)
            q = _clamped(np.rint(np.divide(change[column], divisor)), bits) * step
            change[column] -= q
            arrived[column] = reference[column] + q
    else:
        for column in range(width):  # arrived (512) <- reference (512) + q (512)
            q = (_clamped(np.floor(np.divide(change[column], divisor)), bits) + np.float32(0.5)) * step
            change[column] -= q
            arrived[column] = reference[column] + q


@kernel
def _write_codes(codes: Any, change: Any, step: Any, bits: int) -> None:
    """Write the codes of a block as whole numbers from 0 on, or from 1 on with 8 bits."""
    divisor, half = step if step > 0.0 else np.float32(1.0), np.float32(1 << (bits - 1))
    for column in range(len(codes)):  # codes (512) <- change (512)
        scaled = np.divide(change[column], divisor)
        code = _clamped(np.rint(scaled) if bits == 8 else np.floor(scaled), bits)
        codes[column] = np.uint8(np.int32(code + half))


@kernel
def _clamped(code: Any, bits: int) -> Any:
    """Return a code within the range of its bits; 0 for not-a-number."""
    high = np.float32((1 << (bits - 1)) - 1)
    low = -high if bits == 8 else -high - np.float32(1.0)
    code = np.float32(0.0) if code != code else code
    code = low if code < low else code
    return high if code > high else code


@kernel
def _write(out: Any, source: Any, width: int, past_caches: bool) -> None:
    """Copy numbers; past the caches, where that is wanted and the memory is aligned, they are not read first."""
    whole = width - width % LANES if past_caches and address_of(out) % (4 * LANES) == 0 else 0
    for column in range(0, whole, LANES):  # out (16) <- source (16)
        stream(out, column, load(source, column))
    for column in range(whole, width):
        out[column] = source[column]


@kernel
def _scaled(change: Any, work: Any, width: int, bits: int) -> Any:
    """Return a block's step: a multiple of the root mean square, or for 1 bit twice the mean magnitude."""
    half = BLOCK // 2
    if bits == 1:
        for column in range(half):  # work (256) <- |change| (256) + |change| (256)
            work[column] = abs(change[column]) + abs(change[column + half])
    else:
        for column in range(half):  # work (256) <- change^2 (256) + change^2 (256)
            work[column] = change[column] * change[column] + change[column + half] * change[column + half]
    half //= 2
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
