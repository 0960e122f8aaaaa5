"""The trainer for any module: one forward and one backward pass, vectorised over clients, serve all rows of a share.

Rows whose batches differ in shape at a step are taken group by group, on copies. With compiled steps, a group of at
least half the rows runs through the program of all rows: the others' places are filled with a batch of the group, and
what comes out for them is dropped. Smaller groups are not compiled; there would be a program for each number of rows.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlama.engines.base import Values, Work
from fedlama.engines.batches import CohortBatches, StackedBatch
from fedlama.engines.cohort import Share, find_divergence
from fedlama.engines.draws import client_generators
from fedlama.engines.gradients import ClientGradients, Generators, Gradients
from fedlama.engines.precision import Precision
from fedlama.engines.traced import CompiledGradients, Traced
from fedlama.engines.trainer import Task
from fedlama.engines.upload import row_numbers


class VmapTrainer:
    """Trains all rows of a share at once.

    Args:
        work: The federation's fixed parts.
        batches: Where batches come from.
        precision: In which numbers the model computes.
        compiled: Whether steps go through ``torch.compile``.
    """

    def __init__(
        self, work: Work, batches: CohortBatches, precision: Precision = "float32", compiled: bool = False
    ) -> None:
        self._work = work
        self._batches = batches
        self._gradients = ClientGradients(work, precision)
        trained = [name for name, parameter in work.model.named_parameters() if parameter.requires_grad]
        self._compiled = CompiledGradients(self._gradients.loss, trained, work.device) if compiled else None

    def uncompiled(self) -> VmapTrainer:
        """Return a trainer that takes the same steps uncompiled, and shares what is known of the model."""
        other = copy.copy(self)
        other._compiled = None
        return other

    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainer.Trainer.run`."""
        total = torch.zeros(len(share.clients), dtype=torch.float64, device=self._work.device)
        generators = client_generators(self._work, task.round_index, share.clients)
        for step, groups in enumerate(self._batches.steps(share.clients, share.steps_done, task.steps)):
            for group in groups:
                if len(group.rows) == len(share.clients):
                    total += self._step(share, task, step, group, generators)
                else:
                    rows = row_numbers(group.rows, self._work.device)
                    total[rows] += self._partial_step(share, task, step, group, rows, generators)
            if self._work.device.type == "cpu":  # elsewhere one look at the end spares a synchronisation per step
                self._check(share, total, task.round_index)
        self._check(share, total, task.round_index)
        return (total / task.steps).tolist()

    def _step(self, share: Share, task: Task, step: int, batch: StackedBatch, generators: Generators) -> Tensor:
        """Take one local step of all rows; return their losses, (rows,)."""
        traced = self._traced(share.values, batch.x, batch.y)
        if traced is None:
            losses, gradients = self._gradients(share.values, task.names, batch, generators)
        else:
            losses, gradients = traced.losses, [traced.gradients[name] for name in task.names]
            for name, value in traced.buffers.items():
                share.values[name].copy_(value)
        self._move(share, task, step, gradients)
        return losses

    def _partial_step(
        self, share: Share, task: Task, step: int, batch: StackedBatch, rows: Tensor, generators: Generators
    ) -> Tensor:
        """Take one local step of some rows, on copies that are written back."""
        some = Share(
            tuple(share.clients[row] for row in batch.rows),
            {name: value[rows] for name, value in share.values.items()},
            {kind: [buffer[rows] for buffer in buffers] for kind, buffers in share.memory.items()},
            tuple(share.steps_done[row] for row in batch.rows),
        )
        found = self._filled_up(share, some, task, batch, rows)
        if found is None:
            all_of_them = replace(batch, rows=tuple(range(len(batch.rows))))
            own = [generators[row] for row in batch.rows]
            found = self._gradients(some.values, task.names, all_of_them, own)
        losses, gradients = found
        self._move(some, task, step, gradients)
        for name, value in some.values.items():
            share.values[name][rows] = value
        for kind, buffers in some.memory.items():
            for stacked, buffer in zip(share.memory[kind], buffers, strict=True):
                stacked[rows] = buffer
        return losses

    def _filled_up(self, share: Share, some: Share, task: Task, batch: StackedBatch, rows: Tensor) -> Gradients | None:
        """Compute some rows with the compiled program of all rows, or return None if it is not to be used."""
        if 2 * len(batch.rows) < len(share.clients):
            return None
        taken = [0] * len(share.clients)
        for place, row in enumerate(batch.rows):
            taken[row] = place
        filled = row_numbers(taken, self._work.device)
        traced = self._traced(share.values, batch.x[filled], batch.y[filled])
        if traced is None:
            return None
        for name, value in traced.buffers.items():
            some.values[name].copy_(value[rows])
        return traced.losses[rows], [traced.gradients[name][rows] for name in task.names]

    def _move(self, share: Share, task: Task, step: int, gradients: Sequence[Tensor]) -> None:
        """Let the solver move the parameters."""
        parameters = [share.values[name] for name in task.names]
        memory = {kind: [buffers[index] for index in task.trained] for kind, buffers in share.memory.items()}
        self._work.solver.step(parameters, gradients, memory, task.rates[step], task.decayed, task.anchors)

    def _traced(self, values: Values, x: Tensor, y: Tensor) -> Traced | None:
        """Run the compiled program, if there is one; say once why there is none where one was asked for."""
        form = self._gradients.form
        if self._compiled is None or form is None:  # the first batch shows what the model is like
            return None
        if form == "vectorised":
            try:
                return self._compiled(values, x, y)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
        else:
            dropout = form == "dropout"
            reason = "its dropout draws from every client's own generator" if dropout else "it cannot be vectorised"
        warnings.warn(
            f"the steps of the model {type(self._work.model).__name__} are not compiled ({reason}); they give the same "
            "results uncompiled",
            stacklevel=2,
        )
        self._compiled = None
        return None

    def _check(self, share: Share, total: Tensor, round_index: int) -> None:
        if not torch.isfinite(total.sum()):
            error = find_divergence(self._work, share, total.tolist(), round_index)
            if error is not None:
                raise error
