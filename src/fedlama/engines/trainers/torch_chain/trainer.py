"""The trainer for chains of usual layers, with kernels of PyTorch on stacked clients and no autograd.

Autograd, small kernels and Python take most of the time of a small model. A model that is a chain of dense layers,
convolutions, ReLU, max pooling and dropout under cross-entropy is translated once to operations that know their own
backward pass for all clients at once (:mod:`~fedlama.engines.trainers.torch_chain.operations`), add gradients where the
solver needs them, and allocate little.

It serves what has no form in :mod:`fedlama.kernels`: installations without Numba, and solvers other than SGD and
FedProx. docs/log.md (2026-11-26) says what it gains there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fedlama.choices.solvers import LocalSolver
from fedlama.choices.solvers.sgd import PlainSGD, plain_sgd
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import CohortSlice, check_losses
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import ALL_ROWS, LocalSteps, Trainer
from fedlama.engines.trainers.dropout import ClientMasks, client_generators
from fedlama.engines.trainers.torch_chain.operations import ChainOperation, GradientTarget


class TorchChainTrainer(Trainer):
    """Trains all clients of a slice at once.

    Args:
        setup: The federation's fixed parts; its objective is cross-entropy of one class per sample.
        batches: Where batches come from.
        operations: The model; see :func:`fedlama.engines.trainers.torch_chain.translate.translate`.
    """

    name = "TorchChainTrainer"
    description = "batched kernels of PyTorch"

    def __init__(self, setup: EngineSetup, batches: CohortBatches, operations: Sequence[ChainOperation]) -> None:
        self._setup = setup
        self._batches = batches
        self._operations = list(operations)
        self._draws = any(operation.draws for operation in operations)
        # On a CPU more clients at a time would only leave the cache.
        self.rows_per_call = 64 if setup.device.type == "cpu" else ALL_ROWS

    @torch.no_grad()
    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        for operation in self._operations:
            operation.bind(rows.values)
        update = _update_for(self._setup.solver, rows, work)
        drawing = rows.clients if self._draws else ()
        masks = ClientMasks(client_generators(self._setup, work.round_index, drawing, work.generators))
        lowest = self._lowest_trained(work)
        total = torch.zeros(len(rows.clients), dtype=torch.float64, device=self._setup.device)
        for step, batch in enumerate(self._batches.padded(rows.clients, rows.steps_done, work.steps)):
            masks.lengths = batch.lengths
            logits = self._forward(batch.x, masks)
            losses, gradient = loss_and_gradient(logits, batch.y, batch.sample_weights)
            self._backward(gradient, update.gradient_target(step), lowest)
            update.finish(step)
            total += losses
            if self._setup.device.type == "cpu":  # on other devices one look at the end saves waiting at every step
                self._check(rows, total, work.round_index)
        self._check(rows, total, work.round_index)
        return (total / work.steps).tolist()

    def _forward(self, x: Tensor, masks: ClientMasks) -> Tensor:
        for operation in self._operations:
            x = operation.forward(x, masks)
        return x

    def _backward(self, gradient: Tensor, target: GradientTarget, lowest: int) -> None:
        for index in range(len(self._operations) - 1, lowest - 1, -1):
            gradient = self._operations[index].backward(gradient, target, wanted=index > lowest)

    def _lowest_trained(self, work: LocalSteps) -> int:
        """Return the first operation with a trained parameter: no gradient is needed below it."""
        trained = set(work.names)
        trained_operations = [
            i for i, operation in enumerate(self._operations) if trained.intersection(operation.parameters)
        ]
        return min(trained_operations, default=len(self._operations))

    def _check(self, rows: CohortSlice, total: Tensor, round_index: int) -> None:
        if not torch.isfinite(total.sum()):
            check_losses(self._setup, rows, total.tolist(), round_index)


def loss_and_gradient(logits: Tensor, y: Tensor, sample_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return every client's mean cross-entropy and its gradient with respect to the logits.

    Args:
        logits: (clients, classes, batch).
        y: Classes, int64 (clients, batch).
        sample_weights: (clients, 1, batch): 1 / the client's batch size, and 0 for samples that only fill up a short
            batch.

    Returns:
        Losses, (clients,), and gradients, (clients, classes, batch).
    """
    log_probabilities = torch.log_softmax(logits, 1)
    label = y.unsqueeze(1)  # (clients, 1, batch)
    losses = torch.mul(log_probabilities.gather(1, label), sample_weights).sum((1, 2)).neg_()
    gradient = log_probabilities.exp_().mul_(sample_weights)  # in place: the losses are computed
    return losses, gradient.scatter_add_(1, label, -sample_weights)


