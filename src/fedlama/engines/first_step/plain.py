"""One step of one client as a user would write it: call the model, differentiate the loss, let the solver step.

The model, the loss and the solver are copies, and so are the client's tensors.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from fedlama.choices.solvers import OptimizerState
from fedlama.choices.solvers.local_update import LocalUpdate
from fedlama.core.global_generators import seed_torch
from fedlama.core.modules import keep_reassigned_buffers, set_training
from fedlama.core.randomness import seed_of
from fedlama.core.trees import Tree, map_leaves
from fedlama.data.clients import Batch
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.micro_batches import LossAndGradients, accumulated
from fedlama.engines.trainers.base import LocalSteps
from fedlama.engines.trainers.dropout import ClientDropout, client_generators
from fedlama.engines.trainers.gradients import Precision, in_precision
from fedlama.engines.user_code import batch_loss

_T = TypeVar("_T")


@dataclass(frozen=True)
class ClientStart:
    """What one client's first step begins with.

    Attributes:
        client: The client's number.
        values: Its local model, a copy.
        optimizer_state: Copies of its solver's buffers, each list aligned with the trained parameters.
        batch: Its batch, on the run's device.
    """

    client: int
    values: Values
    optimizer_state: OptimizerState
    batch: Batch


@dataclass(frozen=True)
class StepOutcome:
    """What one client's step left.

    Attributes:
        loss: The loss before the step.
        tensors: The local model and the solver's buffers after the step, the latter by a name such as
            ``"velocity of fc.weight"``.
        gradients: The loss's gradients, aligned with the trained parameters; only a plain step has them.
    """

    loss: float
    tensors: Values
    gradients: tuple[Tensor, ...] = ()


def starts_of(setup: EngineSetup, rows: CohortSlice, work: LocalSteps, names: Sequence[str]) -> list[ClientStart]:
    """Return copies of what the clients of a slice begin with; their batches must be repeatable.

    Args:
        setup: The federation's fixed parts.
        rows: The clients, one or two.
        work: The step.
        names: All parameters that require a gradient, in the model's order.
    """
    starts = []
    for row, client in enumerate(rows.clients):
        # Contiguous: with filters stored channels-last, as cohorts may, torch's dropout would draw masks in that order.
        # On CUDA masks differ anyway, and the memory order decides which kernels compute, whose rounding differs.
        order = torch.contiguous_format if setup.device.type == "cpu" else torch.preserve_format
        values = {name: stacked[row].detach().clone(memory_format=order) for name, stacked in rows.values.items()}
        state = {
            kind: [buffers[index][row].clone() for index in work.trained]
            for kind, buffers in rows.optimizer_state.items()
        }
        if rows.fresh:
            fresh = setup.solver.init([values[name] for name in names])
            state |= {kind: [buffers[index] for index in work.trained] for kind, buffers in fresh.items()}
        # Clones: a forward pass may work in place, and a batch may be a view of the user's tensors.
        given = setup.clients.batch(client, rows.steps_done[row], setup.seed)
        batch = map_leaves(lambda leaf: leaf.clone().to(setup.device), given)
        starts.append(ClientStart(client, values, state, batch))
    return starts


class PlainClient:
    """A copy of the model, the loss and the solver, which takes steps of one client after another.

    Args:
        setup: The federation's fixed parts.
        precision: The numbers that the model computes in.
        own_dropout: Whether dropout draws from a generator of the client's, as trainers let it. On a CPU the masks are
            the same; on a GPU torch counts its own draws differently.
    """

    def __init__(self, setup: EngineSetup, precision: Precision = "float32", own_dropout: bool = False) -> None:
        self._setup, self._precision, self._own_dropout = setup, precision, own_dropout
        self.model = set_training(copy.deepcopy(setup.model).to(setup.device))
        self.task = copied_or_same(setup.task)
        self.solver = copied_or_same(setup.solver)
        self._tensors = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        self._buffers = [name for name, _ in self.model.named_buffers()]

    def step(self, start: ClientStart, work: LocalSteps) -> StepOutcome:
        """Take a client's step.

        Args:
            start: What the client begins with; it is not changed.
            work: The step.
        """
        setup = self._setup
        values = {name: value.clone() for name, value in start.values.items()}
        for name, tensor in self._tensors.items():
            if name in values:
                tensor.data = values[name]
        seed_all(seed_of(setup.seed, "client", work.round_index, start.client))
        batch = map_leaves(torch.clone, start.batch)
        if self._own_dropout:
            with ClientDropout(client_generators(setup, work.round_index, [start.client])):
                loss, gradients = self._gradients(batch, work)
        else:
            loss, gradients = self._gradients(batch, work)
        state = {kind: [buffer.clone() for buffer in buffers] for kind, buffers in start.optimizer_state.items()}
        parameters = [values[name] for name in work.names]
        given = [gradient.clone() for gradient in gradients]
        update = LocalUpdate(self.solver, setup.trained_layers, work.names, work.shared, setup.parameter_names)
        update.one(parameters, given, state, work.rates[0], work.reference)
        keep_reassigned_buffers(self.model, self._tensors, self._buffers, values)
        return StepOutcome(float(loss.detach()), values | named_state(state, work), tuple(gradients))

    def _gradients(self, batch: Batch, work: LocalSteps) -> LossAndGradients:
        differentiated = [self._tensors[name] for name in work.names]

        def gradients_of(part: Batch) -> LossAndGradients:
            loss = self._loss(part)
            return LossAndGradients(loss, torch.autograd.grad(loss, differentiated, materialize_grads=True))

        return accumulated(batch, self._setup.micro_batch_size, gradients_of)

    def _loss(self, batch: Batch) -> Tensor:
        return batch_loss(
            self.task, self.model, batch, lambda compute: in_precision(self._precision, self._setup.device, compute)
        )


def inputs_of(batch: Batch) -> Tree:
    """Return the inputs of a pair, and all of any other batch."""
    return batch[0] if type(batch) is tuple and len(batch) == 2 else batch


def change_inputs(change: Callable[[Tensor], Tensor], batch: Batch) -> Batch:
    """Return a batch with its inputs changed; the targets of a pair stay as they are."""
    if type(batch) is tuple and len(batch) == 2:
        return map_leaves(change, batch[0]), batch[1]
    return map_leaves(change, batch)


def named_state(state: OptimizerState, work: LocalSteps) -> Values:
    """Return a client's solver buffers by a name such as ``"velocity of fc.weight"``."""
    return {
        f"{kind} of {name}": buffer
        for kind, buffers in state.items()
        for name, buffer in zip(work.names, buffers, strict=True)
    }


def copied_or_same(thing: _T) -> _T:
    """Return a copy, or the thing itself if it cannot be copied."""
    try:
        return copy.deepcopy(thing)
    except Exception:  # a user's object may hold anything
        return thing


def seed_all(seed: int) -> None:
    """Seed every global generator that a model may draw from."""
    seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were before the block, and let cuDNN try no kernels in it.

    The plain steps have shapes of their own, and cuDNN's autotuner would take tens of seconds for them.
    """
    state, numpy_state = random.getstate(), np.random.get_state()
    autotunes = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numpy_state)
            torch.backends.cudnn.benchmark = autotunes


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep quiet: the run itself issues every warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
