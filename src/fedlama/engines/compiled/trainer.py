"""The trainer for compiled chains: gathers batches, keeps the tables of addresses, and calls one kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.clients import TensorClients
from fedlama.engines.base import Work
from fedlama.engines.batches import CohortBatches
from fedlama.engines.chain.base import Operation
from fedlama.engines.cohort import Share, find_divergence
from fedlama.engines.compiled.kernel import can_compile
from fedlama.engines.compiled.program import Program, write_program
from fedlama.engines.compiled.table import BIAS, WEIGHT
from fedlama.engines.trainer import Task
from fedlama.solvers import SGD, FedProx


class CompiledTrainer:
    """Trains the rows of a share one after another, each through all its steps.

    Args:
        work: The federation's fixed parts; its solver is SGD or FedProx in PyTorch's convention.
        batches: Where batches come from.
        program: The model.
    """

    def __init__(self, work: Work, batches: CohortBatches, program: Program) -> None:
        from fedlama.engines.compiled.advance import Round, advance  # needs Numba

        self._round, self._advance = Round, advance
        self._work, self._batches, self._program = work, batches, program
        self._names = [name for name, _ in work.model.named_parameters()]

    @torch.no_grad()
    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainer.Trainer.run`."""
        solver, program = self._work.solver, self._program
        assert isinstance(solver, SGD)
        parameters, decays, lowest = self._parameters(share, task), self._decays(task, solver), self._lowest(task)
        # float32 as a type: Numba would compute in float64 with Python's own numbers.
        momentum: Any = np.float32(solver.momentum)
        pull: Any = np.float32(solver.proximal if isinstance(solver, FedProx) else 0.0)
        losses, done = np.zeros(len(share.clients)), 0
        for x, y, lengths in self._batches.several(share.clients, share.steps_done, task.steps):
            steps, clients, batch = y.shape
            sizes = clients, steps, batch, program.features, program.classes, lowest, program.scratch
            rates = np.array(task.rates[done : done + steps], np.float32)
            room = np.empty(program.room(batch), np.float32)
            addresses, settings = (x.data_ptr(), y.data_ptr()), self._round(*sizes, momentum, pull)
            self._advance(program.table, parameters, decays, rates, *addresses, lengths, room, losses, settings)
            self._check(share, losses, task.round_index)
            done += steps
        mean: list[float] = (losses / task.steps).tolist()
        return mean

    def _parameters(self, share: Share, task: Task) -> NDArray[np.int64]:
        """Tell where everything lies; see :mod:`~fedlama.engines.compiled.table`."""
        velocities = dict(zip(self._names, share.memory.get("velocity", ()), strict=False))  # none without momentum
        anchors = dict(zip(task.names, task.anchors, strict=True)) if task.anchors else {}
        trained = set(task.names)
        rows = []
        for name in self._names:
            value = share.values[name]
            addresses = [_address(value), _address(velocities.get(name)), _address(anchors.get(name))]
            rows.append([*addresses, value[0].numel(), name in trained])
        return np.array(rows, np.int64)

    def _decays(self, task: Task, solver: SGD) -> NDArray[np.float32]:
        """Return every parameter's weight decay."""
        decayed = dict(zip(task.names, task.decayed, strict=True))
        every = [solver.decay_normalisation or decayed.get(name, True) for name in self._names]
        return np.array([solver.weight_decay * own for own in every], np.float32)

    def _lowest(self, task: Task) -> int:
        """Return the first operation that has something to train: below it no gradient is needed."""
        trained = [number for number, name in enumerate(self._names) if name in set(task.names)]
        hits = np.flatnonzero(np.isin(self._program.table[:, WEIGHT : BIAS + 1], trained).any(axis=1))
        return int(hits[0]) if len(hits) else len(self._program.table)

    def _check(self, share: Share, losses: NDArray[np.float64], round_index: int) -> None:
        if not np.isfinite(losses).all():
            error = find_divergence(self._work, share, losses.tolist(), round_index)
            if error is not None:
                raise error


def _address(tensor: Tensor | None) -> int:
    """Return where a dense tensor begins, 0 for none."""
    if tensor is None:
        return 0
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def compiled_trainer(work: Work, batches: CohortBatches, operations: Sequence[Operation]) -> CompiledTrainer | None:
    """Return the trainer for a chain, or None if it has no compiled form here.

    Args:
        work: The federation's fixed parts.
        batches: Where batches come from.
        operations: As given by :func:`fedlama.engines.chain.translate`.
    """
    solver = work.solver
    if not can_compile() or work.device.type != "cpu" or type(solver) not in (SGD, FedProx):
        return None
    if getattr(solver, "velocity", "gradient") != "gradient" or not isinstance(work.clients, TensorClients):
        return None
    x, _ = work.clients.gather(work.clients.rows[0][None, :1], [0], [0], work.seed)
    program = write_program(operations, dict(work.model.named_parameters()), x.shape[2:])
    return None if program is None else CompiledTrainer(work, batches, program)
