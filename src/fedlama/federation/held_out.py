"""Held-out data, and a model's score on them, in large batches.

Losses and metrics are added up on the model's device, and read once at the end.
"""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from fedlama.choices.tasks import Task, as_task
from fedlama.core.content import data_facts
from fedlama.core.devices import transform_on, upload
from fedlama.core.losses import Objective, cross_entropy
from fedlama.core.modules import plain_attributes
from fedlama.core.records import Score
from fedlama.core.trees import Tree, cat, leaves, map_leaves, pick, samples, signature, words
from fedlama.data.clients import Prepare, as_samples
from fedlama.data.datasets import Collate, collected
from fedlama.data.local_sets import Part, held_out
from fedlama.data.sources import as_source
from fedlama.engines.cohort.sizes import intra_op_threads
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.errors import DataError
from fedlama.federation.tally import Tally

_SHARED = 4
"""Batches from which on the cores share them, and batches of each core whose results are kept at a time."""
_Computed = tuple[Any, Tree, Tensor]
"""A batch's output, its samples, and its loss."""


@dataclass(frozen=True)
class TestSet:
    """Held-out data.

    For a model on another device, the data are copied there in their own dtype at the first evaluation. The copy is
    kept for the next ones, as long as the test set exists.

    Args:
        x: Inputs: a tensor of shape (samples, ...), or a nested structure of tensors with one row for each sample.
        y: Targets likewise; None where `x` holds whole batches, for instance a dict with labels.
        prepare: Applied to every batch of inputs, as on the clients.
        batch_size: Samples per forward pass.

    Raises:
        DataError: No samples, not one target for each input, or NaN or infinite inputs.
    """

    __test__ = False  # the name begins with Test, but pytest must not collect the class
    x: Tree
    y: Tree | None = None
    prepare: Prepare | None = None
    batch_size: int = 500
    _copies: dict[torch.device, TestSet] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", as_samples(self.x))
        object.__setattr__(self, "y", None if self.y is None else as_samples(self.y))
        inputs = samples(self.x, "the test set")
        targets = inputs if self.y is None else samples(self.y, "the targets of the test set")
        if inputs != targets:
            raise DataError(f"the test set has {inputs} inputs but {targets} targets; give one target for each input")
        if not inputs:
            raise DataError("the test set has no samples; give some, or leave test_set out")
        if any(leaf.is_floating_point() and not torch.isfinite(leaf).all() for leaf in leaves(self.x)):
            raise DataError("the test set holds NaN or infinite inputs; clean or drop those rows")

    @classmethod
    def from_dataset(cls, dataset: Any, collate_fn: Collate | None = None, batch_size: int = 500) -> Self:  # noqa: ANN401
        """Return a data set, of the forms that :class:`fedlama.DatasetClients` takes, as a test set in memory.

        Args:
            dataset: A ``torch.utils.data.Dataset``, a ``datasets.Dataset``, a dict of arrays, or a pandas frame.
            collate_fn: Makes one batch of all samples; by default they are stacked.
            batch_size: Samples per forward pass.

        Raises:
            DataError: The samples do not make one batch.
        """
        batch = collected(dataset, collate_fn)
        x, y = batch if type(batch) is tuple and len(batch) == 2 else (batch, None)
        return cls(x, y, batch_size=batch_size)

    @classmethod
    def from_clients(cls, clients: Any, part: Part = "validation", batch_size: int = 500) -> Self:  # noqa: ANN401
        """Return the clients' own sets of a part together, in memory; every sample counts alike.

        Args:
            clients: What a federation takes: ``ClientData``, a source such as :class:`fedlama.DatasetClients`, ...
            part: ``"validation"`` or ``"test"``.
            batch_size: Samples per forward pass.

        Raises:
            DataError: No client has such a set, or their samples do not make one batch.
        """
        source = as_source(clients)
        sets = (held_out(source, client, part) for client in range(len(source)))
        batches = [batch for given in sets if given is not None for batch in given]
        if not batches:
            raise DataError(
                f"no client has a {part} set of its own; give ClientData(..., {part}=(x, y)) or "
                f"DatasetClients(..., {part}=[...]); in a deployment, whose clients keep theirs, use TestSet(x, y)"
            )
        first = signature(pick(batches[0], 0))
        for batch in batches:
            if signature(pick(batch, 0)) != first:
                raise DataError(
                    f"the {part} sets of the clients have batches of {words(batch)} and {words(batches[0])}, expected "
                    "samples of one shape; pad them to one length in the collate function"
                )
        whole = cat(batches)
        x, y = whole if type(whole) is tuple and len(whole) == 2 else (whole, None)
        return cls(x, y, batch_size=batch_size)

    @cached_property
    def data_digests(self) -> dict[str, object]:
        """Shape, dtype and digest of the inputs and targets; computed once."""
        return data_facts(self.x, self.y)

    def __len__(self) -> int:
        """Return the number of samples."""
        return samples(self.x)

    @property
    def data(self) -> Tree:
        """All samples as one batch, as they are stored."""
        return self.x if self.y is None else (self.x, self.y)

    def rows(self, rows: slice) -> Tree:
        """Return some samples as a batch of copies, prepared as the model takes them.

        Copies, because a forward pass or a loss that works in place must not reach the user's tensors.
        """
        x = map_leaves(torch.clone, pick(self.x, rows))
        x = x if self.prepare is None else self.prepare(x)
        return x if self.y is None else (x, map_leaves(torch.clone, pick(self.y, rows)))

    def score(self, model: nn.Module, task: Task | Objective = cross_entropy, owner: str = "the test set") -> Score:
        """Evaluate a model.

        Args:
            model: The model; in evaluation mode during the call.
            task: The loss and the metrics, or a loss alone.
            owner: What the data are, for messages.

        Returns:
            Mean loss over all positions that count, and the metrics that the task could measure.

        Raises:
            DataError: The loss is not a scalar, a metric failed, or the primary metric is NaN for a finite loss.
        """
        task, held = as_task(task), self._on(next(model.parameters()).device)
        tally = Tally(task, leaves(held.x)[0].device)
        training = model.training
        model.eval()
        for output, given, loss in _computed(held, model, task):
            with torch.no_grad():
                tally.add(output, given, loss)
        model.train(training)
        return tally.score(owner)

    def _batch(self, start: int, model: nn.Module, task: Task) -> _Computed:
        """Compute the batch that begins at a sample."""
        rows = slice(start, start + self.batch_size)
        with torch.no_grad():
            batch = self.rows(rows)
            output = task.forward(model, batch)
            loss = task.loss(output, batch)
            # Targets as they were given: a loss that works in place may have overwritten its own.
            given = self.rows(rows) if self.y is None else (batch[0], map_leaves(torch.clone, pick(self.y, rows)))
        return output, given, loss

    def _on(self, device: torch.device) -> TestSet:
        """Return the same data on a device, copied there at most once."""
        if all(leaf.device == device for leaf in leaves(self.data)):
            return self
        if device not in self._copies:
            prepare = None if self.prepare is None else transform_on(self.prepare, device)
            moved = object.__new__(TestSet)  # without checks, which would wait for the device
            x, y = (None if part is None else _uploaded(part, device) for part in (self.x, self.y))
            moved.__dict__.update(self.__dict__, x=x, y=y, prepare=prepare)
            moved.__dict__["_copies"] = {}
            self._copies[device] = moved
        return self._copies[device]


