"""The trainer that takes the rows of a share one after another, each with the ordinary kernels for one model.

Convolution nets are bound by arithmetic on a CPU: there one client per thread is as fast as the machine. It is also
what is left for models that ``torch.func.vmap`` cannot vectorise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Share, find_divergence
from fedlama.engines.loop import keep_reassigned_buffers
from fedlama.engines.trainers.base import Task
from fedlama.engines.trainers.dropout import ClientDropout, borrowed_generator, client_generators, watched_generator


class SerialTrainer:
    """Trains one client after another, in place in the stacked state.

    Args:
        setup: The federation's fixed parts.
        batches: Where batches come from.
        channels_last: Whether images are handed over channels-last.
    """

    def __init__(self, setup: EngineSetup, batches: CohortBatches, channels_last: bool) -> None:
        self._setup = setup
        self._batches = batches
        self._channels_last = channels_last
        self._forward: Callable[[Tensor, torch.Generator], Tensor] = self._first
        self._model = copy.deepcopy(setup.model).to(setup.device).train()
        self._slots = {**dict(self._model.named_parameters()), **dict(self._model.named_buffers())}
        self._buffers = [name for name, _ in self._model.named_buffers()]

    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        return [self._train(share, row, task) for row in range(len(share.clients))]

    def _train(self, share: Share, row: int, task: Task) -> float:
        values = {name: value[row] for name, value in share.values.items()}
        for name, value in values.items():
            self._slots[name].data = value  # compute with the client's own tensors; nothing is copied
        watched = [self._slots[name] for name in task.names]
        parameters = [values[name] for name in task.names]
        optimizer_state = {
            kind: [buffers[index][row] for index in task.trained] for kind, buffers in share.optimizer_state.items()
        }
        (generator,) = client_generators(self._setup, task.round_index, share.clients[row : row + 1])
        total, solver = 0.0, self._setup.solver
        batches = self._batches.steps(share.clients[row : row + 1], share.steps_done[row : row + 1], task.steps)
        for step, ((batch),) in enumerate(batches):
            loss = self._loss(batch.x[0], batch.y[0], generator)
            gradients = torch.autograd.grad(loss, watched, materialize_grads=True)
            solver.step(parameters, gradients, optimizer_state, task.rates[step], task.decayed, task.reference)
            total += float(loss.detach())
            if total - total != 0.0:
                self._raise(share, row, total, task.round_index)
        keep_reassigned_buffers(self._model, self._slots, self._buffers, values)
        return total / task.steps

    def _loss(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        if self._channels_last and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        return self._setup.objective(self._forward(x, generator), y)

    def _first(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Find out at the first batch what the model draws at random, so that later ones pay only for what it does."""
        before = {name: self._slots[name].data.clone() for name in self._buffers}
        start = generator.get_state()
        with watched_generator() as drew, ClientDropout([generator]) as dropout:
            output = self._plain(x, generator)
        self._forward = self._borrowing if drew[0] else self._dropping if dropout.used else self._plain
        if not drew[0]:
            return output
        for name, value in before.items():
            self._slots[name].data.copy_(value)
        generator.set_state(start)
        return self._forward(x, generator)

    def _plain(self, x: Tensor, generator: torch.Generator) -> Tensor:
        output: Tensor = self._model(x)
        return output

    def _dropping(self, x: Tensor, generator: torch.Generator) -> Tensor:
        with ClientDropout([generator]):
            return self._plain(x, generator)

    def _borrowing(self, x: Tensor, generator: torch.Generator) -> Tensor:
        with borrowed_generator(generator):
            return self._plain(x, generator)

    def _raise(self, share: Share, row: int, total: float, round_index: int) -> None:
        losses = [0.0] * len(share.clients)
        losses[row] = total
        error = find_divergence(self._setup, share, losses, round_index)
        if error is not None:
            raise error
