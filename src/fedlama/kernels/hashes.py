"""Positions that are chosen at random: those whose hashes are the smallest ones; see `random_k` among the codecs.

A hash is ``mixed(key ^ mixed(position))``, as in :func:`fedlama.core.randomness.keyed_halves`. The inner one is the
same for all clients.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK
from fedlama.kernels.drawing import mixed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import integers, offset
from fedlama.kernels.vectors import first_lane, lanes_up_to

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
        limit: uint64: the largest hash that is small.
    """
    inner, hashes = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.int64)
    outer, rows, room = hashes.view(np.uint64), integers(columns), columns.shape[1]
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
            for position in range(BLOCK):  # outer (512) <- inner (512)
                outer[position] = mixed(key ^ inner[position])
            for group in range(0, width, LANES):  # columns (keys, room) <- outer (512)
                lanes = lanes_up_to(integers(hashes), group, limit)
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
def least_hashes(columns: Any, key: Any, low: Any, count: int) -> Any:
    """Return the positions with the smallest hashes, in the order in which they are given.

    Args:
        columns: Positions, int64 (columns,).
        key: uint64: what the hashes belong to.
        low: uint64: a hash that few of the positions exceed, and fewer than `count` are up to.
        count: How many are wanted.

    Returns:
        int64 (count,); empty if fewer than `count` positions are given, or more are up to `low`.
    """
    hashes, above = np.empty(len(columns), np.uint64), np.empty(len(columns), np.uint64)
    exceeding = 0
    for number in range(len(columns)):  # hashes, above (columns) <- columns (columns)
        hashes[number] = mixed(key ^ mixed(np.uint64(columns[number])))
        if hashes[number] > low:
            above[exceeding] = hashes[number]
            exceeding += 1
    wanted = count - (len(columns) - exceeding)
    if wanted < 0 or wanted > exceeding:
        return columns[:0].copy()
    highest = np.partition(above[:exceeding], wanted - 1)[wanted - 1] if wanted > 0 else low
    out, taken = np.empty(count, np.int64), 0
    for number in range(len(columns)):  # out (count) <- columns (columns)
        if hashes[number] <= highest:
            out[taken] = columns[number]
            taken += 1
    return out
