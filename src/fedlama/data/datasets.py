"""Clients whose samples are read one by one: data sets of PyTorch, of Hugging Face, dicts of arrays, a user's own.

A local step reads the samples of its batch with ``dataset[i]`` and joins them with a collate function. Which samples,
and in which order, is drawn as for tensors, so the same data give the same batches in both forms. What a data set draws
at random itself, such as crops, it draws by the address (seed, client, step): a batch never depends on the batches
before it, and a run that is resumed, or computed by another engine, gets the same ones.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FunctionType, MethodType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import ConcatDataset, DataLoader

from fedlama.core.content import content_digest
from fedlama.core.description import describe, import_path
from fedlama.core.global_generators import addressed_generators
from fedlama.core.randomness import permutation, seed_of
from fedlama.core.registry import is_ours
from fedlama.core.trees import Tree, leaves, named_leaves, words
from fedlama.data.clients import Batch, as_batch, pooled_batch_size
from fedlama.data.local_sets import BATCH, PARTS, Part
from fedlama.data.map_datasets import MapDataset, as_map, check_loader, read_samples
from fedlama.data.samples import stacked
from fedlama.errors import ConfigError, DataError, FedlamaError, cut

Collate = Callable[[Any], Any]
"""Makes a batch of a list of samples."""
_REMEMBERED = 128
"""Number of clients whose latest order is remembered; a bound, because a population may be of any size."""
_LOOKED_AT = 16
"""Number of clients whose first batch is read before training, and of samples whose content describes the data."""


class DatasetClients:
    """Clients whose samples are read one by one.

    Args:
        datasets: One for each client: any object with ``len()`` and ``dataset[i]``, such as a
            ``torch.utils.data.Dataset``, a ``torch.utils.data.Subset`` or a ``datasets.Dataset``; a dict of arrays; or
            a pandas frame. A row of a dict or a frame is a dict of its columns.
        batch_size: Samples per local step: one number, or one for each client.
        collate_fn: Makes a batch of a list of samples, all tensors of which have as many rows as there are samples; by
            default they are stacked, see :func:`fedlama.data.samples.stacked`.
        drop_last: Whether the samples that are left over at the end of an epoch are left out, so that all batches have
            the same number of samples. Others are left out in the next epoch.
        validation: For each client a data set to judge its model by, or None; see :mod:`fedlama.data.local_sets`.
        test: Likewise.
        short_clients: Whether clients with fewer samples than a batch train on short batches; if not, they are refused.

    Raises:
        DataError: A client without samples or with too few, or batches that are not tensors with the same number of
            samples.
    """

    pure_batches: ClassVar[bool] = True

    def __init__(
        self,
        datasets: Sequence[Any],
        batch_size: int | Sequence[int],
        *,
        collate_fn: Collate | Sequence[Collate] | None = None,
        drop_last: bool = False,
        validation: Sequence[Any] | None = None,
        test: Sequence[Any] | None = None,
        short_clients: bool = False,
    ) -> None:
        if not len(datasets):
            raise DataError("there are no clients; give at least one data set")
        self._datasets = [as_map(given, f"client {client}") for client, given in enumerate(datasets)]
        self._sizes = [len(dataset) for dataset in self._datasets]
        self.batch_sizes = [operator.index(size) for size in _for_each("batch sizes", batch_size, len(datasets))]
        self._collate: list[Collate] = _for_each("collate functions", collate_fn or stacked, len(datasets))
        self.drop_last = bool(drop_last)
        self._local = {
            part: [
                None if given_set is None else as_map(given_set, f"client {client}, {part} set")
                for client, given_set in enumerate(_for_each(f"{part} sets", given, len(datasets)))
            ]
            for part, given in zip(PARTS, (validation, test), strict=True)
            if given is not None
        }
        self._orders: dict[int, tuple[int, int, NDArray[np.int64]]] = {}
        self._check(short_clients)

    @classmethod
    def of_loaders(cls, loaders: Sequence[DataLoader[Any]]) -> DatasetClients:
        """Return clients with the data sets, batch sizes, collate functions and `drop_last` of loaders.

        The order of the samples is drawn from the run's seed, whatever the loaders' `shuffle` is, and samples are read
        in this process, whatever their `num_workers` is.

        Args:
            loaders: One for each client, without a sampler of its own.

        Raises:
            DataError: A loader has a sampler of its own, no batch size, or data without numbers.
        """
        for client, loader in enumerate(loaders):
            check_loader(client, loader)
        kinds = {loader.drop_last for loader in loaders}
        if len(kinds) > 1:
            raise DataError("some DataLoaders have drop_last=True and others False; give all of them the same")
        return cls(
            [loader.dataset for loader in loaders],
            [loader.batch_size or 0 for loader in loaders],
            collate_fn=[loader.collate_fn for loader in loaders],
            drop_last=kinds.pop(),
            short_clients=True,  # as a DataLoader gives them
        )

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self._datasets)

    def pooled(self, batch_size: int | None = None) -> DatasetClients:
        """Return one client that has the samples of all; see :meth:`fedlama.data.clients.PoolableClients.pooled`."""
        if len({id(collate) for collate in self._collate}) > 1:
            raise ConfigError(
                "the clients have different collate functions, expected one for the pooled data; give all of them the "
                "same"
            )
        together: Any = self._datasets  # of any class with the methods of torch's
        return DatasetClients(
            [ConcatDataset(together)],
            pooled_batch_size(self.batch_sizes, batch_size),
            collate_fn=self._collate[0],
            drop_last=self.drop_last,
            short_clients=True,
        )

    def samples(self, client: int) -> int:
        """Return the length of the client's data set."""
        return self._sizes[client]

    def batches_per_epoch(self, client: int) -> int:
        """Return the number of local steps in one epoch of the client."""
        whole, left = divmod(self._sizes[client], self.batch_sizes[client])
        return max(whole, 1) if self.drop_last or not left else whole + 1

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Read and collate one batch; see :meth:`fedlama.data.clients.ClientSource.batch`.

        Raises:
            DataError: A sample cannot be read, or the collate function fails or returns something else than tensors
                with the same number of samples.
        """
        epoch, position = divmod(step, self.batches_per_epoch(client))
        start = position * self.batch_sizes[client]
        with addressed_generators(seed_of(seed, "samples", client, step)):
            rows = self._order(client, epoch, seed)[start : start + self.batch_sizes[client]].tolist()
            return _collated(f"client {client}, batch {step}", self._datasets[client], self._collate[client], rows)

    def held_out(self, client: int, part: Part) -> Iterator[Batch] | None:
        """Return a client's own set as batches; see :meth:`fedlama.data.local_sets.LocalSets.held_out`."""
        dataset = self._local[part][client] if part in self._local else None
        if dataset is None or not len(dataset):
            return None
        return self._read(f"client {client}, {part} set", dataset, self._collate[client])

    def __describe__(self) -> dict[str, object]:
        """Return what a run's description says of the clients; the content of a few samples stands for all."""
        sizes, kinds = set(self.batch_sizes), sorted({import_path(type(dataset)) for dataset in self._datasets})
        return {
            "samples": sum(self._sizes),
            "sizes": describe(np.array(self._sizes))["digest"],
            "batch_size": sizes.pop() if len(sizes) == 1 else describe(np.array(self.batch_sizes))["digest"],
            "drop_last": self.drop_last,
            "collate_fn": sorted({str(_described(collate)) for collate in self._collate}),
            "datasets": kinds,
            "data": {"first samples": self._digest()},
        }

    def _digest(self) -> str:
        """Return a digest of the first samples of some clients, as their collate functions give them."""
        digest = hashlib.sha256()
        for client in _spread(len(self), _LOOKED_AT):
            rows = list(range(min(self._sizes[client], self.batch_sizes[client])))
            where = f"client {client}, samples 0 to {rows[-1]}"
            with addressed_generators(0):
                batch = _collated(where, self._datasets[client], self._collate[client], rows)
            for name, leaf in named_leaves(batch).items():
                digest.update(f"{client}{name}{content_digest(leaf)}".encode())
        return digest.hexdigest()

    def _order(self, client: int, epoch: int, seed: int) -> NDArray[np.int64]:
        """Return the order of the samples in an epoch, at the same address as for clients of tensors."""
        known = self._orders.get(client)
        if known is None or known[:2] != (seed, epoch):
            known = (seed, epoch, permutation(seed, "shuffle", self._sizes[client], client, epoch))
            while len(self._orders) >= _REMEMBERED:
                self._orders.pop(next(iter(self._orders)), None)
            self._orders[client] = known  # a pure function is remembered, so results do not depend on this
        return known[2]

    def _read(self, where: str, dataset: MapDataset, collate: Collate) -> Iterator[Batch]:
        for start in range(0, len(dataset), BATCH):
            with addressed_generators(0):
                rows = list(range(start, min(start + BATCH, len(dataset))))
                batch = _collated(where, dataset, collate, rows)
            yield batch

    def _check(self, short_clients: bool) -> None:
        """Refuse clients that cannot train, and look at the first batches."""
        for client, (size, batch) in enumerate(zip(self._sizes, self.batch_sizes, strict=True)):
            if batch < 1:
                raise DataError(f"client {client}: batch_size is {batch}, expected 1 or more; raise it")
            if not size:
                raise DataError(f"client {client} has no samples; leave it out or give it some")
            if size < batch and not short_clients:
                raise DataError(
                    f"client {client} has {size} samples, fewer than one batch of {batch}; lower batch_size, merge "
                    "small clients, or allow short batches with DatasetClients(..., short_clients=True)"
                )
        first: Batch | None = None
        for client in _spread(len(self), _LOOKED_AT):
            batch_of_client = self.batch(client, 0, 0)
            first = batch_of_client if first is None else first
            _check_alike(client, batch_of_client, first)


