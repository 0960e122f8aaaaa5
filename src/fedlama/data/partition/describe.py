"""Describe a partition in numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedlama.data.partition.base import Labels, Partition, as_labels


@dataclass(frozen=True, eq=False)
class Description:
    """Sizes and label counts of a partition.

    Args:
        sizes: int64 (clients,), rows of each client.
        label_counts: int64 (clients, classes), rows of each class on each client.
        unused: Rows that belong to no client.
    """

    sizes: NDArray[np.int64]
    label_counts: NDArray[np.int64]
    unused: int

    @property
    def labels_per_client(self) -> NDArray[np.int64]:
        """Number of distinct labels of each client, int64 (clients,)."""
        distinct: NDArray[np.int64] = np.count_nonzero(self.label_counts, axis=1).astype(np.int64)
        return distinct

    def __str__(self) -> str:
        """Return the description in one line."""
        return (
            f"{len(self.sizes)} clients; rows min {self.sizes.min()}, median {np.median(self.sizes):g}, "
            f"max {self.sizes.max()}; labels per client min {self.labels_per_client.min()}, "
            f"median {np.median(self.labels_per_client):g}, max {self.labels_per_client.max()}; "
            f"{self.unused} rows unused"
        )


def describe(partition: Partition, labels: Labels) -> Description:
    """Count rows and labels per client.

    Args:
        partition: Row numbers per client.
        labels: One class per row of the whole training part.

    Returns:
        The description; ``str()`` of it is one readable line.

    Raises:
        DataError: If the labels are not one integer per row.

    >>> print(describe([np.array([0, 1]), np.array([2])], [0, 1, 1, 0]))
    2 clients; rows min 1, median 1.5, max 2; labels per client min 1, median 1.5, max 2; 1 rows unused
    """
    classes = as_labels(labels)
    count = int(classes.max()) + 1
    label_counts = np.stack([np.bincount(classes[rows], minlength=count) for rows in partition]).astype(np.int64)
    sizes = label_counts.sum(axis=1)
    return Description(sizes, label_counts, len(classes) - int(sizes.sum()))
