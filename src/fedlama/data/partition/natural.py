"""Keep the natural clients of the data: writers, speakers, users."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np

from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.partition.base import Labels, Partition, as_labels, check_counts
from fedlama.errors import ConfigError


def natural(
    groups: Labels,
    clients: int | None = None,
    seed: int = 0,
    *,
    min_size: int = 1,
    surplus: Literal["drop", "merge"] = "drop",
) -> Partition:
    """Make one client from each natural group, in ascending order of the groups' numbers.

    Args:
        groups: The group of each row, such as ``Dataset.groups``.
        clients: None for one client per group; otherwise this number, made from the groups as ``surplus`` says.
        seed: Decides which groups are drawn or how they are merged; unused when ``clients`` is None.
        min_size: Groups with fewer rows are left out: their rows belong to no client.
        surplus: What to do with more groups than clients. ``"drop"`` draws ``clients`` groups at random and leaves
            the rest out; ``"merge"`` gives whole groups to the clients at random, so that their numbers of groups
            differ by at most one.

    Returns:
        One ascending int64 array of row numbers per client. The group of client c is ``groups[partition[c][0]]``
        unless merged; `describe` counts the rows left out.

    Raises:
        DataError: If the groups are not one integer per row.
        ConfigError: If fewer groups than clients are large enough.

    Deviation: flwr-datasets' NaturalIdPartitioner keeps every group, whatever its size.

    >>> [part.tolist() for part in natural([7, 3, 7, 9, 3], min_size=2)]
    [[1, 4], [0, 2]]
    """
    of_row = as_labels(groups, "groups")
    check_counts(len(of_row), 1 if clients is None else clients, min_size)
    if surplus not in ("drop", "merge"):
        raise ConfigError(f"surplus is {surplus!r}, expected 'drop' or 'merge'; choose one of them")
    names, index, counts = np.unique(of_row, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(counts >= min_size)
    wanted = len(kept) if clients is None else clients
    if wanted > len(kept) or len(kept) == 0:
        raise ConfigError(
            f"clients is {max(wanted, 1)}, but only {len(kept)} of {len(names)} groups have {min_size} rows or "
            f"more (the largest has {counts.max()}); use fewer clients or a smaller min_size"
        )
    client_of_group = np.full(len(names), -1, dtype=np.int64)
    mixed = kept[permutation(seed, "partition", len(kept))]
    if surplus == "merge" and wanted < len(kept):
        client_of_group[mixed] = np.arange(len(kept)) % wanted
    else:
        client_of_group[np.sort(mixed[:wanted])] = np.arange(wanted)
    owner = client_of_group[index]
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(wanted + 1))
    return [order[start:stop].astype(np.int64) for start, stop in pairwise(ends)]


@register("partition")
@dataclass(frozen=True)
class Natural:
    """Keep the data set's own clients: writers, speakers, users; see :func:`natural`.

    Args:
        clients: How many of them; None for all that are large enough.
        min_size: Smallest number of rows; None for one batch.
        surplus: What becomes of the rows of the clients left out: ``"drop"``, or ``"merge"`` into the others.
    """

    name: ClassVar[str] = "natural"
    clients: int | None = None
    min_size: int | None = None
    surplus: Literal["drop", "merge"] = "drop"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        given = [name for name in ("clients", "min_size") if getattr(self, name) is not None]
        refuse(whole(self, *given, minimum=1) + one_of(self, "surplus", ("drop", "merge")))

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return the rows of every client; see :meth:`fedlama.data.partition.base.Partitioner.split`.

        Raises:
            ConfigError: The data set does not say which client its rows come from.
        """
        if dataset.groups is None:
            raise ConfigError(
                f"partition.name is 'natural', but the data set {dataset.name!r} does not say which client its rows "
                "come from; choose 'dirichlet', 'iid' or 'shards', or a data set with writers, speakers or groups"
            )
        smallest = batch_size if self.min_size is None else self.min_size
        return natural(dataset.groups, self.clients, seed, min_size=smallest, surplus=self.surplus)
