"""The two label-skewed partitions of NIID-Bench with its own random numbers, as published splits are made.

Source: Li, Diao, Chen and He, "Federated Learning on Non-IID Data Silos: An Experimental Study", ICDE 2022, and its
program, which many later papers took over, FedLPA (Liu et al., NeurIPS 2024) among them. The draws are those of NumPy's
legacy generator and of Python's `random`, so that a published partition is reproduced row for row. For a new experiment
:mod:`~fedlama.data.partition.dirichlet` and :mod:`~fedlama.data.partition.shards` are as good, with random numbers that
depend on their address alone.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from fedlama.core.registry import register
from fedlama.core.validation import at_least, check_seed, normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.partition.base import (
    Labels,
    Partition,
    as_labels,
    check_counts,
    concentration_problems,
    labels_of,
    whole_problems,
)
from fedlama.errors import ConfigError, DataError

ATTEMPTS = 10_000
"""Draws to try before giving up."""
_LARGEST_SEED = 2**32 - 1


def niid_dirichlet(labels: Labels, clients: int, seed: int, *, beta: float, min_size: int = 10) -> Partition:
    """Split every class over the clients in shares p ~ Dir(beta, ..., beta), with NIID-Bench's random numbers.

    A client that has its even share gets no more rows, and the draw is repeated until all have `min_size`.

    Args:
        labels: One class per row; classes are numbered from 0.
        clients: Number of clients.
        seed: Seed of NumPy's legacy generator, below 2^32.
        beta: Concentration.
        min_size: The fewest rows of a client.

    Returns:
        One int64 array of row numbers per client.

    Raises:
        DataError: If the labels are not one integer of 0 or more per row.
        ConfigError: If settings are impossible, or no draw reached `min_size`.
    """
    classes = _numbered(labels)
    check_counts(len(classes), clients, min_size, concentration_problems("beta", beta))
    _check_seed(seed)
    draw = np.random.RandomState(seed)
    for _ in range(ATTEMPTS):
        parts = _drawn(draw, classes, clients, beta)
        if parts is not None and min(map(len, parts)) >= min_size:
            for part in parts:
                draw.shuffle(part)
            return [np.array(part, dtype=np.int64) for part in parts]
    raise ConfigError(
        f"no draw in {ATTEMPTS} attempts gave each of {clients} clients {min_size} of {len(classes)} rows at "
        f"beta={beta}; use a larger beta, fewer clients or a smaller min_size"
    )


def _drawn(
    draw: np.random.RandomState, classes: NDArray[np.int64], clients: int, beta: float
) -> list[list[int]] | None:
    """Draw the rows of every client once; None if all of a class would go to clients that are full already."""
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in range(int(classes.max()) + 1):
        rows = np.flatnonzero(classes == label)
        draw.shuffle(rows)
        shares = draw.dirichlet(np.repeat(beta, clients))
        shares = shares * np.array([len(part) < len(classes) / clients for part in parts])
        if not shares.sum() > 0:
            return None
        ends = (np.cumsum(shares / shares.sum()) * len(rows)).astype(int)[:-1]
        parts = [part + more.tolist() for part, more in zip(parts, np.split(rows, ends), strict=True)]
    return parts


def niid_labels(labels: Labels, clients: int, seed: int, *, labels_per_client: int) -> Partition:
    """Give each client a number of classes (#C = k), and divide each class evenly over the clients that have it.

    Client i has class i mod K, and further ones at random.

    Args:
        labels: One class per row; classes are numbered from 0.
        clients: Number of clients, at least that of the classes.
        seed: Seed of Python's `random` for the classes, and of NumPy's legacy generator for the rows.
        labels_per_client: k, from 1 to the number of classes.

    Returns:
        One int64 array of row numbers per client.

    Raises:
        DataError: If the labels are not one integer of 0 or more per row.
        ConfigError: If settings are impossible.

    >>> [part.tolist() for part in niid_labels(np.array([0, 0, 1, 1, 1]), 2, seed=0, labels_per_client=1)]
    [[1, 0], [4, 2, 3]]
    """
    classes = _numbered(labels)
    count = int(classes.max()) + 1
    refuse(whole_problems("labels_per_client", labels_per_client) + whole_problems("clients", clients))
    if not 1 <= labels_per_client <= count:
        raise ConfigError(f"labels_per_client is {labels_per_client}, expected 1 to {count}, the number of classes")
    if clients < count:
        raise ConfigError(
            f"there are {clients} clients for {count} classes, so the rows of some could be left out; use {count} "
            "clients or more"
        )
    check_counts(len(classes), clients, 1)
    _check_seed(seed)
    choose, draw = random.Random(seed), np.random.RandomState(seed)
    held: list[list[int]] = []
    for client in range(clients):
        chosen = [client % count]
        while len(chosen) < labels_per_client:
            label = choose.randint(0, count - 1)
            if label not in chosen:
                chosen.append(label)
        held.append(chosen)
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in range(count):
        rows = np.flatnonzero(classes == label)
        draw.shuffle(rows)
        holders = [client for client in range(clients) if label in held[client]]
        for client, more in zip(holders, np.array_split(rows, len(holders)), strict=True):
            parts[client] += more.tolist()
    empty = [client for client, part in enumerate(parts) if not part]
    if empty:
        raise ConfigError(f"client {empty[0]} would have no rows; use fewer clients, or more labels_per_client")
    return [np.array(part, dtype=np.int64) for part in parts]


def _numbered(labels: Labels) -> NDArray[np.int64]:
    """Return the labels as an array; a negative one, whose rows would go to no client, is refused."""
    classes = as_labels(labels)
    if classes.min() < 0:
        raise DataError(
            f"the smallest label is {classes.min()}, expected 0 or more; number the classes first, with "
            "numpy.unique(labels, return_inverse=True)"
        )
    return classes


def _check_seed(seed: int) -> None:
    refuse(check_seed(seed))
    if not 0 <= seed <= _LARGEST_SEED:
        raise ConfigError(
            f"the seed is {seed}, but NumPy's legacy generator, which this partition draws from, takes 0 to "
            f"{_LARGEST_SEED}; use one in this range"
        )


@register("partition")
@dataclass(frozen=True)
class NiidDirichlet:
    """Split each class by proportions from Dirichlet(beta) as NIID-Bench draws them; see :func:`niid_dirichlet`.

    Args:
        clients: Number of clients.
        beta: Concentration; the smaller, the more the clients differ.
        min_size: The fewest rows of a client.
    """

    name: ClassVar[str] = "niid-dirichlet"
    clients: int
    beta: float = 0.5
    min_size: int = 10

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "clients", "min_size", minimum=1) + at_least(self, 1e-6, "beta"))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the rows of every client; see :meth:`fedlama.data.partition.base.Partitioner.split`."""
        return niid_dirichlet(labels_of(dataset), self.clients, seed, beta=self.beta, min_size=self.min_size)


@register("partition")
@dataclass(frozen=True)
class NiidLabels:
    """Give each client a number of classes as NIID-Bench draws them; see :func:`niid_labels`.

    Args:
        clients: Number of clients, at least that of the classes.
        labels_per_client: Classes of each client.
    """

    name: ClassVar[str] = "niid-labels"
    clients: int
    labels_per_client: int = 2

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "clients", "labels_per_client", minimum=1))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the rows of every client; see :meth:`fedlama.data.partition.base.Partitioner.split`."""
        return niid_labels(labels_of(dataset), self.clients, seed, labels_per_client=self.labels_per_client)