def collected(dataset: Any, collate_fn: Collate | None = None) -> Tree:  # noqa: ANN401
    """Return all samples of a data set as one batch in memory, such as for a test set.

    Args:
        dataset: As for :class:`DatasetClients`.
        collate_fn: Likewise.

    Raises:
        DataError: There are no samples, one cannot be read, or they do not make one batch.

    >>> collected({"x": np.zeros((3, 2)), "labels": [0, 1, 1]})["labels"]
    tensor([0, 1, 1])
    """
    samples = as_map(dataset, "the data set")
    if not len(samples):
        raise DataError("the data set has no samples; give some")
    with addressed_generators(0):
        return _collated("the data set", samples, collate_fn or stacked, list(range(len(samples))))


def _collated(where: str, dataset: MapDataset, collate: Collate, rows: list[int]) -> Batch:
    """Read some samples and join them.

    Args:
        where: Which batch it is, for messages.
        dataset: Gives the samples.
        collate: Joins them.
        rows: Numbers of the samples.
    """
    samples = read_samples(where, dataset, rows)
    try:
        given = collate(samples)
    except FedlamaError as error:
        raise DataError(str(error).replace("the batch", where, 1)) from error
    except Exception as error:
        raise DataError(
            f"{where}: the collate function failed on {len(samples)} samples: {type(error).__name__}: "
            f"{cut(error)}; correct it, or give another collate_fn"
        ) from error
    return _checked(where, as_batch(given, f"{where}: what the collate function returned"), len(rows))


