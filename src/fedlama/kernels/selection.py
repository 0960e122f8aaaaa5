"""Which numbers a sparse codec sends, by partial selection: nothing is sorted.

See :mod:`fedlama.choices.codecs.top_k` and `random_k`. The largest numbers of a row are chosen among candidates: those
that reach a bound, which a sample of the row gives, and which are noted in the pass that computes the differences. If
the sample misled, so that there are fewer candidates than wanted, the digits of all numbers are counted instead. So
the sample decides how long it takes, and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, fetch_ahead, is_aligned, put_vector, take_change, take_vector
from fedlama.kernels.drawing import mixed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import floats, integers, prefetch, store
from fedlama.kernels.vectors import first_lane, full, lanes_from, sum_of

_DIGIT, _REST = 12, 7
"""A magnitude has 31 bits: two digits of 12 bits, and the 7 last ones."""
_BINS = 1 << _DIGIT
_INFINITE, _LARGEST = 0x7F800000, 0x7F7FFFFF
_LEAST = np.float32(1e-45)
_SAMPLES, _AHEAD = 2048, 16
"""Vectors in a sample, up to twice as many; and how many of them are loaded at the same time."""
NO_BOUND = np.float32(np.inf)


@kernel
def keep_changes(
    received: Any, left: Any, values: Any, reference: Any, residual: Any, bound: Any, past_caches: bool
) -> Any:
    """Set what is left to v = x - r + e, and what arrives to r, as if nothing was sent; note large magnitudes.

    Args:
        received: r, float32 (columns,); overwritten.
        left: v, float32 (columns,); overwritten.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        bound: float32: magnitudes from which on numbers are noted; what is not a number is noted too.
        past_caches: Whether results are written past the caches.

    Returns:
        The columns of the noted numbers, int64 (noted,), ascending, and the numbers, float32 (noted,).
    """
    columns, numbers = np.empty(len(values), np.int64), np.empty(len(values), np.float32)
    noted_columns, noted_numbers, noted = integers(columns), floats(numbers), 0
    lanes_of, nothing = np.empty(LANES, np.float32), full(np.float32(0.0))
    v = floats(lanes_of)
    goal, rest, x, r, e = floats(received), floats(left), floats(values), floats(reference), floats(residual)
    streamed = past_caches and is_aligned(goal) and is_aligned(rest)
    for start in range(0, len(values), BLOCK):
        fetch_ahead(values, residual, start + BLOCK)
        for first in range(start, min(start + BLOCK, len(values)), LANES):  # received, left (16) <- x, r, e (16)
            count = len(values) - first
            change, base = take_vector(x, r, e, first, count, len(residual) > 0)
            put_vector(rest, first, change, count, streamed)
            put_vector(goal, first, sum_of(base, nothing), count, streamed)  # as if a 0 arrived: -0 becomes 0
            store(v, 0, 0, change)
            lanes = lanes_from(change, bound)  # none of those after the last column, where v is 0
            lane = first_lane(lanes)  # without a branch; what is written without a lane is overwritten
            noted_columns[noted], noted_numbers[noted] = first + lane, v[lane]
            noted += lanes != 0
            lanes &= lanes - 1
            while lanes != 0:  # seldom: there is more than one of sixteen
                lane = first_lane(lanes)
                noted_columns[noted], noted_numbers[noted] = first + lane, v[lane]
                noted += 1
                lanes &= lanes - 1
    return columns[:noted].copy(), numbers[:noted].copy()


@kernel
def put(received: Any, left: Any, reference: Any, positions: Any, sent: Any) -> None:
    """Send numbers at some positions: r + q arrives there, and v - q is left.

    Args:
        received: float32 (columns,); r + q is written at the positions.
        left: v, float32 (columns,); v - q is written at the positions.
        reference: r, float32 (columns,).
        positions: int64 (positions,).
        sent: q, float32 (positions,).
    """
    goal, rest, r = floats(received), floats(left), floats(reference)
    for number in range(len(positions)):  # received, left (columns) <- sent (positions)
        column = positions[number]
        goal[column] = r[column] + sent[number]
        rest[column] -= sent[number]


@kernel
def likely_bound(values: Any, reference: Any, residual: Any, count: int) -> Any:
    """Return a magnitude that probably `count` numbers of v = x - r + e reach, and not many more.

    The sample has a vector of every block, or of every few ones of a long row, at a position that is hashed, so that no
    period of a tensor is followed.
    A quarter more than wanted, and six standard deviations, are for numbers that are like their neighbours.

    Args:
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        count: How many, 1 to `columns`.

    Returns:
        float32, finite and above 0; infinity where nearly all numbers would reach it.
    """
    stride = BLOCK * max(len(values) // (BLOCK * _SAMPLES), 1)
    blocks = len(values) // stride
    sizes, change, bound = np.empty(blocks * LANES, np.int64), np.empty(LANES, np.float32), np.empty(1, np.float32)
    bits, x, r, e = change.view(np.int32), floats(values), floats(reference), floats(residual)
    for block in range(blocks):
        ahead = _sampled(block + _AHEAD, stride)
        prefetch(x, ahead)
        prefetch(r, ahead)
        prefetch(e, ahead)
        take_change(change, values, reference, residual, _sampled(block, stride), LANES)
        for lane in range(LANES):  # sizes (blocks * 16) <- change (16)
            sizes[block * LANES + lane] = _magnitude(bits[lane])
    expected = count * len(sizes) / len(values)
    wanted = int(1.25 * expected + 6.0 * np.sqrt(expected) + 6.0)
    if wanted >= len(sizes):
        return NO_BOUND
    limit, _ = _limit_of(sizes, wanted)
    bound.view(np.int32)[0] = min(limit, _LARGEST)
    return max(bound[0], _LEAST)


@kernel
def _sampled(block: int, stride: int) -> Any:
    """Return the first column of a block's vector in the sample."""
    vector = mixed(np.uint64(block)) & np.uint64(BLOCK // LANES - 1)
    return block * stride + int(vector) * LANES


@kernel
def largest_candidates(columns: Any, numbers: Any, count: int) -> Any:
    """Return the columns of the largest magnitudes among candidates, and the numbers; of equal ones the first.

    Args:
        columns: int64 (candidates,), ascending.
        numbers: float32 (candidates,).
        count: How many, 1 to `candidates`.

    Returns:
        int64 (count,) and float32 (count,).
    """
    sizes, bits = np.empty(len(numbers), np.int64), numbers.view(np.int32)
    for candidate in range(len(numbers)):  # sizes (candidates) <- numbers (candidates)
        sizes[candidate] = _magnitude(bits[candidate])
    limit, ties = _limit_of(sizes, count)
    chosen = _chosen(sizes, limit, ties, count)
    return columns[chosen], numbers[chosen]


@kernel
def largest_positions(values: Any, count: int) -> Any:
    """Return the positions of the largest magnitudes in ascending order; of equal ones the first.

    What is not a number counts as infinite, and infinity as the largest finite number, as in the codec.

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
    limit, ties = _limit_of(sizes, count)
    return columns[_chosen(sizes, limit, ties, count)]


@kernel
def _magnitude(bits: Any) -> Any:
    """Return a number that orders magnitudes as the codec does."""
    magnitude = np.int64(bits) & 0x7FFFFFFF
    if magnitude >= _INFINITE:
        return np.int64(_LARGEST) if magnitude == _INFINITE else np.int64(_INFINITE)
    return magnitude


@kernel
def _limit_of(sizes: Any, count: int) -> Any:
    """Return the `count`-th largest of some magnitudes, and how many of those equal to it are needed."""
    counts, limit, wanted = np.zeros(_BINS, np.int64), 0, count
    for shift, digit_bits in ((_DIGIT + _REST, _DIGIT), (_REST, _DIGIT), (0, _REST)):
        counts[:] = 0
        for candidate in range(len(sizes)):  # counts (4096) <- sizes (candidates)
            if sizes[candidate] >> (shift + digit_bits) == limit:
                counts[(sizes[candidate] >> shift) & ((1 << digit_bits) - 1)] += 1
        digit, wanted = _last_digit(counts, wanted)
        limit = (limit << digit_bits) | digit
    return limit, wanted


@kernel
def _last_digit(counts: Any, wanted: int) -> Any:
    """Return the lowest digit that is needed to have enough numbers, and how many of those with it are needed."""
    digit = len(counts) - 1
    while counts[digit] < wanted:
        wanted -= counts[digit]
        digit -= 1
    return digit, wanted


@kernel
def _chosen(sizes: Any, limit: int, ties: int, count: int) -> Any:
    """Return the numbers of the candidates above the limit, and of the first ones of those at the limit."""
    out, taken = np.empty(count, np.int64), 0
    for candidate in range(len(sizes)):  # out (count) <- sizes (candidates)
        if sizes[candidate] > limit or (sizes[candidate] == limit and ties > 0):
            ties -= 1 if sizes[candidate] == limit else 0
            out[taken] = candidate
            taken += 1
    return out
