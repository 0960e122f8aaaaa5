"""Which rows of one table are for training and which for testing: by a column, or by a share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedlama.core.randomness import permutation
from fedlama.errors import ConfigError, DataError, cut

Rows = NDArray[np.int64]


def check_share(share: float) -> list[str]:
    """Return the problem of a share of rows that is held out."""
    if 0 < share < 1:
        return []
    return [f"test_share is {share}, expected a share between 0 and 1; use one such as 0.2"]


def by_column(where: str, column: str, values: NDArray[np.object_], train: str, test: str) -> tuple[Rows, Rows]:
    """Return the training and the test rows, as a column names them; rows with other words are left out.

    Args:
        where: The file, for messages.
        column: The column's name.
        values: Its words, (rows,).
        train: The word of training rows.
        test: The word of test rows.

    Raises:
        DataError: One of the words is in no row.
    """
    parts = [np.flatnonzero(values == word) for word in (train, test)]
    for word, rows, setting in zip((train, test), parts, ("train", "test"), strict=True):
        if not len(rows):
            known = ", ".join(repr(cut(name, 40)) for name in sorted(set(values.tolist()))[:5])
            raise DataError(
                f"{where}: no row of {column!r} is {word!r} (it holds {known}); set data.{setting} to the word of the "
                f"{'training' if setting == 'train' else 'test'} rows"
            )
    return parts[0], parts[1]


def by_share(where: str, rows: int, share: float, groups: Rows | None = None) -> tuple[Rows, Rows]:
    """Return the training and the test rows of a random split, the same one in every run.

    Args:
        where: The file, for messages.
        rows: Number of rows.
        share: Share of the rows that is held out.
        groups: The group of each row, int64 (rows,): then the share is held out in every group, except groups of one
            row, which train.

    Raises:
        DataError: No row is left for one of the parts.

    >>> [part.tolist() for part in by_share("toy.csv", 6, 0.5, np.array([0, 0, 0, 0, 1, 1]))]
    [[1, 3, 4], [0, 2, 5]]
    """
    of_row = np.zeros(rows, dtype=np.int64) if groups is None else groups
    test = []
    for group in np.unique(of_row).tolist():
        mine = np.flatnonzero(of_row == group)
        count = min(max(round(len(mine) * share), 1), len(mine) - 1)
        test.append(mine[permutation(0, "held out rows", len(mine), group)[:count]])
    held = np.sort(np.concatenate(test))
    if not len(held):
        raise DataError(f"{where}: no group has two rows, so none can be held out for testing; add rows, or name them")
    return np.setdiff1d(np.arange(rows), held), held


def one_way(**given: object) -> None:
    """Refuse several settings that each say which rows are for testing.

    Raises:
        ConfigError: More than one of them is not None.
    """
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1:
        raise ConfigError(f"{' and '.join(named)} both say which rows are for testing; leave out {named[-1]}")
