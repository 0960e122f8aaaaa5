"""The trainer that takes clients one after another, each with the kernels that PyTorch has for one model.

Convolution networks are limited by arithmetic on a CPU: there one client per thread is as fast as the machine. It is
also the trainer for models that ``torch.func.vmap`` cannot vectorise. A model of many small operations is limited by
Python, for which the threads wait in turns; its steps are traced (:mod:`fedlama.engines.trainers.traced`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fedlama.core.modules import keep_reassigned_buffers, set_training
from fedlama.core.trees import Tree, map_leaves
from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import CohortSlice, check_losses
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.micro_batches import LossAndGradients, accumulated
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.dropout import ClientDropout, borrowed_generator, client_generators, watched_generator
from fedlama.engines.trainers.gradients import Precision, in_precision
from fedlama.engines.trainers.traced.steps import StepTensors, TracedSteps
from fedlama.engines.user_code import batch_loss

Forward = Callable[[], Any]
"""Runs a task's forward pass."""


class SerialTrainer(Trainer):
    """Trains one client after another, in place in the stacked state.

    Args:
        setup: The federation's fixed parts.
        batches: Where batches come from.
        channels_last: Whether the model is given images channels-last.
        precision: The numbers that the model computes in.
        traced: Traced steps, which the trainers of an engine share; None to compute all steps as usual.
    """

    name = "SerialTrainer"
    description = "ordinary kernels of PyTorch"
    rows_per_call = 1

    def __init__(
        self,
        setup: EngineSetup,
        batches: CohortBatches,
        channels_last: bool,
        precision: Precision = "float32",
        traced: TracedSteps | None = None,
    ) -> None:
        self.precision = precision
        words = [SerialTrainer.description]
        words += [precision] if precision != "float32" else []
        words += ["steps traced where the model allows it"] if traced is not None else []
        self.description = ", ".join(words)
        self._traced, self._may_trace = traced, False
        self._setup = setup
        self._batches = batches
        self._channels_last = channels_last
        self._forward: Callable[[Forward, torch.Generator], Any] = self._first
        self._model = set_training(copy.deepcopy(setup.model).to(setup.device))
        self._slots = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._buffers = [name for name, _ in self._model.named_buffers()]

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        return [self._train(rows.part(slice(row, row + 1)), work) for row in range(len(rows.clients))]

    def _train(self, client: CohortSlice, work: LocalSteps) -> float:
        """Train the one client of a slice, and return its mean loss."""
        values = {name: value[0] for name, value in client.values.items()}
        for name, value in values.items():
            self._slots[name].data = value  # compute with the client's own tensors; nothing is copied
        slots = [self._slots[name] for name in work.names]
        parameters = [values[name] for name in work.names]
        optimizer_state = {
            kind: [buffers[index][0] for index in work.trained] for kind, buffers in client.optimizer_state.items()
        }
        (generator,) = client_generators(self._setup, work.round_index, client.clients, work.generators)
        total = 0.0

        def gradients_of(batch: Tree) -> LossAndGradients:
            def compute() -> LossAndGradients:
                loss = self._loss(batch, generator)
                return LossAndGradients(loss, torch.autograd.grad(loss, slots, materialize_grads=True))

            if self._traced is None or not self._may_trace:
                return compute()
            step = StepTensors(values, work.names, batch, [generator])
            return self._traced(step, compute, self._keeps_buffers)

        for step, groups in enumerate(self._batches.steps(client.clients, client.steps_done, work.steps)):
            batch = map_leaves(_first_row, groups[0].batch)
            loss, gradients = accumulated(batch, self._setup.micro_batch_size, gradients_of)
            work.update.one(parameters, gradients, optimizer_state, work.rates[step], work.reference)
            total += float(loss.detach())
            if not math.isfinite(total):
                check_losses(self._setup, client, [total], work.round_index)
        keep_reassigned_buffers(self._model, self._slots, self._buffers, values)
        return total / work.steps

    def _keeps_buffers(self) -> bool:
        """Return whether the model still has the buffers that it was given."""
        return all(buffer is self._slots[name] for name, buffer in self._model.named_buffers())

    def _loss(self, batch: Tree, generator: torch.Generator) -> Tensor:
        if self._channels_last:
            batch = map_leaves(_channels_last, batch)

        def forward(compute: Forward) -> Any:  # noqa: ANN401  (what the model returns)
            return self._forward(lambda: in_precision(self.precision, self._setup.device, compute), generator)

        return batch_loss(self._setup.task, self._model, batch, forward)

    def _first(self, compute: Forward, generator: torch.Generator) -> Any:  # noqa: ANN401  (what the model returns)
        """Find out at the first batch what the model draws at random, so that later batches pay for that alone."""
        before = {name: self._slots[name].data.clone() for name in self._buffers}
        start = generator.get_state()
        with watched_generator() as drew, ClientDropout([generator]) as dropout:
            output = self._plain(compute, generator)
        if drew[0]:
            self._forward = self._borrowing
        else:
            self._may_trace = True
            self._forward = self._dropping if dropout.used else self._plain
            return output
        for name, value in before.items():
            self._slots[name].data.copy_(value)
        generator.set_state(start)
        return self._forward(compute, generator)

    def _plain(self, compute: Forward, generator: torch.Generator) -> Any:  # noqa: ANN401
        return compute()

    def _dropping(self, compute: Forward, generator: torch.Generator) -> Any:  # noqa: ANN401
        """Compute a model whose dropout draws from the client's generator."""
        with ClientDropout([generator]):
            return compute()

    def _borrowing(self, compute: Forward, generator: torch.Generator) -> Any:  # noqa: ANN401
        """Compute a model that draws from torch's global generator."""
        with borrowed_generator(generator):
            return compute()


def _first_row(leaf: Tensor) -> Tensor:
    return leaf[0]


def _channels_last(leaf: Tensor) -> Tensor:
    return leaf.contiguous(memory_format=torch.channels_last) if leaf.dim() == 4 else leaf
