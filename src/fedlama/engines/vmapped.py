"""The trainer for any module: the model is vectorised over clients with ``torch.func``.

One forward and one backward pass serve all rows of a share. Nothing is assumed of the model; what it does in place to
its buffers (BatchNorm's statistics) goes to the stacked buffers directly. A model that vmap cannot vectorise is said
to be so once, and its rows are then taken one after another.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call, vmap

from fedlama.engines.base import Values, Work
from fedlama.engines.batches import CohortBatches, StackedBatch
from fedlama.engines.cohort import Share, find_divergence
from fedlama.engines.draws import ClientDropout, borrowed_generator, client_generators
from fedlama.engines.trainer import Task

Gradients = tuple[Tensor, list[Tensor]]
Generators = Sequence[torch.Generator]


class VmapTrainer:
    """Trains all rows of a share at once.

    Args:
        work: The federation's fixed parts.
        batches: Where batches come from.
    """

    def __init__(self, work: Work, batches: CohortBatches) -> None:
        self._work = work
        self._batches = batches
        self._model = copy.deepcopy(work.model).to(work.device).train()
        self._gradients: Callable[[Share, Task, StackedBatch, Generators], Gradients] = self._first

    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainer.Trainer.run`."""
        total = torch.zeros(len(share.clients), dtype=torch.float64, device=self._work.device)
        generators = client_generators(self._work, task.round_index, share.clients)
        for step, groups in enumerate(self._batches.steps(share.clients, share.steps_done, task.steps)):
            for group in groups:
                if len(group.rows) == len(share.clients):
                    total += self._step(share, task, step, group, generators)
                else:
                    total[list(group.rows)] += self._partial_step(share, task, step, group, generators)
            if self._work.device.type == "cpu":  # elsewhere one look at the end spares a synchronisation per step
                self._check(share, total, task.round_index)
        self._check(share, total, task.round_index)
        return (total / task.steps).tolist()

    def _step(self, share: Share, task: Task, step: int, batch: StackedBatch, generators: Generators) -> Tensor:
        """Take one local step of all rows; return their losses, (rows,)."""
        losses, gradients = self._gradients(share, task, batch, generators)
        parameters = [share.values[name] for name in task.names]
        memory = {kind: [buffers[index] for index in task.trained] for kind, buffers in share.memory.items()}
        self._work.solver.step(parameters, gradients, memory, task.rates[step], task.decayed, task.anchors)
        return losses

    def _partial_step(self, share: Share, task: Task, step: int, batch: StackedBatch, generators: Generators) -> Tensor:
        """Take one local step of some rows, on copies that are written back."""
        rows = torch.tensor(batch.rows, device=self._work.device)
        some = Share(
            tuple(share.clients[row] for row in batch.rows),
            {name: value[rows] for name, value in share.values.items()},
            {kind: [buffer[rows] for buffer in buffers] for kind, buffers in share.memory.items()},
            tuple(share.steps_done[row] for row in batch.rows),
        )
        all_of_them = replace(batch, rows=tuple(range(len(batch.rows))))
        losses = self._step(some, task, step, all_of_them, [generators[row] for row in batch.rows])
        for name, value in some.values.items():
            share.values[name][rows] = value
        for kind, buffers in some.memory.items():
            for stacked, buffer in zip(share.memory[kind], buffers, strict=True):
                stacked[rows] = buffer
        return losses

    def _first(self, share: Share, task: Task, batch: StackedBatch, generators: Generators) -> Gradients:
        """Find out at the first batch whether the model can be vectorised and whether it has dropout."""
        buffers = {name: value.clone() for name, value in share.values.items() if name not in task.names}
        states = [generator.get_state() for generator in generators]
        try:
            with ClientDropout(generators) as dropout:
                result = self._vectorised(share, task, batch, generators)
        except (RuntimeError, ValueError) as error:
            warnings.warn(
                f"the model {type(self._model).__name__} cannot be vectorised over clients, so the stacked engine takes"
                f" them one by one; engine='workers' is faster for it ({str(error).splitlines()[0]})",
                stacklevel=2,
            )
            for name, value in buffers.items():
                share.values[name].copy_(value)
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)
            self._gradients = self._one_by_one
            return self._gradients(share, task, batch, generators)
        self._gradients = self._with_dropout if dropout.used else self._vectorised
        return result

    def _with_dropout(self, share: Share, task: Task, batch: StackedBatch, generators: Generators) -> Gradients:
        with ClientDropout(generators):
            return self._vectorised(share, task, batch, generators)

    def _vectorised(self, share: Share, task: Task, batch: StackedBatch, generators: Generators) -> Gradients:
        """Return every client's loss, (rows,), and the gradients of its own loss, (rows, ...) each."""
        watched, others = _watch(share.values, task.names)
        losses, after = vmap(self._loss)(watched, others, batch.x, batch.y)
        _keep(after, others)
        gradients = torch.autograd.grad(losses.sum(), list(watched.values()), materialize_grads=True)
        return losses.detach().double(), list(gradients)

    def _one_by_one(self, share: Share, task: Task, batch: StackedBatch, generators: Generators) -> Gradients:
        """Do the same without vmap; the model may draw from torch's global generator."""
        losses, gradients = [], []
        for row, generator in enumerate(generators):
            own = {name: value[row] for name, value in share.values.items()}
            watched, others = _watch(own, task.names)
            with borrowed_generator(generator):
                loss, after = self._loss(watched, others, batch.x[row], batch.y[row])
            _keep(after, others)
            gradients.append(torch.autograd.grad(loss, list(watched.values()), materialize_grads=True))
            losses.append(loss.detach().double())
        return torch.stack(losses), [torch.stack(rows) for rows in zip(*gradients, strict=True)]

    def _loss(self, watched: Values, others: Values, x: Tensor, y: Tensor) -> tuple[Tensor, Values]:
        """One client's loss and buffers; vmap runs it for all of them."""
        tensors = {**watched, **others}
        output = functional_call(self._model, tensors, (x,))
        return self._work.objective(output, y), {name: tensors[name].detach() for name in others}

    def _check(self, share: Share, total: Tensor, round_index: int) -> None:
        if not torch.isfinite(total.sum()):
            error = find_divergence(self._work, share, total.tolist(), round_index)
            if error is not None:
                raise error


def _watch(values: Values, trained: Sequence[str]) -> tuple[Values, Values]:
    """Split into what gradients are wanted of, and the rest."""
    watched = {name: values[name].detach().requires_grad_() for name in trained}
    return watched, {name: value for name, value in values.items() if name not in watched}


def _keep(after: Values, others: Values) -> None:
    """Copy back buffers that a module replaced instead of updating in place."""
    for name, value in after.items():
        if value.data_ptr() != others[name].data_ptr():
            others[name].copy_(value)
