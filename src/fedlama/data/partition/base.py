"""The contract of the `[partition]` section, the types that all partitions share, and what they check first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlama.data.arrays import Dataset
from fedlama.errors import ConfigError, DataError, shown

Labels: TypeAlias = Tensor | NDArray[np.integer] | Sequence[int]
"""One integer per training row."""

Partition: TypeAlias = list[NDArray[np.int64]]
"""One array of row numbers per client."""


class Partitioner(Protocol):
    """Settings that can split a data set over clients.

    An implementation is a frozen dataclass whose fields are the settings.
    """

    name: ClassVar[str]

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the training rows of every client.

        Args:
            dataset: The data set.
            seed: The run's seed; the same seed gives the same rows.
            batch_size: Samples per local step, the smallest number of rows that a client can train on.

        Returns:
            One int64 array of row numbers per client. Experiments also take other sequences of integers, and boolean
            masks over all rows.

        Raises:
            ConfigError: The settings do not fit the data set.
        """


def labels_of(dataset: Dataset) -> NDArray[np.int64]:
    """Return one label per training row, int64 (N,); a sequence counts as its first target.

    Raises:
        ConfigError: The targets are measurements.
    """
    y = dataset.train_y
    if not dataset.classes:
        raise ConfigError(
            f"the partition splits by classes, but the targets of {dataset.name!r} are measurements; set "
            "partition.name to 'iid', or to 'natural' for data with groups"
        )
    labels: NDArray[np.int64] = (y if y.ndim == 1 else y[:, 0]).numpy()
    return labels


def as_labels(labels: Labels, what: str = "labels") -> NDArray[np.int64]:
    """Convert labels to an int64 array.

    Args:
        labels: One integer per row, as tensor, array or sequence.
        what: Their name in messages.

    Returns:
        int64 array of shape (N,).

    Raises:
        DataError: If they are not one integer per row, or there are none.
    """
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1 or len(array) == 0:
        raise DataError(f"{what} have shape {array.shape}, expected (rows,): one integer for each row; give them so")
    if not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} are {array.dtype}, expected integers; number the names first, with numpy.unique")
    return array.astype(np.int64)


def concentration_problems(setting: str, value: object) -> list[str]:
    """Return the problem of a concentration of Dirichlet's distribution that is not a finite number above 0.

    Args:
        setting: What it is called where the user sets it.
        value: The concentration.
    """
    if isinstance(value, int | float | np.integer | np.floating) and value > 0 and np.isfinite(value):
        return []
    return [
        f"{setting} is {shown(value)}, expected one finite number above 0; use a larger one, or iid() for equal clients"
    ]


def whole_problems(setting: str, value: object) -> list[str]:
    """Return the problem of a number of rows, clients or classes that is not a whole number.

    Args:
        setting: What it is called where the user sets it.
        value: The number.

    >>> whole_problems("labels_per_client", 1.5)
    ['labels_per_client is 1.5, expected a whole number; use one such as 2']
    """
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return []
    return [f"{setting} is {shown(value)}, expected a whole number; use one such as 2"]


def check_counts(
    rows: int, clients: int, min_size: int, extra: Sequence[str] = (), *, setting: str = "min_size"
) -> None:
    """Refuse counts that no partition can satisfy.

    Args:
        rows: Number of training rows.
        clients: Number of clients.
        min_size: Smallest number of rows of a client.
        extra: Problems that the caller found already, to be reported together.
        setting: What `min_size` is called where the user sets it.

    Raises:
        ConfigError: With all problems found.
    """
    wrong = whole_problems("clients", clients), whole_problems(setting, min_size)
    problems = [*extra, *wrong[0], *wrong[1]]
    if not wrong[0] and clients < 1:
        problems.append(f"clients is {clients}, expected at least 1; raise it")
    if not wrong[1] and min_size < 1:
        problems.append(f"{setting} is {min_size}, expected at least 1: a client without rows cannot train; raise it")
    if not problems and clients * min_size > rows:
        smaller = f" or a smaller {setting}" if min_size > 1 else ""
        problems.append(
            f"{clients} clients with at least {min_size} rows each need {clients * min_size} rows, but there are "
            f"{rows}; use fewer clients{smaller}"
        )
    if problems:
        raise ConfigError(problems)
