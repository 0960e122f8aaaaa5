"""Split each class in shares drawn from a Dirichlet distribution, the usual model of label skew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlama.core.randomness import generator
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.partition.base import Labels, Partition, as_labels, check_counts, concentration_problems, labels_of
from fedlama.errors import ConfigError

ATTEMPTS = 10_000
"""Draws to try before giving up."""


def dirichlet(
    labels: Labels, clients: int, seed: int, *, alpha: float, min_size: int = 10, balancing: bool = True
) -> Partition:
    """Split every class over the clients in shares p ~ Dir(alpha, ..., alpha).

    Args:
        labels: One class per row.
        clients: Number of clients.
        seed: The run's seed.
        alpha: Concentration; 0.1 gives each client a few classes, 100 is nearly i.i.d.
        min_size: Repeat the whole draw until the smallest client has this many rows.
        balancing: Give no more rows to a client that already has its even share, rows / clients.

    Returns:
        One shuffled int64 array of row numbers per client.

    Raises:
        DataError: If the labels are not one integer per row.
        ConfigError: If settings are impossible, or no draw reached ``min_size``.

    Source: the generator of FedML (used for the partitions of the FedLAMA experiments), after Hsu, Qi and Brown,
    2019, arXiv:1909.06335. Deviations: randomness by address, so the lists differ from those of FedML and of
    flwr-datasets' DirichletPartitioner (same procedure, ``self_balancing``) at equal seeds, though not in
    distribution; the rows are shuffled once, after the sizes have been accepted, instead of at each attempt; attempts
    are bounded.
    """
    classes = as_labels(labels)
    check_counts(len(classes), clients, min_size, concentration_problems("alpha", alpha))
    counts = np.unique(classes, return_counts=True)[1]
    smallest = 0
    for attempt in range(ATTEMPTS):
        random = generator(seed, "partition", attempt)
        sizes = _draw_sizes(random, counts, clients, alpha, balancing)
        if sizes is None:
            continue
        least = int(sizes.sum(axis=0).min())
        if least >= min_size:
            return _deal(random, classes, sizes)
        smallest = max(smallest, least)
    raise ConfigError(
        f"no Dirichlet draw in {ATTEMPTS} attempts gave each of {clients} clients {min_size} of {len(classes)} rows at "
        f"alpha={alpha} (the best draw left one with {smallest}); "
        "use a larger alpha, fewer clients or a smaller min_size"
    )


def _draw_sizes(
    random: np.random.Generator, counts: NDArray[np.int64], clients: int, alpha: float, balancing: bool
) -> NDArray[np.int64] | None:
    """Draw the number of rows of each class on each client, int64 (classes, clients); None if a draw degenerated."""
    full = counts.sum() / clients
    held = np.zeros(clients, dtype=np.int64)
    sizes = np.empty((len(counts), clients), dtype=np.int64)
    for row, count in enumerate(counts):
        share = random.dirichlet(np.full(clients, alpha))
        if balancing:
            share = share * (held < full)
        total = share.sum()
        if not total > 0:  # with tiny alphas, all of the distribution may be on clients that are full already
            return None
        ends = (np.cumsum(share / total) * count).astype(np.int64)
        ends[-1] = count
        sizes[row] = np.diff(ends, prepend=0)
        held += sizes[row]
    return sizes


def _deal(random: np.random.Generator, classes: NDArray[np.int64], sizes: NDArray[np.int64]) -> Partition:
    clients = sizes.shape[1]
    owner = np.empty(len(classes), dtype=np.int64)
    for label, row_sizes in zip(np.unique(classes), sizes, strict=True):
        rows = random.permutation(np.flatnonzero(classes == label))
        owner[rows] = np.repeat(np.arange(clients), row_sizes)
    return [random.permutation(np.flatnonzero(owner == client)) for client in range(clients)]


@register("partition")
@dataclass(frozen=True)
class Dirichlet:
    """Split each class by proportions from Dirichlet(alpha), as the paper does; see :func:`dirichlet`.

    Args:
        clients: Number of clients.
        alpha: Concentration; the smaller, the more the clients differ.
        min_size: Repeat the draw until every client has this many rows; None for one batch, but at least 10.
        balancing: No more rows for clients that already hold their even share.
    """

    name: ClassVar[str] = "dirichlet"
    clients: int
    alpha: float = 0.5
    min_size: int | None = None
    balancing: bool = True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "clients", minimum=1) + at_least(self, 1e-6, "alpha")
        refuse(problems + (whole(self, "min_size", minimum=1) if self.min_size is not None else []))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the rows of every client; see :meth:`fedlama.data.partition.base.Partitioner.split`."""
        smallest = max(10, batch_size) if self.min_size is None else self.min_size
        return dirichlet(
            labels_of(dataset), self.clients, seed, alpha=self.alpha, min_size=smallest, balancing=self.balancing
        )
