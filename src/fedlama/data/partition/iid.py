"""Deal the rows at random in equal parts."""

from __future__ import annotations

import numpy as np

from fedlama.core.randomness import permutation
from fedlama.data.partition.checks import Labels, Partition, as_labels, check_counts


def iid(labels: Labels, clients: int, seed: int) -> Partition:
    """Shuffle all rows and cut them into equal parts.

    Args:
        labels: One integer per row; only their number matters.
        clients: How many clients.
        seed: The run's seed.

    Returns:
        One int64 array of row numbers per client; sizes differ by at most one.

    Raises:
        DataError: If the labels are not one integer per row.
        ConfigError: If there are fewer rows than clients.

    Deviation: flwr-datasets' IidPartitioner cuts the rows in their stored order, and so is only i.i.d. for shuffled
    data; here they are always shuffled.

    >>> [part.tolist() for part in iid([0, 0, 1, 1, 1], clients=2, seed=0)]
    [[2, 4, 1], [3, 0]]
    """
    rows = len(as_labels(labels))
    check_counts(rows, clients, 1)
    return [part.astype(np.int64) for part in np.array_split(permutation(seed, "partition", rows), clients)]