def _for_each(what: str, given: Any, count: int) -> list[Any]:  # noqa: ANN401
    """Return a value for each client, of one for all or of a sequence."""
    if not isinstance(given, Sequence | np.ndarray):
        return [given] * count
    if len(given) != count:
        raise DataError(f"there are {count} clients but {len(given)} {what}; give one, or one per client")
    return list(given)


def _spread(count: int, most: int) -> list[int]:
    """Return up to `most` numbers below `count`, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()))


def _checked(where: str, batch: Batch, count: int) -> Batch:
    """Refuse a batch whose tensors disagree about the number of samples."""
    lengths = {leaf.shape[0] if leaf.dim() else None for leaf in leaves(batch)}
    if len(lengths) == 1 and not lengths & {None, 0}:
        return batch
    raise DataError(
        f"{where}: the collate function returned {words(batch) or 'no tensors'} for {count} samples, expected tensors "
        "with one row for each sample; correct collate_fn"
    )


def _check_alike(client: int, batch: Batch, first: Batch) -> None:
    """Refuse clients whose batches have other entries, dtypes or dimensions than those of client 0."""
    have, expected = (
        {name: (leaf.dim(), leaf.dtype) for name, leaf in named_leaves(tree).items()} for tree in (batch, first)
    )
    if have != expected:
        raise DataError(
            f"client {client} has batches of {words(batch)}, but client 0 of {words(first)}; give all clients the same "
            "entries, dtypes and numbers of dimensions"
        )


def _described(collate: Collate) -> object:
    """Return what a run's description says of a collate function: its code or path, not what it remembers."""
    if isinstance(collate, FunctionType | partial) or is_ours(type(collate)):
        return describe(collate, "clients.collate_fn")
    return import_path(collate.__func__ if isinstance(collate, MethodType) else type(collate))
