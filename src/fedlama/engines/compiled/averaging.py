"""Mean and discrepancy of stacked clients in one pass over the memory, compiled."""

from __future__ import annotations

from typing import Any

from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import add_scaled, add_square, ahead, floats, load, one, plus, store
from fedlama.engines.compiled.table import LANES

BLOCK = 4096
"""Columns of a block: sixteen clients' fit the second-level cache, the mean's the first."""


@kernel
def average_columns(
    mean: int, stack: int, elements: int, clients: int, weights: Any, measure: bool, first: int, last: int, room: Any
) -> float:
    """Average some columns over the clients and return sum_i p_i ||x_i - u||^2 over them.

    Each block is fetched from memory once: it is averaged, and compared with its mean while it is still in the cache.

    Args:
        mean: Address of u, float32 (elements,); the columns are written.
        stack: Address of x_i, float32 (clients, elements).
        elements: Of one client.
        clients: How many.
        weights: p_i, float32 (clients,).
        measure: Whether the discrepancy is wanted; else 0 is returned.
        first: The first column.
        last: The first column after them.
        room: float32 scratch of 16 elements.
    """
    rows, lanes, shares = floats(stack), floats(room.ctypes.data), floats(weights.ctypes.data)
    total = 0.0
    for start in range(first, last, BLOCK):
        width, to = min(BLOCK, last - start), ahead(floats(mean), start)
        full = width - width % LANES
        for column in range(width):
            to[column] = 0.0
        for client in range(clients):
            own = ahead(rows, client * elements + start)
            for column in range(0, full, LANES):
                store(to, column, 0, add_scaled(load(to, column), shares, client, 0, load(own, column)))
            for column in range(full, width):
                to[column] += shares[client] * own[column]
        for client in range(clients if measure else 0):
            own, apart = ahead(rows, client * elements + start), one()
            for column in range(0, full, LANES):
                apart = add_square(apart, plus(load(own, column), load(to, column), -1.0))
            store(lanes, 0, 0, apart)
            squares = 0.0
            for lane in range(LANES):
                squares += lanes[lane]
            for column in range(full, width):
                squares += (own[column] - to[column]) ** 2
            total += shares[client] * squares
    return total
