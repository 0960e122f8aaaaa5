"""Which numbers a sparse codec sends, by partial selection: nothing is sorted.

See :mod:`fedlama.choices.codecs.top_k` and `random_k`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, take_change, write
from fedlama.kernels.drawing import mixed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import floats, offset

_DIGIT, _REST = 12, 7
"""A magnitude has 31 bits: two digits of 12 bits, and the 7 last ones."""
_BINS = 1 << _DIGIT
_INFINITE, _LARGEST = 0x7F800000, 0x7F7FFFFF


@kernel
def keep_changes(received: Any, left: Any, values: Any, reference: Any, residual: Any, past_caches: bool) -> None:
    """Set what is left of v = x - r + e to all of it, and what arrives to r, as if nothing was sent yet.

    Args:
        received: r, float32 (columns,); overwritten.
        left: v, float32 (columns,); overwritten.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        past_caches: Whether `received` is written past the caches; what is left is read again soon.
    """
    change, work = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, len(values), BLOCK):
        width = min(BLOCK, len(values) - start)
        take_change(change, values, reference, residual, start, width)
        r = offset(floats(reference), start)
        for column in range(width):  # work (512) <- reference (512)
            work[column] = r[column] + np.float32(0.0)  # as the sum of r and a 0 that arrives: -0 becomes 0
        write(offset(floats(left), start), floats(change), width, False)
        write(offset(floats(received), start), floats(work), width, past_caches)


@kernel
def largest_positions(values: Any, count: int) -> Any:
    """Return the positions of the largest magnitudes in ascending order; of equal ones the first.

    What is no number counts as infinite, and infinity as the largest number, as in the codec.

    Args:
        values: float32 (columns,).
        count: How many, 1 to `columns`.

    Returns:
        int64 (count,).
    """
    bits = values.view(np.int32)
    counts = np.zeros((2, _BINS), np.int64)
    for column in range(len(bits)):  # counts (2, 4096) <- bits (columns); two tables, since neighbours are often alike
        counts[column & 1, _magnitude(bits[column]) >> (_DIGIT + _REST)] += 1
    for digit in range(_BINS):
        counts[0, digit] += counts[1, digit]
    limit, wanted = _last_digit(counts[0], count)
    size = count - wanted + counts[0, limit]
    columns, sizes = np.empty(size, np.int64), np.empty(size, np.int64)
    lowest, taken = limit << (_DIGIT + _REST), 0
    for column in range(len(bits)):  # columns, sizes (size) <- bits (columns)
        magnitude = _magnitude(bits[column])
        if magnitude >= lowest:
            columns[taken], sizes[taken] = column, magnitude
            taken += 1
    for shift in (_REST, 0):
        counts[0, :] = 0
        for candidate in range(size):  # counts (4096) <- sizes (size)
            above = sizes[candidate] >> (shift + (_DIGIT if shift else _REST))
            if above == limit:
                digits = _BINS - 1 if shift else (1 << _REST) - 1
                counts[0, (sizes[candidate] >> shift) & digits] += 1
        digit, wanted = _last_digit(counts[0], wanted)
        limit = (limit << (_DIGIT if shift else _REST)) | digit
    return _chosen(columns, sizes, limit, wanted, count)


@kernel
def _magnitude(bits: Any) -> Any:
    """Return a number that orders magnitudes as the codec does."""
    magnitude = np.int64(bits) & 0x7FFFFFFF
    if magnitude >= _INFINITE:
        return np.int64(_LARGEST) if magnitude == _INFINITE else np.int64(_INFINITE)
    return magnitude


@kernel
def _last_digit(counts: Any, wanted: int) -> Any:
    """Return the lowest digit that is needed to have enough numbers, and how many of those with it are needed."""
    digit = len(counts) - 1
    while counts[digit] < wanted:
        wanted -= counts[digit]
        digit -= 1
    return digit, wanted


@kernel
def _chosen(columns: Any, sizes: Any, limit: int, ties: int, count: int) -> Any:
    """Return the columns above the limit, and the first ones of those at the limit."""
    out, taken = np.empty(count, np.int64), 0
    for candidate in range(len(columns)):  # out (count) <- columns (candidates)
        if sizes[candidate] > limit or (sizes[candidate] == limit and ties > 0):
            ties -= 1 if sizes[candidate] == limit else 0
            out[taken] = columns[candidate]
            taken += 1
    return out


@kernel
def small_hashes(columns: Any, hashes: Any, elements: int, key: Any, limit: Any) -> int:
    """Write which positions have a small hash, in ascending order, and their hashes.

    Args:
        columns: int64 (capacity,); overwritten.
        hashes: uint64 (capacity,); overwritten.
        elements: How many positions there are.
        key: uint64: what the hashes belong to.
        limit: uint64: the largest hash that is small.

    Returns:
        How many there are; at most the capacity are written.
    """
    block, taken = np.empty(BLOCK, np.uint64), 0
    for start in range(0, elements, BLOCK):
        width = min(BLOCK, elements - start)
        for position in range(width):  # block (512)
            block[position] = mixed(key ^ mixed(np.uint64(start + position)))
        for position in range(width):  # columns, hashes (capacity) <- block (512)
            if block[position] <= limit:
                if taken < len(columns):
                    columns[taken], hashes[taken] = start + position, block[position]
                taken += 1
    return taken
