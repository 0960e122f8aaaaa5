"""The trainer for any module: one forward and one backward pass, vectorised over clients, serve all rows of a slice.

Rows whose batches differ in shape at a step give their gradients group by group, from copies of their models; the
solver then steps for all of them together. With torch-compiled steps, a group of at least half the rows runs through
the program of all rows: the other rows are filled with a batch of the group, and what the program returns for them is
dropped. Smaller groups run without torch.compile; there would be a program for each number of rows.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from fedlama.core.devices import copy_all, row_numbers
from fedlama.core.trees import Tree, pick
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.batches import CohortBatches, StackedBatch
from fedlama.engines.cohort.cohort import CohortSlice, check_losses
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import ALL_ROWS, LocalSteps, Trainer
from fedlama.engines.trainers.dropout import client_generators
from fedlama.engines.trainers.gradients import ClientGradients, Generators, Gradients, Precision
from fedlama.engines.trainers.torch_compiled import StepResult, TorchCompiledStep
from fedlama.engines.trainers.traced.steps import TracedSteps


class VmapTrainer(Trainer):
    """Trains all rows of a slice at once.

    Args:
        setup: The federation's fixed parts.
        batches: Where batches come from.
        precision: The numbers that the model computes in.
        torch_compiled: Whether steps go through ``torch.compile``.
        traced: Traced steps, which the trainers of an engine share; None to compute all steps as usual.
    """

    name = "VmapTrainer"

    def __init__(
        self,
        setup: EngineSetup,
        batches: CohortBatches,
        precision: Precision = "float32",
        torch_compiled: bool = False,
        traced: TracedSteps | None = None,
    ) -> None:
        self._setup = setup
        self._batches = batches
        self.precision = precision
        self._gradients = ClientGradients(setup, precision, traced)
        self._trainable = setup.parameter_names
        self._program: TorchCompiledStep | None = None
        words = ["vectorised over clients by torch.func"]
        if precision != "float32":
            words.append(precision)
        if torch_compiled:
            self._program = TorchCompiledStep(self._gradients.loss, self._trainable, setup.device)
            words.append("steps torch-compiled where the model allows it")
        if traced is not None:
            words.append("steps traced where the model allows it")
        self.description = ", ".join(words)
        # On a CPU more clients at a time would only leave the cache.
        self.rows_per_call = 64 if setup.device.type == "cpu" else ALL_ROWS

    def rehearsed(self) -> Trainer:
        """Return this trainer, or one that takes the same steps without torch.compile.

        A program is made for one number of rows, so two rows would need one of their own, in seconds to minutes. It is
        made of the very function that is compared here, and torch warns where it cannot trace it.
        """
        return self if self._program is None else VmapTrainer(self._setup, self._batches, self.precision)

    def serves(self) -> bool:
        """Return whether the model can be vectorised, once a batch has shown it."""
        return self._gradients.form != "one by one"

    def without_compiler(self) -> VmapTrainer:
        """Return a trainer that takes the same steps without torch.compile, and shares what is known of the model."""
        other = copy.copy(self)
        other._program = None
        return other

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        total = torch.zeros(len(rows.clients), dtype=torch.float64, device=self._setup.device)
        generators = client_generators(self._setup, work.round_index, rows.clients, work.generators)
        for step, groups in enumerate(self._batches.steps(rows.clients, rows.steps_done, work.steps)):
            total += self._step(rows, work, step, groups, generators)
            if self._setup.device.type == "cpu":  # on other devices one look at the end saves waiting at every step
                self._check(rows, total, work.round_index)
        self._check(rows, total, work.round_index)
        return (total / work.steps).tolist()

    def _step(
        self, rows: CohortSlice, work: LocalSteps, step: int, groups: Sequence[StackedBatch], generators: Generators
    ) -> Tensor:
        """Take one local step of all rows; return their losses, (rows,)."""
        compute = self._all_at_once if len(groups) == 1 else self._by_group
        losses, gradients = compute(rows, work, groups, generators)
        parameters = [rows.values[name] for name in work.names]
        optimizer_state = {
            kind: [buffers[index] for index in work.trained] for kind, buffers in rows.optimizer_state.items()
        }
        work.update(parameters, gradients, optimizer_state, work.rates[step], work.reference)
        return losses

    def _all_at_once(
        self, rows: CohortSlice, work: LocalSteps, groups: Sequence[StackedBatch], generators: Generators
    ) -> Gradients:
        """Compute all rows, whose batches have the same shape."""
        (batch,) = groups
        result = self._torch_compiled(rows.values, batch.batch)
        if result is None:
            return self._gradients(rows.values, work.names, batch, generators)
        copy_all([rows.values[name] for name in result.buffers], list(result.buffers.values()))
        return result.losses, [result.gradients[name] for name in work.names]

    def _by_group(
        self, rows: CohortSlice, work: LocalSteps, groups: Sequence[StackedBatch], generators: Generators
    ) -> Gradients:
        """Compute the rows group by group, and put the results in the order of the rows."""
        losses = torch.empty(len(rows.clients), dtype=torch.float64, device=self._setup.device)
        gradients = [torch.empty_like(rows.values[name]) for name in work.names]  # (rows, ...)
        for batch in groups:
            numbers = row_numbers(batch.rows, self._setup.device)
            computed = self._group_among_all(rows, work, batch, numbers)
            if computed is None:
                computed = self._group_alone(rows, work, batch, numbers, generators)
            for whole, part in zip([losses, *gradients], [computed[0], *computed[1]], strict=True):
                whole[numbers] = part
        return losses, gradients

    def _group_alone(
        self, rows: CohortSlice, work: LocalSteps, batch: StackedBatch, numbers: Tensor, generators: Generators
    ) -> Gradients:
        """Compute some rows on copies; their buffers are written back."""
        values = {name: value[numbers] for name, value in rows.values.items()}
        computed = self._gradients(values, work.names, batch, [generators[row] for row in batch.rows])
        for name in values.keys() - set(self._trainable):
            rows.values[name][numbers] = values[name]
        return computed

    def _group_among_all(
        self, rows: CohortSlice, work: LocalSteps, batch: StackedBatch, numbers: Tensor
    ) -> Gradients | None:
        """Compute some rows with the torch-compiled program of all rows; return None if it is not to be used."""
        if 2 * len(batch.rows) < len(rows.clients):
            return None
        sources = [0] * len(rows.clients)  # of each row, which of the group's batches it computes
        for position, row in enumerate(batch.rows):
            sources[row] = position
        filled = row_numbers(sources, self._setup.device)
        result = self._torch_compiled(rows.values, pick(batch.batch, filled))
        if result is None:
            return None
        for name, value in result.buffers.items():
            rows.values[name][numbers] = value[numbers]
        return result.losses[numbers], [result.gradients[name][numbers] for name in work.names]

    def _torch_compiled(self, values: Values, batch: Tree) -> StepResult | None:
        """Run the torch-compiled program, if there is one; warn once if one was asked for and cannot be had."""
        form = self._gradients.form
        if self._program is None or form is None:  # the first batch shows what the model is like
            return None
        if form == "vectorised":
            try:
                return self._program(values, batch)
            except torch.cuda.OutOfMemoryError:
                raise
            except RuntimeError as error:
                reason = str(error).strip().splitlines()[0]
        elif form == "dropout":
            reason = "its dropout draws from every client's own generator"
        else:
            reason = "it cannot be vectorised"
        warnings.warn(
            f"the steps of the model {type(self._setup.model).__name__} are not torch-compiled ({reason}); they give "
            "the same results without torch.compile",
            stacklevel=2,
        )
        self._program = None
        return None

    def _check(self, rows: CohortSlice, total: Tensor, round_index: int) -> None:
        if not torch.isfinite(total.sum()):
            check_losses(self._setup, rows, total.tolist(), round_index)
