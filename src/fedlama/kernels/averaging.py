"""Mean, discrepancy and write-back of stacked clients, and norms, each in one pass over the memory, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import add_product, ahead, ahead_of_need, floats, full, load, one, plus, store, stream, total
from fedlama.kernels.table import LANES

BLOCK = 8192
"""Columns of a block, whose mean stays in the cache while the clients' rows stream by."""
AHEAD = 1024
"""Columns that memory is asked for in advance: the processor itself looks no further than the end of a page."""


@kernel
def average_columns(
    mean: int, stack: int, elements: int, clients: int, weights: Any, measure: bool, first: int, last: int
) -> float:
    """Average some columns over the clients and return sum_i p_i ||x_i - u||^2 over them.

    Every number is fetched from memory once, row after row: with W the weight so far, each row moves the mean by
    (p / W) (x - u) and adds p (1 - p / W) (x - u)^2 (West, "Updating mean and variance estimates", CACM 1979). Nothing
    cancels, and equal rows give their own value and exactly 0. Going down the columns of all rows at once would be
    several times slower where their distance is a multiple of a power of two, as layers' sizes are.

    Args:
        mean: Address of u, float32 (elements,); the columns are written.
        stack: Address of x_i, float32 (clients, elements).
        elements: Of one client.
        clients: How many.
        weights: p_i, float32 (clients,), with a sum of 1.
        measure: Whether the discrepancy is wanted; else 0 is returned.
        first: The first column.
        last: The first column after them.
    """
    sum_ = 0.0
    for start in range(first, last, BLOCK):
        width, to = min(BLOCK, last - start), ahead(floats(mean), start)
        for column in range(width):
            to[column] = 0.0
        before, client = 0.0, _next(weights, -1)
        while client < clients:
            other = _next(weights, client)
            own = ahead(floats(stack), client * elements + start)
            step, before = weights[client] / (before + weights[client]), before + weights[client]
            count = weights[client] * (1.0 - step) if measure else 0.0
            if other == clients:
                sum_ += _fold(to, own, width, np.float32(step), np.float32(count))
                break
            beside = ahead(floats(stack), other * elements + start)
            step_beside, before = weights[other] / (before + weights[other]), before + weights[other]
            count_beside = weights[other] * (1.0 - step_beside) if measure else 0.0
            steps, counts = (np.float32(step), np.float32(step_beside)), (np.float32(count), np.float32(count_beside))
            sum_ += _fold_two(to, own, beside, width, steps, counts)
            client = _next(weights, other)
    return sum_


@kernel
def _next(weights: Any, client: int) -> int:
    """Return the next client that has a weight: what others sent is not looked at."""
    client += 1
    while client < len(weights) and weights[client] == 0.0:
        client += 1
    return client


@kernel
def _fold(mean: Any, row: Any, width: int, step: Any, count: Any) -> Any:
    """Move the mean towards a row; return `count` times their squared distance before."""
    moves, apart = full(step), one()
    for column in range(0, width - width % LANES, LANES):
        value = load(mean, column)
        difference = plus(load(row, column), value, np.float32(-1.0))
        store(mean, column, 0, add_product(value, difference, moves))
        apart = add_product(apart, difference, difference)
    rest = total(apart)
    for column in range(width - width % LANES, width):
        difference = row[column] - mean[column]
        mean[column] += step * difference
        rest += difference * difference
    return count * rest


@kernel
def _fold_two(mean: Any, row: Any, other: Any, width: int, steps: Any, counts: Any) -> Any:
    """Do the same with two rows, one after the other, on the way once."""
    moves, moves_other, apart, apart_other = full(steps[0]), full(steps[1]), one(), one()
    for column in range(0, width - width % LANES, LANES):
        ahead_of_need(row, column + AHEAD)
        ahead_of_need(other, column + AHEAD)
        value = load(mean, column)
        difference = plus(load(row, column), value, np.float32(-1.0))
        value = add_product(value, difference, moves)
        apart = add_product(apart, difference, difference)
        difference = plus(load(other, column), value, np.float32(-1.0))
        store(mean, column, 0, add_product(value, difference, moves_other))
        apart_other = add_product(apart_other, difference, difference)
    rest, rest_other = total(apart), total(apart_other)
    for column in range(width - width % LANES, width):
        difference = row[column] - mean[column]
        mean[column] += steps[0] * difference
        rest += difference * difference
        difference = other[column] - mean[column]
        mean[column] += steps[1] * difference
        rest_other += difference * difference
    return counts[0] * rest + counts[1] * rest_other


@kernel
def set_columns(stack: int, value: int, elements: int, clients: int, first: int, last: int) -> None:
    """Set some columns of every client to one value, past the caches: the rows need not be fetched to be overwritten.

    Args:
        stack: Address of x_i, float32 (clients, elements); overwritten.
        value: Address of the value, float32 (elements,).
        elements: Of one client.
        clients: How many.
        first: The first column.
        last: The first column after them.
    """
    rows, source = floats(stack), floats(value)
    for start in range(first, last, BLOCK):
        end = min(start + BLOCK, last)
        for client in range(clients):
            row = client * elements
            # Elements up to the next multiple of 64 bytes, and those after the last one, go the usual way.
            before = min(-((stack // 4 + row + start) % -LANES), end - start)
            aligned = start + before + (end - start - before) // LANES * LANES
            for column in range(start, start + before):
                rows[row + column] = source[column]
            for column in range(start + before, aligned, LANES):
                stream(rows, row + column, load(source, column))
            for column in range(aligned, end):
                rows[row + column] = source[column]


@kernel
def squares(now: int, before: int, elements: int) -> tuple[float, float]:
    """Return the sums of (x - y)^2 and of y^2, each element fetched from memory once.

    Args:
        now: Address of x, float32.
        before: Address of y, float32.
        elements: How many there are.
    """
    sum_apart, sum_before = 0.0, 0.0
    for start in range(0, elements, BLOCK):
        width, x, y = min(BLOCK, elements - start), ahead(floats(now), start), ahead(floats(before), start)
        apart, size = one(), one()
        for column in range(0, width - width % LANES, LANES):
            ahead_of_need(x, column + AHEAD)
            ahead_of_need(y, column + AHEAD)
            value = load(y, column)
            difference = plus(load(x, column), value, np.float32(-1.0))
            apart, size = add_product(apart, difference, difference), add_product(size, value, value)
        sum_apart += total(apart)
        sum_before += total(size)
        for column in range(width - width % LANES, width):
            sum_apart += (x[column] - y[column]) ** 2
            sum_before += y[column] ** 2
    return sum_apart, sum_before
