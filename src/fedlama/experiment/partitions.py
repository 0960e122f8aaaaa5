"""The `[partition]` section of an experiment: which rows belong to which client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fedlama.core.validation import at_least, refuse
from fedlama.data import partition
from fedlama.data.arrays import Dataset
from fedlama.errors import ConfigError

Rows = list[NDArray[np.int64]]


class Partitioner(Protocol):
    """Settings that can split a data set."""

    name: ClassVar[str]

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Rows:
        """Return the training rows of every client."""


@dataclass(frozen=True)
class IID:
    """Deal the rows out evenly at random.

    Args:
        clients: Number of clients.
    """

    name: ClassVar[str] = "iid"
    clients: int

    def __post_init__(self) -> None:
        refuse(at_least(self, 1, "clients"))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Rows:
        """Split the data set."""
        return partition.iid(_labels(dataset), self.clients, seed)


@dataclass(frozen=True)
class Dirichlet:
    """Deal each class out by proportions from Dirichlet(alpha), as the paper does.

    Args:
        clients: Number of clients.
        alpha: Concentration; the smaller, the more the clients differ.
        min_size: Draw again until every client has so many rows; None for one batch, and 10 at the least.
        balancing: No more rows for clients that already hold their even share.
    """

    name: ClassVar[str] = "dirichlet"
    clients: int
    alpha: float = 0.5
    min_size: int | None = None
    balancing: bool = True

    def __post_init__(self) -> None:
        refuse(at_least(self, 1, "clients") + at_least(self, 1e-6, "alpha"))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Rows:
        """Split the data set."""
        smallest = max(10, batch_size) if self.min_size is None else self.min_size
        return partition.dirichlet(
            _labels(dataset), self.clients, seed, alpha=self.alpha, min_size=smallest, balancing=self.balancing
        )


@dataclass(frozen=True)
class Shards:
    """Sort by class, cut into equal shards and give each client a few.

    Args:
        clients: Number of clients.
        shards_per_client: Shards, so about the number of classes, of each client.
    """

    name: ClassVar[str] = "shards"
    clients: int
    shards_per_client: int = 2

    def __post_init__(self) -> None:
        refuse(at_least(self, 1, "clients", "shards_per_client"))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Rows:
        """Split the data set."""
        return partition.shards(_labels(dataset), self.clients, seed, shards_per_client=self.shards_per_client)


@dataclass(frozen=True)
class Natural:
    """Keep the data set's own clients: writers, speakers, users.

    Args:
        clients: How many of them; None for all that are large enough.
        min_size: Smallest number of rows; None for one batch.
        surplus: What becomes of the rows of those left out: ``"drop"``, or ``"merge"`` into the others.
    """

    name: ClassVar[str] = "natural"
    clients: int | None = None
    min_size: int | None = None
    surplus: Literal["drop", "merge"] = "drop"

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Rows:
        """Split the data set.

        Raises:
            ConfigError: It does not tell who its rows come from.
        """
        if dataset.groups is None:
            raise ConfigError(
                f"partition.name is 'natural', but the data set {dataset.name!r} does not tell which client its rows "
                "come from; choose 'dirichlet', 'iid' or 'shards', or a data set with writers, speakers or groups"
            )
        smallest = batch_size if self.min_size is None else self.min_size
        return partition.natural(dataset.groups, self.clients, seed, min_size=smallest, surplus=self.surplus)


def _labels(dataset: Dataset) -> NDArray[np.int64]:
    """Return one label per row; a sequence is labelled by its first target."""
    y = dataset.train_y
    labels: NDArray[np.int64] = (y if y.ndim == 1 else y[:, 0]).numpy()
    return labels
