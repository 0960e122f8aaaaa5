"""Mean, discrepancy and write-back of stacked clients, each in one pass over the memory, compiled."""

from __future__ import annotations

from typing import Any

from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import add_product, ahead, floats, load, one, plus, spread, store, stream, times
from fedlama.engines.compiled.table import LANES

BLOCK = 4096
"""Columns of a block, whose mean stays in the cache while the clients' rows stream by."""


@kernel
def average_columns(
    mean: int, stack: int, elements: int, clients: int, weights: Any, measure: bool, first: int, last: int, room: Any
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
        room: float32 scratch of 32 elements.
    """
    lanes, coefficients = floats(room.ctypes.data), ahead(floats(room.ctypes.data), LANES)
    total = 0.0
    for start in range(first, last, BLOCK):
        width, to = min(BLOCK, last - start), ahead(floats(mean), start)
        full = width - width % LANES
        for column in range(width):
            to[column] = 0.0
        before = 0.0
        for client in range(clients):
            own, weight = ahead(floats(stack), client * elements + start), weights[client]
            if weight == 0.0:
                continue
            step = weight / (before + weight)
            coefficients[0], coefficients[1] = step, weight * (1.0 - step) if measure else 0.0
            before += weight
            moves, counts = spread(one(), coefficients, 0, 0), spread(one(), coefficients, 1, 0)
            apart = one()
            for column in range(0, full, LANES):
                value = load(to, column)
                difference = plus(load(own, column), value, -1.0)
                store(to, column, 0, add_product(value, difference, moves))
                apart = add_product(apart, times(difference, difference), counts)
            store(lanes, 0, 0, apart)
            for lane in range(LANES):
                total += lanes[lane]
            for column in range(full, width):
                rest = own[column] - to[column]
                to[column] += coefficients[0] * rest
                total += coefficients[1] * rest**2
    return total


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
