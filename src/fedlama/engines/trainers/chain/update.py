"""How a chain's gradients become a step: straight into SGD's own buffers, or gathered for any other solver."""

from __future__ import annotations

from typing import Protocol

import torch

from fedlama.choices.solvers import SGD, LocalSolver
from fedlama.engines.api import Values
from fedlama.engines.cohort.cohort import Share
from fedlama.engines.trainers.base import Task
from fedlama.engines.trainers.chain.base import Sink


class Update(Protocol):
    """One step's update of the parameters."""

    def sink(self, step: int) -> Sink:
        """Return where this step's gradients go."""

    def finish(self, step: int) -> None:
        """Do what is left of the step when all gradients are in."""


def make_update(solver: LocalSolver, share: Share, task: Task) -> Update:
    """Choose the update: the shorter way for plain SGD in PyTorch's convention, the solver itself otherwise."""
    if type(solver) is SGD and solver.velocity == "gradient":
        return _Momentum(solver, share, task) if solver.momentum else _Plain(solver, share, task)
    return _Gathered(solver, share, task)


def _parameters(share: Share, task: Task) -> Values:
    return {name: share.values[name] for name in task.names}


def _decay(solver: SGD, task: Task) -> dict[str, float]:
    return {
        name: solver.weight_decay if solver.decay_normalisation or decayed else 0.0
        for name, decayed in zip(task.names, task.decayed, strict=True)
    }


class _Plain:
    """x <- (1 - eta w) x - eta g, gradients straight into the parameters."""

    def __init__(self, solver: SGD, share: Share, task: Task) -> None:
        self._targets, self._task = _parameters(share, task), task
        self._decay = _decay(solver, task)

    def sink(self, step: int) -> Sink:
        """Return where this step's gradients go."""
        rate = self._task.rates[step]
        return Sink(self._targets, {name: 1.0 - rate * decay for name, decay in self._decay.items()}, -rate)

    def finish(self, step: int) -> None:
        """Nothing is left."""


class _Momentum:
    """v <- m v + g + w x, then x <- x - eta v, gradients straight into the velocities."""

    def __init__(self, solver: SGD, share: Share, task: Task) -> None:
        velocity = share.optimizer_state["velocity"]
        self._targets = {name: velocity[index] for name, index in zip(task.names, task.trained, strict=True)}
        self._parameters = list(_parameters(share, task).values())
        self._velocities = list(self._targets.values())
        self._decays = list(_decay(solver, task).values())
        self._scales = dict.fromkeys(task.names, solver.momentum)
        self._task = task

    def sink(self, step: int) -> Sink:
        """Return where this step's gradients go."""
        return Sink(self._targets, self._scales, 1.0)

    def finish(self, step: int) -> None:
        """Add the decay and move the parameters."""
        for velocity, parameter, decay in zip(self._velocities, self._parameters, self._decays, strict=True):
            if decay:
                velocity.add_(parameter, alpha=decay)
            parameter.add_(velocity, alpha=-self._task.rates[step])


class _Gathered:
    """Gradients into room of their own, then the solver's step."""

    def __init__(self, solver: LocalSolver, share: Share, task: Task) -> None:
        self._solver, self._task = solver, task
        self._parameters = list(_parameters(share, task).values())
        self._targets = {n: torch.empty_like(p) for n, p in zip(task.names, self._parameters, strict=True)}
        self._scales = dict.fromkeys(task.names, 0.0)
        self._optimizer_state = {
            kind: [buffers[index] for index in task.trained] for kind, buffers in share.optimizer_state.items()
        }

    def sink(self, step: int) -> Sink:
        """Return where this step's gradients go."""
        return Sink(self._targets, self._scales, 1.0)

    def finish(self, step: int) -> None:
        """Let the solver move the parameters."""
        task = self._task
        gradients = list(self._targets.values())
        self._solver.step(
            self._parameters, gradients, self._optimizer_state, task.rates[step], task.decayed, task.reference
        )
