"""Positions that are chosen at random: those whose hashes are the smallest ones; see `random_k` among the codecs.

A hash is ``mixed(key ^ mixed(position))``, as in :func:`fedlama.core.randomness.keyed_halves`. The inner one is the
same for all clients. Most positions are decided by the first 31 bits of their hashes, called ranks here.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, fetch_ahead, is_aligned, put_vector, take_vector
from fedlama.kernels.drawing import almost_mixed, mixed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import floats, integers, load, offset
from fedlama.kernels.vectors import difference_of, first_lane, lanes_from, lanes_within, sum_of, where_below

RANK = 33
"""Bits of a hash that are not in its rank."""
_TILE = 8 * BLOCK
"""Positions whose inner hashes are in the nearest caches for one client after another."""
_USUAL = 2
"""More of sixteen hashes are seldom small: of 5 % in one of 25 groups."""


@kernel
def small_hashes(columns: Any, taken: Any, first: int, end: int, keys: Any, limit: Any) -> None:
    """Write which positions have a small hash, in ascending order.

    Args:
        columns: int64 (keys, room); overwritten. The first `room - 512` may be taken.
        taken: int64 (keys,): how many positions there are; -1 where they have no room. Overwritten.
        first: The first position.
        end: The position after the last one.
        keys: uint64 (keys,): what the hashes belong to.
        limit: int32: the largest rank that is small.
    """
    inner, ranks = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.float32)
    rows, room = integers(columns), columns.shape[1]
    taken[:] = 0
    for start in range(first, end, BLOCK):
        width = min(BLOCK, end - start)
        for position in range(BLOCK):  # inner (512)
            inner[position] = mixed(np.uint64(start + position))
        for number in range(len(keys)):
            key, count, row = keys[number], taken[number], offset(rows, number * room)
            if count < 0 or count > room - BLOCK:
                taken[number] = -1
                continue
            _rank(ranks.view(np.int32), inner, key)
            for group in range(0, width, LANES):  # columns (keys, room) <- ranks (512)
                lanes = lanes_within(floats(ranks), group, np.int32(0), limit)
                if group + LANES > width:
                    lanes &= (1 << (width - group)) - 1
                for _ in range(_USUAL):  # without a branch; what is written without a lane is overwritten
                    row[count] = start + group + first_lane(lanes)
                    count += lanes != 0
                    lanes &= lanes - 1
                while lanes != 0:
                    row[count] = start + group + first_lane(lanes)
                    count += 1
                    lanes &= lanes - 1
            taken[number] = count


@kernel
def write_hashes(hashes: Any, columns: Any, key: Any) -> None:
    """Write the hashes of positions.

    Args:
        hashes: uint64 (columns,); overwritten.
        columns: Positions, int64 (columns,).
        key: uint64: what the hashes belong to.
    """
    for number in range(len(columns)):  # hashes (columns) <- columns (columns)
        hashes[number] = mixed(key ^ mixed(np.uint64(columns[number])))


@kernel
def send_small(out: Any, change: Any, keys: Any, part: Any, bounds: Any, notes: Any, past_caches: bool) -> None:
    """Send the numbers of v = x - r + e whose positions have a small hash, and keep all others; for several clients.

    Hashing takes as long as loading the numbers, so both are done at the same time.

    Args:
        out: r + v where it is sent, r elsewhere; and v - v where it is sent, v elsewhere; float32 (clients, elements)
            each, of which some columns are overwritten.
        change: x, float32 (clients, elements); r, float32 (elements,); e, float32 (clients, elements).
        keys: uint64 (clients,): what the hashes belong to.
        part: The first column and the column after the last one.
        bounds: int32: numbers are sent whose ranks are below the first one. Positions with other ranks up to the second
            one are noted.
        notes: The noted positions, int64 (clients, room), of which the first `room - 512` may be taken; how many there
            are, int64 (clients,), -1 where they have no room; how many numbers were sent, int64 (clients,); and whether
            some were not finite, int64 (clients,). All are overwritten.
        past_caches: Whether results are written past the caches.
    """
    received, left = out
    values, reference, residual = change
    columns, taken, sent, infinite = notes
    taken[:], sent[:], infinite[:] = 0, 0, 0
    inner, ranks = np.empty(_TILE, np.uint64), np.empty(BLOCK, np.float32)
    for tile in range(part[0], part[1], _TILE):
        for position in range(_TILE):  # inner (4096)
            inner[position] = mixed(np.uint64(tile + position))
        for client in range(len(keys)):
            row = received[client], left[client], values[client], residual[client]
            for start in range(tile, min(tile + _TILE, part[1]), BLOCK):
                width = min(BLOCK, part[1] - start)
                fetch_ahead(row[2], row[3], start + BLOCK)
                _rank(ranks.view(np.int32), inner[start - tile : start - tile + BLOCK], keys[client])
                sent[client] += _below(ranks.view(np.int32), bounds[0], width)
                taken[client] = _note(columns[client], taken[client], ranks, bounds, start, width)
                infinite[client] |= _send(row, reference, ranks, bounds[0], start, width, past_caches)


@kernel
def _rank(ranks: Any, inner: Any, key: Any) -> None:
    """Write the first 31 bits of hashes, which the last step of `mixed` does not change."""
    for position in range(BLOCK):  # ranks (512) <- inner (512)
        ranks[position] = np.int32(almost_mixed(key ^ inner[position]) >> np.uint64(RANK))


@kernel
def _below(ranks: Any, low: Any, width: int) -> Any:
    """Return how many ranks are below a bound."""
    count = np.int32(0)
    for column in range(width):  # ranks (512)
        count += np.int32(ranks[column] < low)
    return count


@kernel
def _send(row: Any, reference: Any, ranks: Any, low: Any, start: int, width: int, past_caches: bool) -> bool:
    """Send v where the rank is below `low`, in some columns of one client; return whether some are not finite."""
    received, left, values, residual = row
    goal, rest, x, e = floats(received), floats(left), floats(values), floats(residual)
    streamed, lanes = past_caches and is_aligned(offset(goal, start)) and is_aligned(offset(rest, start)), 0
    for first in range(0, width, LANES):  # received, left (16) <- x, r, e (16)
        change, base = take_vector(x, floats(reference), e, start + first, width - first, True)
        q = where_below(load(floats(ranks), first), low, change)
        change = difference_of(change, q)  # infinity minus itself is not a number
        put_vector(rest, start + first, change, width - first, streamed)
        put_vector(goal, start + first, sum_of(base, q), width - first, streamed)
        lanes |= lanes_from(change, np.float32(np.inf))
    return lanes != 0


@kernel
def _note(columns: Any, taken: int, ranks: Any, bounds: Any, start: int, width: int) -> int:
    """Add the columns whose ranks are within bounds, and return how many there are then; -1 without room."""
    if taken < 0 or taken > len(columns) - BLOCK:
        return -1
    for group in range(0, width, LANES):  # columns (room) <- ranks (512)
        lanes = lanes_within(floats(ranks), group, bounds[0], bounds[1])
        while lanes != 0:  # seldom
            column = group + first_lane(lanes)
            if column < width:
                columns[taken] = start + column
                taken += 1
            lanes &= lanes - 1
    return taken
