"""Split sorted rows into shards: each client has only a few classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.partition.base import Labels, Partition, as_labels, check_counts, labels_of


def shards(labels: Labels, clients: int, seed: int, *, shards_per_client: int = 2) -> Partition:
    """Sort the rows by class, cut them into equal shards, and give the shards to clients at random.

    Args:
        labels: One class per row.
        clients: Number of clients.
        seed: The run's seed.
        shards_per_client: Number of shards of each client.

    Returns:
        One int64 array of row numbers per client; sizes differ by at most ``shards_per_client``.

    Raises:
        DataError: If the labels are not one integer per row.
        ConfigError: If there are fewer rows than shards.

    Source: McMahan et al., AISTATS 2017, section 3. Deviations: the order inside a class is shuffled first (the paper
    keeps the stored order), and when the rows do not divide evenly the first shards are one row longer, so that no
    row is lost; flwr-datasets' ShardPartitioner drops or appends the remainder by an option.
    """
    classes = as_labels(labels)
    check_counts(len(classes), clients, shards_per_client, setting="shards_per_client")
    mixed = permutation(seed, "partition", len(classes), 0)
    in_order = mixed[np.argsort(classes[mixed], kind="stable")]
    pieces = np.array_split(in_order, clients * shards_per_client)
    hands = permutation(seed, "partition", len(pieces), 1).reshape(clients, shards_per_client)
    return [np.concatenate([pieces[piece] for piece in hand]).astype(np.int64) for hand in hands]


@register("partition")
@dataclass(frozen=True)
class Shards:
    """Sort by class, cut into equal shards and give each client a few; see :func:`shards`.

    Args:
        clients: Number of clients.
        shards_per_client: Shards of each client, which is about the number of its classes.
    """

    name: ClassVar[str] = "shards"
    clients: int
    shards_per_client: int = 2

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "clients", "shards_per_client", minimum=1))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the rows of every client; see :meth:`fedlama.data.partition.base.Partitioner.split`."""
        return shards(labels_of(dataset), self.clients, seed, shards_per_client=self.shards_per_client)
