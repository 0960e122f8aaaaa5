"""The trainer for any module: one forward and one backward pass, vectorised over clients, serve all rows of a share.

Rows whose batches differ in shape at a step give their gradients group by group, from copies of their models; the
solver then steps for all of them together. With compiled steps, a group of at least half the rows runs through the
program of all rows: the others' places are filled with a batch of the group, and what comes out for them is dropped.
Smaller groups are not compiled; there would be a program for each number of rows.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlama.core.devices import row_numbers
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.batches import CohortBatches, StackedBatch
from fedlama.engines.cohort.cohort import Share, find_divergence
from fedlama.engines.trainers.base import Task
from fedlama.engines.trainers.compiled_step import CompiledGradients, Traced
from fedlama.engines.trainers.dropout import client_generators
from fedlama.engines.trainers.gradients import ClientGradients, Generators, Gradients, Precision


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each tensor to its target; on a GPU the small tensors of one dtype share a launch.

    Args:
        targets: Overwritten.
        sources: Of the same shapes and dtypes.
    """
    for dtype in dict.fromkeys(target.dtype for target in targets):
        chosen = [place for place, target in enumerate(targets) if target.dtype == dtype]
        torch._foreach_copy_([targets[place] for place in chosen], [sources[place] for place in chosen])


class VmapTrainer:
    """Trains all rows of a share at once.

    Args:
        setup: The federation's fixed parts.
        batches: Where batches come from.
        precision: In which numbers the model computes.
        compiled: Whether steps go through ``torch.compile``.
    """

    def __init__(
        self, setup: EngineSetup, batches: CohortBatches, precision: Precision = "float32", compiled: bool = False
    ) -> None:
        self._setup = setup
        self._batches = batches
        self._gradients = ClientGradients(setup, precision)
        self._trained = [name for name, parameter in setup.model.named_parameters() if parameter.requires_grad]
        self._compiled = CompiledGradients(self._gradients.loss, self._trained, setup.device) if compiled else None

    def uncompiled(self) -> VmapTrainer:
        """Return a trainer that takes the same steps uncompiled, and shares what is known of the model."""
        other = copy.copy(self)
        other._compiled = None
        return other

    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        total = torch.zeros(len(share.clients), dtype=torch.float64, device=self._setup.device)
        generators = client_generators(self._setup, task.round_index, share.clients)
        for step, groups in enumerate(self._batches.steps(share.clients, share.steps_done, task.steps)):
            total += self._step(share, task, step, groups, generators)
            if self._setup.device.type == "cpu":  # elsewhere one look at the end spares a synchronisation per step
                self._check(share, total, task.round_index)
        self._check(share, total, task.round_index)
        return (total / task.steps).tolist()

    def _step(
        self, share: Share, task: Task, step: int, groups: Sequence[StackedBatch], generators: Generators
    ) -> Tensor:
        """Take one local step of all rows; return their losses, (rows,)."""
        compute = self._whole if len(groups) == 1 else self._joined
        losses, gradients = compute(share, task, groups, generators)
        parameters = [share.values[name] for name in task.names]
        optimizer_state = {
            kind: [buffers[index] for index in task.trained] for kind, buffers in share.optimizer_state.items()
        }
        self._setup.solver.step(parameters, gradients, optimizer_state, task.rates[step], task.decayed, task.reference)
        return losses

    def _whole(self, share: Share, task: Task, groups: Sequence[StackedBatch], generators: Generators) -> Gradients:
        """Compute all rows at once."""
        (batch,) = groups
        traced = self._traced(share.values, batch.x, batch.y)
        if traced is None:
            return self._gradients(share.values, task.names, batch, generators)
        copy_all([share.values[name] for name in traced.buffers], list(traced.buffers.values()))
        return traced.losses, [traced.gradients[name] for name in task.names]

    def _joined(self, share: Share, task: Task, groups: Sequence[StackedBatch], generators: Generators) -> Gradients:
        """Compute the rows group by group, and put what comes out in the rows' places."""
        losses = torch.empty(len(share.clients), dtype=torch.float64, device=self._setup.device)
        gradients = [torch.empty_like(share.values[name]) for name in task.names]
        for batch in groups:
            rows = row_numbers(batch.rows, self._setup.device)
            found = self._filled_up(share, task, batch, rows) or self._apart(share, task, batch, rows, generators)
            for whole, part in zip([losses, *gradients], [found[0], *found[1]], strict=True):
                whole[rows] = part
        return losses, gradients

    def _apart(self, share: Share, task: Task, batch: StackedBatch, rows: Tensor, generators: Generators) -> Gradients:
        """Compute some rows on copies; their buffers are written back."""
        some = {name: value[rows] for name, value in share.values.items()}
        found = self._gradients(some, task.names, batch, [generators[row] for row in batch.rows])
        for name in some.keys() - set(self._trained):
            share.values[name][rows] = some[name]
        return found

    def _filled_up(self, share: Share, task: Task, batch: StackedBatch, rows: Tensor) -> Gradients | None:
        """Compute some rows with the compiled program of all rows, or return None if it is not to be used."""
        if 2 * len(batch.rows) < len(share.clients):
            return None
        taken = [0] * len(share.clients)
        for place, row in enumerate(batch.rows):
            taken[row] = place
        filled = row_numbers(taken, self._setup.device)
        traced = self._traced(share.values, batch.x[filled], batch.y[filled])
        if traced is None:
            return None
        for name, value in traced.buffers.items():
            share.values[name][rows] = value[rows]
        return traced.losses[rows], [traced.gradients[name][rows] for name in task.names]

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
            f"the steps of the model {type(self._setup.model).__name__} are not compiled ({reason}); they give the "
            "same results uncompiled",
            stacklevel=2,
        )
        self._compiled = None
        return None

    def _check(self, share: Share, total: Tensor, round_index: int) -> None:
        if not torch.isfinite(total.sum()):
            error = find_divergence(self._setup, share, total.tolist(), round_index)
            if error is not None:
                raise error
