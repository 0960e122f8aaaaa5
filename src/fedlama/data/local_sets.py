"""Samples that a client holds back: its own validation and test set, by which its own model can be judged.

This is the contract between data and evaluation. A source of clients that has such sets defines
``held_out(client, part)``; :func:`held_out` asks any source, and returns None where it has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.trees import Tree, pick, samples
from fedlama.errors import DataError

Part = Literal["validation", "test"]
"""Which of a client's own sets."""
PARTS: tuple[Part, ...] = ("validation", "test")
BATCH = 500
"""Samples of a batch of a local set; evaluation needs no gradients, so it is large."""


class LocalSets(Protocol):
    """A source whose clients hold samples back."""

    def held_out(self, client: int, part: Part) -> Iterator[Tree] | None:
        """Return a client's own set as batches in stored order, prepared as for training but not augmented.

        The batches are new tensors on the CPU, and the same at every call.

        Args:
            client: The client's number.
            part: ``"validation"`` or ``"test"``.

        Returns:
            Batches of up to 500 samples; None where the client has no such set.
        """


def held_out(source: object, client: int, part: Part) -> Iterator[Tree] | None:
    """Return a client's own set as batches, as :meth:`LocalSets.held_out` does; None where the source has no such sets.

    Args:
        source: Any source of clients.
        client: The client's number.
        part: ``"validation"`` or ``"test"``.
    """
    give: Callable[[int, Part], Iterator[Tree] | None] | None = getattr(source, "held_out", None)
    return None if give is None else give(client, part)


@dataclass(frozen=True, eq=False)
class LocalRows:
    """The clients' own sets of one part, as rows of shared tensors.

    Args:
        x: Inputs of all clients: a tensor of shape (rows, ...), or a nested structure of such tensors.
        y: Targets likewise; None where `x` holds whole batches.
        rows: For each client the row numbers of its own set, int64 (samples,); empty where it has none.

    Raises:
        DataError: A row does not exist.
    """

    x: Tree
    y: Tree | None
    rows: Sequence[NDArray[np.int64]]

    def __post_init__(self) -> None:
        count = samples(self.x, "the held-out inputs")
        for client, mine in enumerate(self.rows):
            if len(mine) and (mine.min() < 0 or mine.max() >= count):
                raise DataError(
                    f"client {client} holds out row {mine.max()}, but there are {count} rows; correct the row numbers"
                )

    def batches(self, client: int) -> Iterator[tuple[Tree, Tree | None]] | None:
        """Return a client's inputs and targets in batches of copies; None where it has none."""
        mine = self.rows[client]
        if not len(mine):
            return None
        parts = [torch.from_numpy(mine[start : start + BATCH]) for start in range(0, len(mine), BATCH)]
        return ((pick(self.x, part), None if self.y is None else pick(self.y, part)) for part in parts)


def rows_of_groups(
    groups: NDArray[np.int64], test_groups: NDArray[np.int64], partition: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]] | None:
    """Return each client's test rows, those of its natural groups; None where a group is on several clients.

    Args:
        groups: The group of each training row, int64 (rows,).
        test_groups: The group of each test row, int64 (test rows,).
        partition: The training rows of each client.

    >>> rows_of_groups(np.array([4, 4, 7]), np.array([7, 4, 9]), [np.array([0, 1]), np.array([2])])
    [array([1]), array([0])]
    >>> rows_of_groups(np.array([4, 4]), np.array([4]), [np.array([0]), np.array([1])]) is None
    True
    """
    names, owners = [], []
    for client, rows in enumerate(partition):
        present = np.unique(groups[rows])
        names.append(present)
        owners.append(np.full(len(present), client))
    known, owner = np.concatenate(names), np.concatenate(owners)
    order = np.argsort(known, kind="stable")
    known, owner = known[order], owner[order]
    if (np.diff(known) == 0).any():
        return None
    position = np.searchsorted(known, test_groups).clip(max=len(known) - 1)
    of_row = np.where(known[position] == test_groups, owner[position], -1)
    return [np.flatnonzero(of_row == client) for client in range(len(partition))]
