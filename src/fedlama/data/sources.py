"""What a user may hand over as the clients of a federation, and the source of batches that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from fedlama.core.trees import Tree, cat, named_leaves
from fedlama.core.trees import samples as samples_of
from fedlama.data.clients import Batch, ClientData, ClientSource, ReplayedClients, TensorClients, check_targets
from fedlama.data.datasets import DatasetClients
from fedlama.data.local_sets import LocalRows, Part
from fedlama.data.map_datasets import is_dataset
from fedlama.errors import DataError, shown

Clients = ClientSource | Sequence[ClientData] | Sequence["DataLoader[Any]"] | Sequence[Iterable[Batch]]
"""What a user may hand over as clients."""


def as_source(clients: Clients) -> ClientSource:
    """Accept what a user may hand over as clients.

    Args:
        clients: A ready source, a list of :class:`ClientData`, a list of loaders of PyTorch, or a list of iterables of
            batches.

    Returns:
        The source.

    Raises:
        DataError: The list is empty or mixes kinds, or its data sets have no batch size.
    """
    if not isinstance(clients, Sequence):
        if all(hasattr(clients, name) for name in ("__len__", "samples", "batch")):
            return clients
        remedy = "give list(clients.values())" if isinstance(clients, Mapping) else "give a list"
        raise DataError(
            f"clients is {shown(type(clients).__name__)}, expected a list of fedlama.ClientData or of "
            f"DataLoaders, a list of iterables of batches, or a source such as fedlama.DatasetClients; {remedy}"
        )
    if not clients:
        raise DataError("there are no clients; give at least one")
    tensors = [given for given in clients if isinstance(given, ClientData)]
    loaders = [given for given in clients if _is_loader(given)]
    named = [f"client {client}" for client, given in enumerate(clients) if is_dataset(given)]
    if len(tensors) == len(clients):
        return _of_tensors(tensors)
    if loaders and len(loaders) == len(clients):
        return DatasetClients.of_loaders(cast("Sequence[DataLoader[Any]]", loaders))
    if tensors or loaders or (named and len(named) < len(clients)):
        kinds = sorted({_form(given) for given in clients})
        raise DataError(f"the clients mix {' and '.join(kinds)}; give all of them in one form")
    if named:
        raise DataError(
            f"the clients are data sets of the type {type(clients[0]).__name__}, expected a number of samples per "
            "local step too; give clients=fedlama.DatasetClients(clients, batch_size=16)"
        )
    return ReplayedClients(cast("Sequence[Iterable[Batch]]", clients))


def _form(given: object) -> str:
    known = isinstance(given, ClientData) or _is_loader(given) or is_dataset(given)
    return type(given).__name__ if known else "iterables of batches"


def _is_loader(given: object) -> bool:
    """Return whether a client is a loader of numbered samples; one that reads a stream is replayed."""
    return isinstance(given, DataLoader) and not isinstance(given.dataset, IterableDataset)


def _of_tensors(clients: Sequence[ClientData]) -> TensorClients:
    """Return the source of clients whose samples are tensors."""
    for number, client in enumerate(clients):
        check_targets(f"client {number} has", client.x, client.y, "give one for each input")
        _check_alike("inputs", number, client.x, clients[0].x)
        _check_alike("targets", number, client.y, clients[0].y)
    x, rows = _joined([client.x for client in clients])
    y = None if clients[0].y is None else cat([client.y for client in clients])
    local: dict[Part, list[Tree | None]] = {
        "validation": [client.validation for client in clients],
        "test": [client.test for client in clients],
    }
    sets = {part: _local_rows(part, given) for part, given in local.items() if any(tree is not None for tree in given)}
    return TensorClients(x, y, rows, [client.batch_size for client in clients], local_sets=sets)


def _local_rows(part: Part, given: Sequence[Tree | None]) -> LocalRows:
    """Return the clients' own sets of a part, joined."""
    present = [(client, tree) for client, tree in enumerate(given) if tree is not None]
    for client, tree in present:
        samples_of(tree, f"client {client}, {part} set")
        _check_alike(f"{part} sets", client, tree, present[0][1])
    joined, rows = _joined([tree for _, tree in present])
    by_client = dict(zip([client for client, _ in present], rows, strict=True))
    none = np.empty(0, dtype=np.int64)
    x, y = joined if type(joined) is tuple and len(joined) == 2 else (joined, None)
    return LocalRows(x, y, [by_client.get(client, none) for client in range(len(given))])


def _joined(trees: Sequence[Tree]) -> tuple[Tree, list[NDArray[np.int64]]]:
    """Return trees one after another, and the row numbers of each."""
    ends = np.cumsum([0] + [samples_of(tree, f"client {number}") for number, tree in enumerate(trees)])
    return cat(trees), [np.arange(start, end) for start, end in pairwise(ends)]


def _check_alike(kind: str, number: int, mine: Tree | None, first: Tree | None) -> None:
    """Refuse a client whose tensors have another structure, shape or dtype than those of client 0."""
    have, expected = ({} if part is None else named_leaves(part) for part in (mine, first))
    if list(have) != list(expected):
        raise DataError(
            f"client {number} has {kind} {', '.join(have) or 'of None'}, but client 0 has "
            f"{', '.join(expected) or 'None'}; give all clients one structure"
        )
    for name, leaf in have.items():
        other = expected[name]
        if leaf.shape[1:] != other.shape[1:] or leaf.dtype != other.dtype:
            entry = "" if name == "tensor" else f" {name}"
            raise DataError(
                f"client {number} has {kind}{entry} of shape {tuple(leaf.shape[1:])} ({leaf.dtype}), but client 0 has "
                f"{tuple(other.shape[1:])} ({other.dtype}); give all clients one shape and dtype"
            )