class _Update(Protocol):
    """How the gradients of each step move the parameters."""

    def gradient_target(self, step: int) -> GradientTarget:
        """Return where this step's gradients go."""

    def finish(self, step: int) -> None:
        """Complete the step once all gradients are computed."""


def _update_for(solver: LocalSolver, rows: CohortSlice, work: LocalSteps) -> _Update:
    """Choose the shorter way for plain SGD, and the solver's own step otherwise."""
    plain = plain_sgd(solver)
    if plain is not None and plain.proximal is None:
        return _MomentumUpdate(plain, rows, work) if plain.momentum else _PlainUpdate(plain, rows, work)
    return _SolverUpdate(rows, work)


def _trained_values(rows: CohortSlice, work: LocalSteps) -> Values:
    return {name: rows.values[name] for name in work.names}


def _decays(solver: PlainSGD, work: LocalSteps) -> dict[str, float]:
    return {name: solver.decay(decayed) for name, decayed in zip(work.names, work.update.decayed, strict=True)}


class _PlainUpdate:
    """x <- (1 - eta w) x - eta g: gradients go straight into the parameters."""

    def __init__(self, solver: PlainSGD, rows: CohortSlice, work: LocalSteps) -> None:
        self._targets, self._work = _trained_values(rows, work), work
        self._decays = _decays(solver, work)

    def gradient_target(self, step: int) -> GradientTarget:
        rate = self._work.rates[step]
        return GradientTarget(self._targets, {name: 1.0 - rate * decay for name, decay in self._decays.items()}, -rate)

    def finish(self, step: int) -> None:
        pass


class _MomentumUpdate:
    """v <- m v + g + w x, then x <- x - eta v: gradients go straight into the velocities."""

    def __init__(self, solver: PlainSGD, rows: CohortSlice, work: LocalSteps) -> None:
        velocity = rows.optimizer_state["velocity"]
        self._targets = {name: velocity[index] for name, index in zip(work.names, work.trained, strict=True)}
        self._parameters = list(_trained_values(rows, work).values())
        self._velocities = list(self._targets.values())
        self._decays = list(_decays(solver, work).values())
        self._scales = dict.fromkeys(work.names, solver.momentum)
        self._work = work

    def gradient_target(self, step: int) -> GradientTarget:
        return GradientTarget(self._targets, self._scales, 1.0)

    def finish(self, step: int) -> None:
        for velocity, parameter, decay in zip(self._velocities, self._parameters, self._decays, strict=True):
            if decay:
                velocity.add_(parameter, alpha=decay)
            parameter.add_(velocity, alpha=-self._work.rates[step])


class _SolverUpdate:
    """Gradients go into buffers of their own, and then the solver takes its step."""

    def __init__(self, rows: CohortSlice, work: LocalSteps) -> None:
        self._work = work
        self._parameters = list(_trained_values(rows, work).values())
        self._targets = {n: torch.empty_like(p) for n, p in zip(work.names, self._parameters, strict=True)}
        self._scales = dict.fromkeys(work.names, 0.0)
        self._optimizer_state = {
            kind: [buffers[index] for index in work.trained] for kind, buffers in rows.optimizer_state.items()
        }

    def gradient_target(self, step: int) -> GradientTarget:
        return GradientTarget(self._targets, self._scales, 1.0)

    def finish(self, step: int) -> None:
        work, gradients = self._work, list(self._targets.values())
        work.update(self._parameters, gradients, self._optimizer_state, work.rates[step], work.reference)
