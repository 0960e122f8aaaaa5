"""Mini-batches of many clients at once, stacked where they have the same shape.

If the clients' samples are tensors, a round's row numbers and augmentation keys are drawn on the host and sent to the
device once, before the first step. A row number is the index of a sample in the pool of all clients' samples.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.core.devices import upload, upload_all
from fedlama.core.randomness import address
from fedlama.core.trees import map_leaves, signature, stack
from fedlama.data.clients import Batch, ClientSource, Keys, TensorClients, as_batch, tensor_clients
from fedlama.kernels import SampleTable, shuffle_rows

_ROOM = 1 << 22
"""Elements of inputs that a :class:`BatchBlock` gathers, at most."""
_Cut = tuple[int, slice | NDArray[np.int64], slice]
"""The part of a round's row numbers that makes a batch: the step, which clients, and how many samples."""


@dataclass(frozen=True)
class StackedBatch:
    """One step's batches of clients whose batches have the same shape.

    Attributes:
        rows: Which of the requested clients, counted from 0.
        batch: The batches, whose leaves are (clients, batch, ...).
    """

    rows: tuple[int, ...]
    batch: Batch


@dataclass(frozen=True)
class PaddedBatch:
    """One step's batches of all clients, short ones filled up.

    Attributes:
        x: Inputs, (clients, batch, ...).
        y: Targets, (clients, batch, ...).
        sample_weights: The weight of a sample in its client's mean loss, (clients, 1, batch): 1 / batch size, and 0 for
            samples that only fill up a short batch.
        lengths: Each client's batch size, or None when all are full.
    """

    x: Tensor
    y: Tensor
    sample_weights: Tensor
    lengths: tuple[int, ...] | None


@dataclass(frozen=True)
class BatchBlock:
    """The batches of several steps, for the kernels of :mod:`fedlama.kernels`.

    Attributes:
        x: Inputs of samples, (samples, ...), dense.
        y: Their targets, (samples,) or (samples, positions), dense.
        rows: Which samples are in a batch, (steps, clients, batch).
        lengths: How many of them count, (steps, clients); those beyond only fill up.
    """

    x: Tensor
    y: Tensor
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]


