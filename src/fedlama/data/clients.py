"""The clients' data as an engine sees them: one batch for each client and local step.

Batch k of a client is a pure function of the seed, the client and k, so all engines get the same batches. A local epoch
is a permutation with its own random address, batches never cross an epoch, and the last batch of an epoch may be short.
A client that is not in the cohort does not advance its count of steps, so its epoch continues later where it stopped.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.core.content import data_facts
from fedlama.core.description import describe
from fedlama.core.devices import transform_on, upload
from fedlama.core.randomness import address, permutation, ranked
from fedlama.core.trees import Tree, as_tree, leaves, map_leaves, pick
from fedlama.core.trees import samples as samples_of
from fedlama.data.local_sets import PARTS, LocalRows, Part
from fedlama.data.samples import without_pandas
from fedlama.errors import ConfigError, DataError, shown

Batch = Tree
"""What one local step is trained on: inputs and targets as a pair, or any nested structure of tensors.

All its leaves have shape (batch, ...); see :mod:`fedlama.core.trees`.
"""
Prepare = Callable[[Any], Any]
"""Turns stored inputs of shape (batch, ...) into the model's input, such as uint8 pixels into standardised floats."""
_REMEMBERED = 128
"""Number of clients whose latest epoch is remembered; a bound, because a population may be of any size."""
Augment = Callable[[Tensor, NDArray[np.uint64]], Tensor]
"""Changes prepared inputs at random; it gets one 64-bit key per sample, from which all its randomness comes.

Keys are NumPy arrays in host memory, on whatever device the inputs are. An augmentation whose attribute `takes_tensors`
is true may get their int64 view instead, as a tensor on the device of the inputs: then one copy moves a round's keys.
"""
Keys = NDArray[np.uint64] | Tensor


@dataclass(frozen=True)
class ClientData:
    """One client's samples.

    Args:
        x: Inputs: a tensor of shape (samples, ...), or a nested structure of tensors with one row for each sample.
        y: Targets likewise; None where `x` holds whole batches, for instance a dict with labels.
        batch_size: Samples per local step.
        validation: The client's own validation set as one batch, (x, y) or a dict; None for none. See
            :mod:`fedlama.data.local_sets`.
        test: Its own test set, likewise.
    """

    x: Tree
    y: Tree | None
    batch_size: int
    validation: Tree | None = None
    test: Tree | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_samples(self.x))
        for name in ("y", *PARTS):
            given = getattr(self, name)
            object.__setattr__(self, name, None if given is None else as_samples(given))
        object.__setattr__(self, "batch_size", operator.index(self.batch_size))


