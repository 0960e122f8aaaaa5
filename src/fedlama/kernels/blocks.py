"""What the kernels of codecs share: differences in blocks, sums by halves, and writes past the caches.

The bits are those of :mod:`fedlama.choices.codecs`: sums are added up by halves, and no product is contracted with a
sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import address_of, floats, load, load_some, offset, prefetch, store, store_some, stream
from fedlama.kernels.vectors import difference_of, full, larger_magnitude, largest_lane, sum_of

BLOCK = 512
"""Numbers that share a step; they stay in the nearest cache."""

CHUNK = 128
"""Numbers that are computed and then written: few, so that the next ones are computed while these are on their way."""


@kernel
def take_change(change: Any, values: Any, reference: Any, residual: Any, start: int, width: int) -> None:
    """Set the first numbers of a block to v = x - r + e of the columns from `start` on, and the others to 0.

    Args:
        change: v, float32 (512,) or longer; overwritten.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        start: The first column.
        width: How many columns.
    """
    # Memory rather than arrays: with indices that cannot be negative LLVM makes vectors of these loops.
    x, r, e = offset(floats(values), start), offset(floats(reference), start), offset(floats(residual), start)
    if len(residual) > 0:
        for column in range(width):  # change (512) <- values (512) - reference (512) + residual (512)
            change[column] = (x[column] - r[column]) + e[column]
    else:
        for column in range(width):  # change (512) <- values (512) - reference (512)
            change[column] = x[column] - r[column]
    for column in range(width, len(change)):
        change[column] = np.float32(0.0)


@kernel
def fetch_ahead(values: Any, residual: Any, start: int) -> None:
    """Ask for the block of x and e that begins at `start`, so that it is loaded while another one is computed.

    Args:
        values: x, float32 (columns,); the block may be outside.
        residual: e, float32 (columns,), or empty for zero.
        start: The first column.
    """
    x, e = floats(values), floats(residual)
    for column in range(start, start + BLOCK, LANES):  # values (512)
        prefetch(x, column)
    if len(residual) > 0:
        for column in range(start, start + BLOCK, LANES):  # residual (512)
            prefetch(e, column)


@kernel
def write(out: Any, source: Any, width: int, past_caches: bool) -> None:
    """Copy numbers; past the caches, where that is wanted and the memory is aligned, they are not read first."""
    whole = width - width % LANES if past_caches and address_of(out) % (4 * LANES) == 0 else 0
    for column in range(0, whole, LANES):  # out (16) <- source (16)
        stream(out, column, load(source, column))
    for column in range(whole, width):
        out[column] = source[column]


@kernel
def take_vector(x: Any, r: Any, e: Any, column: int, count: int, has_residual: bool) -> Any:
    """Return a vector of v = x - r + e, of which only the first `count` lanes are used, and one of r."""
    if count < LANES:
        base = load_some(r, column, count)
        change = difference_of(load_some(x, column, count), base)
        return sum_of(change, load_some(e, column, count)) if has_residual else change, base
    base = load(r, column)
    change = difference_of(load(x, column), base)
    return sum_of(change, load(e, column)) if has_residual else change, base


@kernel
def put_vector(out: Any, column: int, vector: Any, count: int, streamed: bool) -> None:
    """Write the first `count` lanes of a vector, whole vectors past the caches where that is wanted."""
    if count < LANES:
        store_some(out, column, 0, vector, count)
    elif streamed:
        stream(out, column, vector)
    else:
        store(out, column, 0, vector)


@kernel
def is_aligned(memory: Any) -> Any:
    """Return whether whole vectors can be written past the caches."""
    return address_of(memory) % (4 * LANES) == 0


@kernel
def largest(change: Any) -> Any:
    """Return the largest magnitude of a block; NaN where there is one."""
    v, magnitudes = floats(change), full(np.float32(0.0))
    for column in range(0, BLOCK, LANES):  # magnitudes (16) <- change (16)
        magnitudes = larger_magnitude(magnitudes, load(v, column))
    return largest_lane(magnitudes)


@kernel
def sum_of_squares(change: Any, work: Any) -> Any:
    """Return the sum of the squares of a block, added up by halves."""
    half = BLOCK // 2
    for column in range(half):  # work (256) <- change^2 (256) + change^2 (256)
        work[column] = change[column] * change[column] + change[column + half] * change[column + half]
    return _sum_of(work, half)


@kernel
def sum_of_magnitudes(change: Any, work: Any) -> Any:
    """Return the sum of the magnitudes of a block, added up by halves."""
    half = BLOCK // 2
    for column in range(half):  # work (256) <- |change| (256) + |change| (256)
        work[column] = abs(change[column]) + abs(change[column + half])
    return _sum_of(work, half)


@kernel
def _sum_of(work: Any, width: int) -> Any:
    half = width // 2
    while half > 0:
        for column in range(half):  # work (half) <- work (half) + work (half)
            work[column] += work[column + half]
        half //= 2
    return work[0]


@kernel
def clamped(code: Any, low: Any, high: Any) -> Any:
    """Return a code within a range; 0 for not-a-number."""
    code = np.float32(0.0) if code != code else code
    code = low if code < low else code
    return high if code > high else code