class CohortBatches:
    """Gathers batches for a slice of the cohort. Threads share it, so it keeps nothing between two steps.

    Args:
        source: All clients' data.
        device: The device that batches are sent to.
        seed: The run's seed.
    """

    def __init__(self, source: ClientSource, device: torch.device, seed: int) -> None:
        tensors = tensor_clients(source)
        self._source, self._tensors = source, None if tensors is None else tensors.to(device)
        self._device = device
        self._seed = seed
        self._shuffles = address(seed, "shuffle")[0]

    def steps(self, clients: Sequence[int], first: Sequence[int], steps: int) -> Iterator[list[StackedBatch]]:
        """Yield every local step's batches, grouped by shape.

        Clients whose batches differ in shape at a step (a short last batch, a batch size of their own) go into
        different groups: no sample is dropped or padded, and BatchNorm sees what it would see on a single client.

        Args:
            clients: The clients.
            first: Each client's first step.
            steps: How many steps.
        """
        if self._tensors is not None:
            yield from self._gathered(self._tensors, clients, first, steps)
            return
        for step in range(steps):
            batches = [
                as_batch(self._source.batch(c, f + step, self._seed)) for c, f in zip(clients, first, strict=True)
            ]
            groups = defaultdict(list)
            for row, batch in enumerate(batches):
                groups[signature(batch)].append(row)
            yield [
                StackedBatch(tuple(rows), stack([map_leaves(self._upload, batches[row]) for row in rows]))
                for rows in groups.values()
            ]

    def _upload(self, leaf: Tensor) -> Tensor:
        return upload(leaf, self._device)

    def padded(self, clients: Sequence[int], first: Sequence[int], steps: int) -> Iterator[PaddedBatch]:
        """Yield every local step's batches, filled up to one length with samples of weight 0.

        Args:
            clients: The clients.
            first: Each client's first step.
            steps: How many steps.
        """
        if self._tensors is not None:
            rows, lengths = self._tensors.cohort_rows(clients, first, steps, self._seed)
            cuts = [(step, slice(None), slice(step_lengths.max())) for step, step_lengths in enumerate(lengths)]
            sent = upload(torch.from_numpy(lengths), self._device)
            for step, (x, y) in enumerate(self._picked(self._tensors, clients, first, rows, cuts)):
                yield PaddedBatch(x, y, *self._sample_weights(lengths[step], sent[step], x))
            return
        for step in range(steps):
            batches = [self._source.batch(c, f + step, self._seed) for c, f in zip(clients, first, strict=True)]
            counts = np.array([len(x) for x, _ in batches])
            x = upload(torch.stack([_fill(x, counts.max()) for x, _ in batches]), self._device)  # (clients, batch, ...)
            y = upload(torch.stack([_fill(y, counts.max()) for _, y in batches]), self._device)  # (clients, batch, ...)
            yield PaddedBatch(x, y, *self._sample_weights(counts, upload(torch.from_numpy(counts), self._device), x))

    def blocks(self, clients: Sequence[int], first: Sequence[int], steps: int, more: int = 0) -> Iterator[BatchBlock]:
        """Yield the batches of several steps at once, as many as fit a bounded room; for compiled trainers.

        Data that are stored as the model takes them stay where they are.

        Args:
            clients: Who.
            first: Each client's first step.
            steps: How many.
            more: Elements that the caller needs beside each sample; they count as inputs do.
        """
        source = self._tensors
        assert source is not None  # the kernels train clients whose samples are tensors
        rows, lengths = self._drawn(source, np.asarray(clients), np.asarray(first), steps)
        stored = _as_taken(source)
        pair = source.pair
        assert pair is not None  # the kernels take one tensor of inputs and one of targets
        per_step = (more if stored else math.prod(pair[0].shape[1:]) + more) * rows[0].size
        together = max(_ROOM // per_step, 1) if per_step else steps
        if stored:
            for start in range(0, steps, together):
                now = slice(start, start + together)
                yield BatchBlock(*pair, rows[now], lengths[now])
            return
        asked = np.asarray(first) + np.arange(steps)[:, None]
        who = np.zeros_like(asked) + np.asarray(clients)
        for start in range(0, steps, together):
            now = slice(start, start + together)
            shape = rows[now].shape
            x, y = source.gather(rows[now].reshape(-1, shape[2]), who[now].ravel(), asked[now].ravel(), self._seed)
            together_there = np.arange(rows[now].size).reshape(shape)
            yield BatchBlock(x.flatten(0, 1).contiguous(), y.flatten(0, 1).contiguous(), together_there, lengths[now])

    def _drawn(
        self, source: TensorClients, clients: NDArray[np.int64], first: NDArray[np.int64], steps: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what `cohort_rows` does, but release Python's lock for the other threads in the meantime."""
        if source.drop_last:  # which the kernel does not know
            return source.cohort_rows(clients.tolist(), first.tolist(), steps, self._seed)
        table = SampleTable(*source.tables)
        return shuffle_rows(table, clients, first, steps, self._shuffles)

    def _sample_weights(
        self, lengths: NDArray[np.int64], sent: Tensor, x: Tensor
    ) -> tuple[Tensor, tuple[int, ...] | None]:
        """Return a padded batch's sample weights and lengths; `sent` are the lengths on the device."""
        clients, batch = x.shape[:2]
        if (lengths == batch).all():
            return torch.full((clients, 1, batch), 1.0 / batch, device=self._device), None
        counts = sent[:, None, None]  # (clients, 1, 1)
        return (torch.arange(batch, device=self._device) < counts) / counts, tuple(lengths.tolist())

    def _gathered(
        self, source: TensorClients, clients: Sequence[int], first: Sequence[int], steps: int
    ) -> Iterator[list[StackedBatch]]:
        rows, lengths = source.cohort_rows(clients, first, steps, self._seed)
        groups = [_by_length(step_lengths) for step_lengths in lengths]
        cuts = [
            (step, members, slice(length)) for step, step_groups in enumerate(groups) for members, length in step_groups
        ]
        batches = self._picked(source, clients, first, rows, cuts)
        for step_groups in groups:
            yield [StackedBatch(tuple(members.tolist()), next(batches)) for members, _ in step_groups]

    def _picked(
        self,
        source: TensorClients,
        clients: Sequence[int],
        first: Sequence[int],
        rows: NDArray[np.int64],
        cuts: Sequence[_Cut],
    ) -> Iterator[Batch]:
        """Yield batches that are cut out of a round's row numbers; the device gets all numbers in one transfer before.

        Args:
            source: All clients' data.
            clients: The clients.
            first: Each client's first step.
            rows: The round's row numbers, (steps, clients, largest batch).
            cuts: The part of them that makes each batch.
        """
        sent = upload_all([rows[cut] for cut in cuts], self._device)
        steps = np.asarray(first) + np.arange(len(rows))[:, None]
        drawn = source.augment_keys(np.asarray(clients), steps, rows.shape[2], self._seed)
        keys: Sequence[Keys | None] = [None if drawn is None else drawn[cut] for cut in cuts]
        if drawn is not None and source.takes_tensors:
            keys = upload_all([drawn[cut].view(np.int64) for cut in cuts], self._device)
        for batch_rows, batch_keys in zip(sent, keys, strict=True):
            yield source.pick(batch_rows, batch_keys)


def _by_length(lengths: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], int]]:
    """Return which clients have batches of the same length, and that length, the longest first."""
    return [((lengths == length).nonzero()[0], length) for length in sorted(set(lengths.tolist()), reverse=True)]


def _as_taken(source: TensorClients) -> bool:
    """Return whether samples are stored as the compiled kernels take them."""
    changes = source.prepare is not None or source.augment is not None
    assert source.pair is not None
    x, y = source.pair
    dense = x.is_contiguous() and y.is_contiguous()
    return not changes and dense and x.dtype in (torch.float32, torch.int64) and y.dtype == torch.int64


def _fill(batch: Tensor, length: int) -> Tensor:
    """Repeat the first sample until the batch has this length."""
    return torch.cat([batch, batch[:1].expand(length - len(batch), *batch.shape[1:])])