def _computed(held: TestSet, model: nn.Module, task: Task) -> Iterator[_Computed]:
    """Yield the results of all batches, in their order.

    On a CPU the cores share the batches of a large set, each with one of torch's threads, so results are the same for
    any number of cores; `prepare`, the task and its loss are called from several threads. A model that changes its
    buffers or attributes or has hooks, and whatever draws random numbers, has one batch after another.
    """
    starts = range(0, len(held), held.batch_size)
    if len(starts) < _SHARED or cores() == 1 or leaves(held.x)[0].device.type != "cpu":
        yield from (held._batch(start, model, task) for start in starts)
        return
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    before = _remembered(model)
    with intra_op_threads(1):
        yield held._batch(0, model, task)
        if hooked or _remembered(model) != before:
            yield from (held._batch(start, model, task) for start in starts[1:])
            return
        threads = WorkerThreads(cores())
        models = [_sharing_parameters(model) for _ in range(threads.count)]
        for first in range(1, len(starts), _SHARED * threads.count):  # bounds the memory for results
            some = starts[first : first + _SHARED * threads.count]
            share = partial(_share, held, models, task, some)
            results = threads.map(share, range(min(threads.count, len(some))))
            turns = len(results)
            yield from (results[number % turns][number // turns] for number in range(len(some)))


def _share(
    held: TestSet, models: Sequence[nn.Module], task: Task, starts: Sequence[int], thread: int
) -> list[_Computed]:
    """Compute a thread's share of some batches."""
    turns = min(len(models), len(starts))
    return [held._batch(start, models[thread], task) for start in starts[thread::turns]]


def _sharing_parameters(model: nn.Module) -> nn.Module:
    """Return a copy of a model, for another thread, with the same parameters."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def _remembered(model: nn.Module) -> tuple[object, ...]:
    """Return what a batch should leave as it is: global generators, and what the model holds beside parameters."""
    buffers = tuple((id(buffer), buffer._version) for buffer in model.buffers())
    attributes = tuple((key, id(value)) for key, value in plain_attributes(model).items())
    numpy_state = pickle.dumps(np.random.get_state())
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy_state, buffers, attributes


def _uploaded(tree: Tree, device: torch.device) -> Tree:
    return map_leaves(lambda leaf: upload(leaf, device), tree)
