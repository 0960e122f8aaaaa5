"""Mean, discrepancy and write-back of stacked clients, and norms, each in one pass over the memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import floats, floats_at, load, offset, prefetch, store, stream, tile
from fedlama.kernels.vectors import add_product, full, plus, total

BLOCK = 8192
"""Columns of a block, whose mean stays in the cache while the clients' rows are read."""
AHEAD = 1024
"""Columns by which memory is requested in advance: the processor itself looks no further than the end of a page."""


@kernel
def average_columns(out: Any, stack: int, apart: int, weights: Any, measure: bool) -> float:
    """Average columns over the clients and return sum_i p_i ||x_i - u||^2 over them.

    Every number is read from memory once, row after row: with W the weight so far, each row moves the mean by
    (p / W) (x - u) and adds p (1 - p / W) (x - u)^2 (West, "Updating mean and variance estimates", CACM 1979). Nothing
    cancels, and equal rows give their own value and exactly 0. Going down the columns of all rows at once would be
    several times slower where their distance is a multiple of a power of two, as layers' sizes are.

    Args:
        out: u, float32 (columns,); overwritten.
        stack: Address of x_i, float32 (clients, columns), rows `apart` elements apart.
        apart: Elements from one row to the next.
        weights: p_i, float32 (clients,), with a sum of 1.
        measure: Whether the discrepancy is wanted; else 0 is returned.
    """
    sum_, columns, clients, mean = 0.0, len(out), len(weights), floats(out)
    for start in range(0, columns, BLOCK):
        width, to = min(BLOCK, columns - start), offset(mean, start)
        for column in range(width):
            to[column] = 0.0
        before, client = 0.0, _next(weights, -1)
        while client < clients:
            other = _next(weights, client)
            row = offset(floats_at(stack + 4 * client * apart, columns), start)
            step, before = weights[client] / (before + weights[client]), before + weights[client]
            count = weights[client] * (1.0 - step) if measure else 0.0
            if other == clients:
                sum_ += _fold(to, row, width, np.float32(step), np.float32(count))
                break
            second = offset(floats_at(stack + 4 * other * apart, columns), start)
            step_second, before = weights[other] / (before + weights[other]), before + weights[other]
            count_second = weights[other] * (1.0 - step_second) if measure else 0.0
            steps, counts = (np.float32(step), np.float32(step_second)), (np.float32(count), np.float32(count_second))
            sum_ += _fold_two(to, row, second, width, steps, counts)
            client = _next(weights, other)
    return sum_


@kernel
def _next(weights: Any, client: int) -> int:
    """Return the next client that has a weight; rows of the others are not read."""
    client += 1
    while client < len(weights) and weights[client] == 0.0:
        client += 1
    return client


@kernel
def _fold(mean: Any, row: Any, width: int, step: Any, count: Any) -> Any:
    """Move the mean towards a row; return `count` times their squared distance before."""
    moves, apart = full(step), tile(1, 1)
    for column in range(0, width - width % LANES, LANES):  # mean (16) <- row (16)
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
    """Do the same with two rows, one after the other, while each column is in registers."""
    moves, moves_other, apart, apart_other = full(steps[0]), full(steps[1]), tile(1, 1), tile(1, 1)
    for column in range(0, width - width % LANES, LANES):  # mean (16) <- row (16), then other (16)
        prefetch(row, column + AHEAD)
        prefetch(other, column + AHEAD)
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
def set_columns(stack: int, apart: int, clients: int, value: Any) -> None:
    """Set columns of every client to one value, past the caches: the rows need not be read to be overwritten.

    Args:
        stack: Address of x_i, float32 (clients, columns), rows `apart` elements apart; overwritten.
        apart: Elements from one row to the next.
        clients: How many.
        value: float32 (columns,).
    """
    columns, source = len(value), floats(value)
    for start in range(0, columns, BLOCK):
        end = min(start + BLOCK, columns)
        for client in range(clients):
            row = floats_at(stack + 4 * client * apart, columns)
            # Elements up to the next multiple of 64 bytes, and those after the last one, go the usual way.
            before = min(-((stack // 4 + client * apart + start) % -LANES), end - start)
            aligned = start + before + (end - start - before) // LANES * LANES
            for column in range(start, start + before):
                row[column] = source[column]
            for column in range(start + before, aligned, LANES):  # row (16) <- source (16)
                stream(row, column, load(source, column))
            for column in range(aligned, end):
                row[column] = source[column]


@kernel
def squares(new: Any, old: Any) -> tuple[float, float]:
    """Return the sums of (x - y)^2 and of y^2, each element read from memory once.

    Args:
        new: x, float32 (elements,).
        old: y, float32 (elements,).
    """
    sum_apart, sum_old = 0.0, 0.0
    for start in range(0, len(new), BLOCK):
        width, x, y = min(BLOCK, len(new) - start), offset(floats(new), start), offset(floats(old), start)
        apart, size = tile(1, 1), tile(1, 1)
        for column in range(0, width - width % LANES, LANES):  # apart, size (16) += x (16), y (16)
            prefetch(x, column + AHEAD)
            prefetch(y, column + AHEAD)
            value = load(y, column)
            difference = plus(load(x, column), value, np.float32(-1.0))
            apart, size = add_product(apart, difference, difference), add_product(size, value, value)
        sum_apart += total(apart)
        sum_old += total(size)
        for column in range(width - width % LANES, width):
            sum_apart += (x[column] - y[column]) ** 2
            sum_old += y[column] ** 2
    return sum_apart, sum_old
