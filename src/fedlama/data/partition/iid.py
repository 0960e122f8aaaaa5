"""Split the rows at random into equal parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.trees import samples
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.partition.base import Labels, Partition, as_labels, check_counts


def iid(labels: Labels, clients: int, seed: int) -> Partition:
    """Shuffle all rows and cut them into equal parts.

    Args:
        labels: One integer per row; only their number matters.
        clients: Number of clients.
        seed: The run's seed.

    Returns:
        One int64 array of row numbers per client; sizes differ by at most one.

    Raises:
        DataError: If the labels are not one integer per row.
        ConfigError: If there are fewer rows than clients.

    Deviation: flwr-datasets' IidPartitioner cuts the rows in their stored order, so its parts are i.i.d. only if
    the data are shuffled; here they are always shuffled.

    >>> [part.tolist() for part in iid([0, 0, 1, 1, 1], clients=2, seed=0)]
    [[2, 4, 1], [3, 0]]
    """
    rows = len(as_labels(labels))
    check_counts(rows, clients, 1)
    return [part.astype(np.int64) for part in np.array_split(permutation(seed, "partition", rows), clients)]


@register("partition")
@dataclass(frozen=True)
class IID:
    """Split the rows evenly at random; see :func:`iid`.

    Args:
        clients: Number of clients.
    """

    name: ClassVar[str] = "iid"
    clients: int

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "clients", minimum=1))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the rows of every client; see :meth:`fedlama.data.partition.base.Partitioner.split`."""
        rows = samples(dataset.train_x, dataset.name)  # targets may be of any kind
        return iid(np.zeros(rows, np.int64), self.clients, seed)