class ClientSource(Protocol):
    """All clients of a federation, numbered from 0."""

    def __len__(self) -> int:
        """Return the number of clients."""

    def samples(self, client: int) -> int:
        """Return a client's number of training samples, n_i."""

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Return one batch of a client.

        A source whose batches are new tensors, which a model may overwrite, says so with a class attribute
        ``fresh_batches = True``; batches of other sources are copied. One that gives any batch at any time, as often as
        it is asked, says so with ``pure_batches = True``; of others every batch is asked for once, in order.

        Args:
            client: The client's number.
            step: Its local step, counted from 0 over the whole run.
            seed: The run's seed.
        """


def is_pure(source: ClientSource) -> bool:
    """Return whether any batch of a source can be asked for at any time; see :meth:`ClientSource.batch`."""
    return bool(getattr(source, "pure_batches", False))


def tensor_clients(source: ClientSource) -> TensorClients | None:
    """Return the clients of a source as rows of shared tensors, from which engines gather many batches at once.

    Args:
        source: Any source.

    Returns:
        The attribute `tensor_clients` of the source; None for one that gives out batches only.
    """
    tensors: TensorClients | None = getattr(source, "tensor_clients", None)
    return tensors


class _Batches(NamedTuple):
    """Where batches are in the epochs of their clients; all arrays are int64 (steps, clients).

    Attributes:
        epoch: The epoch.
        start: The first position of the batch in its epoch.
        lengths: Samples in the batch.
    """

    epoch: NDArray[np.int64]
    start: NDArray[np.int64]
    lengths: NDArray[np.int64]


@runtime_checkable
class PoolableClients(ClientSource, Protocol):
    """A source of clients whose samples can be put together."""

    batch_sizes: list[int]

    def batches_per_epoch(self, client: int) -> int:
        """Return the number of local steps in one epoch of a client."""

    def pooled(self, batch_size: int | None = None) -> PoolableClients:
        """Return one client that has the training samples of all clients, each once.

        Args:
            batch_size: Samples of a batch; None for that of the clients.

        Raises:
            ConfigError: The clients' batch sizes differ and none is given, or their samples do not fit together.
        """


def pooled_batch_size(sizes: Sequence[int], given: int | None) -> int:
    """Return the batch size of the client that has all samples.

    Args:
        sizes: Those of the clients.
        given: The one that is asked for; None for the clients'.

    Raises:
        ConfigError: The clients' sizes differ and none is given, or it is out of range.
    """
    if given is None and len(set(sizes)) > 1:
        raise ConfigError(
            f"the clients' batch sizes differ, from {min(sizes)} to {max(sizes)}, expected one for the pooled data; "
            "give batch_size"
        )
    size = sizes[0] if given is None else given
    if type(size) is not int or size < 1:
        raise ConfigError(f"batch_size is {shown(size)}, expected an integer of 1 or more; raise it")
    return size


class TensorClients:
    """Clients whose samples are rows of shared tensors.

    Args:
        x: Inputs of all clients: a tensor of shape (rows, ...), or a nested structure of such tensors.
        y: Targets of all clients likewise; None where `x` holds whole batches, for instance a dict with labels.
        rows: For each client the row numbers of its samples, int64 (samples,).
        batch_size: Samples per local step: one number, or one for each client.
        prepare: Applied to every batch of inputs.
        augment: Applied to every prepared batch.
        short_clients: Whether clients with fewer samples than a batch train on short batches; if not, they are refused.
        drop_last: Whether the samples that are left over at the end of an epoch are left out of it, so that all batches
            have the same number of samples.
        local_sets: The clients' own validation and test sets; see :mod:`fedlama.data.local_sets`.

    Raises:
        DataError: Clients without samples or with too few, rows that do not exist, NaN or infinite inputs.
    """

    fresh_batches: ClassVar[bool] = True
    pure_batches: ClassVar[bool] = True

    def __init__(
        self,
        x: Tree,
        y: Tree | None,
        rows: Sequence[NDArray[np.int64]],
        batch_size: int | Sequence[int],
        *,
        prepare: Prepare | None = None,
        augment: Augment | None = None,
        short_clients: bool = False,
        drop_last: bool = False,
        local_sets: Mapping[Part, LocalRows] | None = None,
    ) -> None:
        x, y = as_samples(x), None if y is None else as_samples(y)
        count = samples_of(x, "the inputs")
        rows = [row_numbers(given, count, client) for client, given in enumerate(rows)]
        given_sizes = batch_size if isinstance(batch_size, Sequence | np.ndarray) else [batch_size] * len(rows)
        sizes = [operator.index(size) for size in given_sizes]
        _check_rows(x, y, rows, sizes, short_clients)
        self._held = np.concatenate(rows).astype(np.int64, copy=False)
        self._begins = np.cumsum([0] + [len(mine) for mine in rows])
        self.rows = [self._held[start:end] for start, end in pairwise(self._begins)]
        self.x, self.y, self.batch_sizes = x, y, sizes
        self.prepare, self.drop_last = prepare, drop_last
        self.local_sets = dict(local_sets or {})
        self.augment: Callable[[Tensor, Any], Tensor] | None = augment
        self._sizes, self._batch_sizes = np.diff(self._begins), np.array(sizes)
        self._epochs: dict[int, tuple[int, int, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self.rows)

    @property
    def tensor_clients(self) -> TensorClients:
        """These clients themselves; see :func:`tensor_clients`."""
        return self

    @property
    def device(self) -> torch.device:
        """Where the samples are."""
        return self.x.device if isinstance(self.x, Tensor) else leaves(self.x)[0].device

    @property
    def data(self) -> Batch:
        """All samples as one batch, as they are stored."""
        return self.x if self.y is None else (self.x, self.y)

    @property
    def pair(self) -> tuple[Tensor, Tensor] | None:
        """Inputs and targets, where each is one tensor; None for other structures."""
        return (self.x, self.y) if isinstance(self.x, Tensor) and isinstance(self.y, Tensor) else None

    @property
    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Row numbers of all clients in one array, the bounds of each client's part of it, and the batch sizes.

        Client c has the rows ``held[bounds[c] : bounds[c + 1]]``; the arrays are int64 (samples of all clients,),
        (clients + 1,) and (clients,).
        """
        return self._held, self._begins, self._batch_sizes

    @cached_property
    def data_digests(self) -> dict[str, object]:
        """Shape, dtype and digest of the inputs and targets, and a digest of the clients' rows; computed once."""
        rows = hashlib.sha256(self._held.tobytes() + self._begins.tobytes()).hexdigest()
        return {**data_facts(self.x, self.y), "rows": {"sha256": rows}}

    def __describe__(self) -> dict[str, object]:
        """Return what a run's description says of the clients: sizes, batches, preparation and digests of the data."""
        batch_sizes = set(self.batch_sizes)
        return {
            "samples": int(self._sizes.sum()),
            "sizes": describe(self._sizes)["digest"],
            "batch_size": batch_sizes.pop() if len(batch_sizes) == 1 else describe(self._batch_sizes)["digest"],
            "prepare": describe(self.prepare, "clients.prepare"),
            "augment": describe(self.augment, "clients.augment"),
            "data": self.data_digests,
            **({"drop_last": True} if self.drop_last else {}),
        }

    def pooled(self, batch_size: int | None = None) -> TensorClients:
        """Return one client that has the rows of all clients; see :meth:`PoolableClients.pooled`."""
        size = pooled_batch_size(self.batch_sizes, batch_size)
        return TensorClients(
            self.x,
            self.y,
            [np.sort(self._held)],  # the same whatever the partition is
            size,
            prepare=self.prepare,
            augment=self.augment,
            short_clients=True,
            drop_last=self.drop_last,
        )

    def samples(self, client: int) -> int:
        """Return the number of the client's rows."""
        return len(self.rows[client])

    def batches_per_epoch(self, client: int) -> int:
        """Return the number of local steps in one epoch of the client."""
        size, batch = len(self.rows[client]), self.batch_sizes[client]  # plain numbers: an engine asks at every step
        return max(size // batch, 1) if self.drop_last else -(-size // batch)

    def _steps_per_epoch(self, clients: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of batches in one epoch, int64 (clients,); a short last one counts unless it is dropped."""
        sizes, batch = self._sizes[clients], self._batch_sizes[clients]
        steps: NDArray[np.int64] = np.maximum(sizes // batch, 1) if self.drop_last else -(-sizes // batch)
        return steps

    def batch_lengths(self) -> set[int]:
        """Return how many samples the batches of all clients have: full ones, and the short last ones of epochs."""
        full = np.minimum(self._batch_sizes, self._sizes)
        rest = np.zeros_like(full) if self.drop_last else self._sizes % self._batch_sizes
        return set(full.tolist()) | set(rest[rest > 0].tolist())

    def held_out(self, client: int, part: Part) -> Iterator[Batch] | None:
        """Return a client's own set as batches; see :meth:`fedlama.data.local_sets.LocalSets.held_out`."""
        batches = self.local_sets[part].batches(client) if part in self.local_sets else None
        if batches is None:
            return None
        prepared = ((x if self.prepare is None else self.prepare(x), y) for x, y in batches)
        return (x if y is None else (x, y) for x, y in prepared)

    def batch_rows(self, client: int, step: int, seed: int) -> NDArray[np.int64]:
        """Return the row numbers of one batch, int64 (batch,)."""
        epoch, position = divmod(step, self.batches_per_epoch(client))
        known = self._epochs.get(client)
        if known is None or known[:2] != (seed, epoch):
            order = permutation(seed, "shuffle", self.samples(client), client, epoch)
            known = (seed, epoch, self.rows[client][order])
            while len(self._epochs) >= _REMEMBERED:
                self._epochs.pop(next(iter(self._epochs)), None)
            self._epochs[client] = known  # a pure function is remembered, so results do not depend on this
        start = position * self.batch_sizes[client]
        return known[2][start : start + self.batch_sizes[client]]

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Gather, prepare and augment one batch."""
        rows = torch.from_numpy(self.batch_rows(client, step, seed)).to(self.device)
        x = pick(self.x, rows)
        if self.prepare is not None:
            x = self.prepare(x)
        if self.augment is not None:
            x = self.augment(x, address(seed, "augment", client, step, np.arange(len(rows))))
        return x if self.y is None else (x, pick(self.y, rows))

    def cohort_rows(
        self, clients: Sequence[int], first: Sequence[int], steps: int, seed: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the row numbers of many clients' batches, drawn in a few vectorised calls.

        Args:
            clients: The clients.
            first: Each client's first step.
            steps: Number of steps.
            seed: The run's seed.

        Returns:
            Row numbers, int64 (steps, clients, largest batch), where short batches are filled up with their first row.
            And the batches' lengths, int64 (steps, clients): ``rows[s, c, :lengths[s, c]]`` are the :meth:`batch_rows`
            of ``clients[c]`` at step ``first[c] + s``.
        """
        who = np.asarray(clients)
        sizes, batch = self._sizes[who], self._batch_sizes[who]
        step = np.asarray(first) + np.arange(steps)[:, None]
        epoch, position = np.divmod(step, self._steps_per_epoch(who))
        start = position * batch
        lengths = np.minimum(batch, sizes - start)
        rows = np.empty((*lengths.shape, int(lengths.max())), dtype=np.int64)  # (steps, clients, largest batch)
        for size in set(sizes.tolist()):
            chosen = np.flatnonzero(sizes == size)
            batches = _Batches(epoch[:, chosen], start[:, chosen], lengths[:, chosen])
            rows[:, chosen] = self._shuffled(who[chosen], batches, rows.shape[2], seed)
        return rows, lengths

    def gather(
        self,
        rows: NDArray[np.int64],
        clients: Sequence[int] | NDArray[np.int64],
        steps: Sequence[int] | NDArray[np.int64],
        seed: int,
    ) -> Batch:
        """Gather, prepare and augment one batch of each of many clients at once.

        Args:
            rows: Row numbers, int64 (clients, batch).
            clients: The client of each row.
            steps: Each client's step.
            seed: The run's seed.

        Returns:
            The batches, (clients, batch, ...), equal to stacking each client's :meth:`batch`.
        """
        keys = self.augment_keys(np.asarray(clients), np.asarray(steps), rows.shape[1], seed)
        return self.pick(upload(torch.from_numpy(np.ascontiguousarray(rows)), self.device), keys)

    @property
    def takes_tensors(self) -> bool:
        """Whether the augmentation takes keys as tensors on the samples' device; see :data:`Augment`."""
        return bool(getattr(self.augment, "takes_tensors", False))

    def augment_keys(
        self, clients: NDArray[np.int64], steps: NDArray[np.int64], batch: int, seed: int
    ) -> NDArray[np.uint64] | None:
        """Return the augmentation's keys of many batches, or None without augmentation.

        Args:
            clients: The client of each batch.
            steps: The step of each batch; `clients` and `steps` are broadcast together.
            batch: Samples per batch.
            seed: The run's seed.

        Returns:
            Keys, uint64 (..., batch), in host memory.
        """
        if self.augment is None:
            return None
        return address(seed, "augment", clients[..., None], steps[..., None], np.arange(batch))

    def pick(self, rows: Tensor, keys: Keys | None) -> Batch:
        """Index, prepare and augment batches whose row numbers are on the device of the samples.

        Args:
            rows: Row numbers, int64 (clients, batch).
            keys: Their :meth:`augment_keys`, (clients, batch), as the augmentation takes them.

        Returns:
            The batches, (clients, batch, ...).
        """
        flat = rows.reshape(-1)
        x = map_leaves(lambda leaf: leaf.index_select(0, flat), self.x)
        if self.prepare is not None:
            x = self.prepare(x)
        if self.augment is not None and keys is not None:
            x = self.augment(x, keys.reshape(-1))
        batch = x if self.y is None else (x, map_leaves(lambda leaf: leaf.index_select(0, flat), self.y))
        return map_leaves(lambda leaf: leaf.view(*rows.shape, *leaf.shape[1:]), batch)  # (clients, batch, ...)

    def _shuffled(self, clients: NDArray[np.int64], batches: _Batches, width: int, seed: int) -> NDArray[np.int64]:
        """Return the rows of clients with equally many samples: (steps, clients, width), as :meth:`cohort_rows`."""
        held = np.stack([self.rows[client] for client in clients.tolist()])  # (clients, samples)
        count, size = held.shape
        lowest = batches.epoch.min(axis=0)
        epochs = np.arange(int((batches.epoch - lowest).max()) + 1)
        keys = address(seed, "shuffle", clients[:, None, None], (lowest[:, None] + epochs)[:, :, None], np.arange(size))
        order = ranked(keys)  # (clients, epochs, samples)
        begin = (np.arange(count) * len(epochs) + batches.epoch - lowest) * size + batches.start
        column = np.arange(width)
        positions = begin[:, :, None] + np.where(column < batches.lengths[:, :, None], column, 0)
        rows: NDArray[np.int64] = held.take(order.take(positions) + (np.arange(count) * size)[:, None])
        return rows

    def to(self, device: torch.device) -> TensorClients:
        """Return the same clients with their samples, and the tensors of `prepare`, on a device.

        `augment` stays as it is: with keys on the device it needs no data of the host.
        """
        prepare = None if self.prepare is None else transform_on(self.prepare, device)
        moved = object.__new__(TensorClients)
        x, y = (None if part is None else map_leaves(lambda leaf: leaf.to(device), part) for part in (self.x, self.y))
        moved.__dict__.update(self.__dict__, x=x, y=y, prepare=prepare, _epochs={})
        return moved


class ReplayedClients:
    """Clients that yield ready batches in a fixed order, such as recorded ones.

    Args:
        batches: For each client an iterable of batches, such as (inputs, targets).
        samples: For each client its number of training samples n_i. It may be left out when all iterables are
            sequences; then each sequence is expected to hold every sample once.

    Raises:
        DataError: No clients, or a client without batches.
    """

    fresh_batches: ClassVar[bool] = True

    def __init__(self, batches: Sequence[Iterable[Batch]], samples: Sequence[int] | None = None) -> None:
        if not batches:
            raise DataError("there are no clients; give at least one iterable of batches")
        if samples is None and all(isinstance(recorded, Sequence) for recorded in batches):
            samples = [
                sum(samples_of(checked_batch(batch, client, step)) for step, batch in enumerate(recorded))
                for client, recorded in enumerate(batches)
            ]
        if samples is not None and len(samples) != len(batches):
            raise DataError(
                f"there are {len(batches)} clients but {len(samples)} numbers of samples; give one for each client"
            )
        if samples is not None and min(samples) < 1:
            raise DataError(f"client {samples.index(min(samples))} has no samples; leave it out")
        self._samples = samples
        self._iterators: list[Iterator[Batch]] = [iter(given) for given in batches]
        self._given = [0] * len(batches)

    def __len__(self) -> int:
        """Return the number of clients."""
        return len(self._iterators)

    def samples(self, client: int) -> int:
        """Return n_i.

        Raises:
            ConfigError: It is not known.
        """
        if self._samples is None:
            raise ConfigError(
                "the clients are iterators of batches, so their numbers of samples are unknown; give samples=[...] to "
                "ReplayedClients, or set weighting='equal'"
            )
        return self._samples[client]

    def batch(self, client: int, step: int, seed: int) -> Batch:
        """Return the next batch of the client's iterator; the steps must be asked for in order.

        Raises:
            DataError: The iterator has ended, or an earlier step is asked for again.
        """
        if step != self._given[client]:
            raise DataError(
                f"client {client} replays its batches in order: step {self._given[client]} is next, step {step} was "
                "requested; make new clients for a new run"
            )
        try:
            batch = next(self._iterators[client])
        except StopIteration:
            raise DataError(
                f"client {client} has no batch left for local step {step}; record more batches or run fewer steps"
            ) from None
        self._given[client] += 1
        # Copies: a forward pass may work in place, and the user's tensors must not change.
        return map_leaves(torch.clone, checked_batch(batch, client, step))


def as_samples(value: object) -> Tree:
    """Return samples, stacked along the first dimension of every tensor, as a tree of tensors.

    Args:
        value: Tensors or NumPy arrays, a nested structure of them, or a frame or series of pandas.

    Raises:
        DataError: It holds something else, or a single number.
    """
    samples = as_tree(without_pandas(value), "the data")
    if any(leaf.dim() == 0 for leaf in leaves(samples)):
        raise DataError("the data are a single number, expected samples along a first dimension; stack them")
    return samples


def row_numbers(given: Sequence[int] | NDArray[Any], count: int, client: int) -> NDArray[np.int64]:
    """Return a client's row numbers as an array; whether the rows exist is not checked.

    Args:
        given: Any sequence of integers, or a boolean mask over all rows, which selects the rows that are true.
        count: The number of all rows.
        client: The client's number, for the message.

    Raises:
        DataError: It is something else.
    """
    try:
        rows = np.asarray(given)
    except ValueError:  # parts of different lengths
        rows = np.array(given, dtype=object)
    if rows.dtype == np.bool_:
        if rows.shape != (count,):
            raise DataError(
                f"client {client} has a mask of shape {rows.shape}, expected ({count},), one value for each row; "
                "give row numbers or a mask over all rows"
            )
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise DataError(
            f"client {client} has rows of shape {rows.shape} ({rows.dtype}), expected a list of integer row numbers; "
            "convert them with astype(int)"
        )
    return rows.astype(np.int64, copy=False)


def as_batch(batch: object, where: str = "the batch") -> Batch:
    """Return what a source of the user's own gave as a batch; a list, as loaders yield it, counts as a tuple.

    Args:
        batch: A structure of tensors or NumPy arrays.
        where: What it is, for messages.

    Raises:
        DataError: It holds something else.
    """
    return as_tree(tuple(batch) if isinstance(batch, list) else batch, where)


def checked_batch(batch: object, client: int, step: int) -> Batch:
    """Return a batch as a tree of tensors.

    Args:
        batch: What a source of batches gave.
        client: The client's number, for the message.
        step: The batch's number, for the message.

    Raises:
        DataError: It is something else than a structure of tensors of at least one sample.
    """
    where = f"client {client}, batch {step}"
    try:
        given = as_batch(batch, where)
        single = any(leaf.dim() < 1 for leaf in leaves(given))
    except DataError:
        single = True
    if single:
        raise DataError(
            f"{where} is a single sample, or holds something else than tensors; batch the samples with "
            "torch.utils.data.DataLoader, or give ClientData"
        )
    if type(given) is tuple and len(given) == 2 and all(isinstance(part, Tensor) for part in given):
        x, y = given
        if len(x) != len(y) or not len(x):
            raise DataError(
                f"{where} has {len(x)} inputs and {len(y)} targets, expected one target for each of at least one "
                "input; if it is a single sample, batch the samples with torch.utils.data.DataLoader or give ClientData"
            )
    elif not samples_of(given, where):
        raise DataError(f"{where} has no samples; leave it out")
    return given


def check_targets(owner: str, x: Tree, y: Tree | None, remedy: str) -> None:
    """Refuse targets that are not one for each input."""
    inputs = samples_of(x)
    targets = inputs if y is None else samples_of(y, "the targets")
    if inputs != targets:
        raise DataError(f"{owner} {inputs} inputs but {targets} targets; {remedy}")


def _check_rows(
    x: Tree, y: Tree | None, rows: Sequence[NDArray[np.int64]], sizes: Sequence[int], short_clients: bool
) -> None:
    if not rows:
        raise DataError("there are no clients; give at least one")
    check_targets("there are", x, y, "give one target for each input")
    count = samples_of(x)
    if len(sizes) != len(rows):
        raise DataError(f"there are {len(rows)} clients but {len(sizes)} batch sizes; give one, or one per client")
    for client, (mine, size) in enumerate(zip(rows, sizes, strict=True)):
        if size < 1:
            raise DataError(f"client {client}: batch_size is {size}, expected 1 or more; raise it")
        if len(mine) == 0:
            raise DataError(f"client {client} has no samples; leave it out or give it some")
        if len(mine) < size and not short_clients:
            raise DataError(
                f"client {client} has {len(mine)} samples, fewer than one batch of {size}; lower batch_size, merge "
                "small clients, or allow short batches: short_clients=true in an experiment file, "
                "TensorClients(..., short_clients=True) in Python"
            )
        if mine.min() < 0 or mine.max() >= count:
            wrong = mine.min() if mine.min() < 0 else mine.max()
            raise DataError(f"client {client} names row {wrong}, but there are {count} rows; check the partition")
    for leaf in leaves(x):
        if leaf.is_floating_point():
            _check_finite(leaf, rows)


def _check_finite(x: Tensor, rows: Sequence[NDArray[np.int64]]) -> None:
    """Refuse NaN and infinities in the rows of clients."""
    bad = ~torch.isfinite(x.reshape(len(x), -1)).all(dim=1).cpu().numpy()
    hits = [mine[bad[mine]] for mine in rows] if bad.any() else []
    for client, hit in enumerate(hits):
        if len(hit):
            raise DataError(
                f"input row {hit[0]} of client {client} holds NaN or infinite values "
                f"({sum(map(len, hits))} such rows in all); clean or drop them"
            )
