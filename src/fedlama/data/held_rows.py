"""Rows that clients keep out of training, for validation sets and local test sets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fedlama.core.randomness import permutation
from fedlama.errors import ConfigError

Rows = list[NDArray[np.int64]]
"""For each client the row numbers of its samples."""


def hold_out(
    rows: Sequence[NDArray[np.int64]], share: float, seed: int, purpose: str = "validation"
) -> tuple[Rows, Rows]:
    """Take a share of every client's rows out of training.

    The draw has an address of its own for each client, so it depends on nothing but these arguments.

    Args:
        rows: For each client the row numbers of its samples, int64 (samples,).
        share: How much of each client's rows to take, in [0, 1), rounded down to whole rows.
        seed: The run's seed.
        purpose: What the rows are for. Draws for other purposes are independent.

    Returns:
        For each client the rows that are left, in their order, and the rows that were taken, in ascending order of
        their positions.

    Raises:
        ConfigError: The share is out of range, or it takes no row of any client.

    >>> kept, held = hold_out([np.arange(10), np.arange(10, 15)], 0.2, seed=0)
    >>> [len(mine) for mine in kept], [len(mine) for mine in held]
    ([8, 4], [2, 1])
    """
    if not 0 <= share < 1:
        raise ConfigError(f"the share held out for {purpose} is {share}, expected 0 or more and below 1; use 0.1")
    kept, held = [], []
    for client, mine in enumerate(rows):
        taken = np.zeros(len(mine), dtype=np.bool_)
        count = math.floor(share * len(mine) + 1e-9)  # 0.29 * 100 is 28.999999999999996
        taken[permutation(seed, purpose, len(mine), client)[:count]] = True
        kept.append(mine[~taken])
        held.append(mine[taken])
    if share and not any(len(mine) for mine in held):
        largest = max(map(len, rows), default=0)
        raise ConfigError(
            f"the share held out for {purpose} is {share}, which takes 0 rows of each client (the largest has "
            f"{largest}); raise it"
        )
    return kept, held
