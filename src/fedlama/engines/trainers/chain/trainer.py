"""The trainer for chains: forward pass, backward pass and update written out, on all rows of a share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Share, find_divergence
from fedlama.engines.trainers.base import Task
from fedlama.engines.trainers.chain.base import Operation, Sink
from fedlama.engines.trainers.chain.loss import cross_entropy
from fedlama.engines.trainers.chain.shape import Dropout
from fedlama.engines.trainers.chain.update import make_update
from fedlama.engines.trainers.dropout import client_generators, draw_mask


class ChainTrainer:
    """Trains all rows of a share at once.

    Args:
        setup: The federation's fixed parts; its objective is cross-entropy of one class per sample.
        batches: Where batches come from.
        operations: The model; see :func:`fedlama.engines.trainers.chain.translate`.
    """

    def __init__(self, setup: EngineSetup, batches: CohortBatches, operations: Sequence[Operation]) -> None:
        self._setup = setup
        self._batches = batches
        self._operations = list(operations)
        self._draws = any(isinstance(operation, Dropout) for operation in operations)

    @torch.no_grad()
    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        for operation in self._operations:
            operation.bind(share.values)
        update = make_update(self._setup.solver, share, task)
        masks = _Masks(client_generators(self._setup, task.round_index, share.clients) if self._draws else [])
        lowest = self._lowest(task)
        total = torch.zeros(len(share.clients), dtype=torch.float64, device=self._setup.device)
        for step, batch in enumerate(self._batches.padded(share.clients, share.steps_done, task.steps)):
            masks.lengths = batch.lengths
            logits = self._forward(batch.x, masks)
            losses, gradient = cross_entropy(logits, batch.y, batch.shares)
            self._backward(gradient, update.sink(step), lowest)
            update.finish(step)
            total += losses
            if self._setup.device.type == "cpu":  # elsewhere one look at the end spares a synchronisation per step
                self._check(share, total, task.round_index)
        self._check(share, total, task.round_index)
        return (total / task.steps).tolist()

    def _forward(self, x: Tensor, masks: _Masks) -> Tensor:
        for operation in self._operations:
            x = operation.forward(x, masks)
        return x

    def _backward(self, gradient: Tensor, sink: Sink, lowest: int) -> None:
        for place in range(len(self._operations) - 1, lowest - 1, -1):
            gradient = self._operations[place].backward(gradient, sink, wanted=place > lowest)

    def _lowest(self, task: Task) -> int:
        """Return the first operation that has something to train: below it no gradient is needed."""
        trained = set(task.names)
        places = [i for i, operation in enumerate(self._operations) if trained.intersection(operation.parameters)]
        return min(places, default=len(self._operations))

    def _check(self, share: Share, total: Tensor, round_index: int) -> None:
        if not torch.isfinite(total.sum()):
            error = find_divergence(self._setup, share, total.tolist(), round_index)
            if error is not None:
                raise error


class _Masks:
    """Draws every client's dropout masks as the loop engine draws them."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        self._generators = generators
        self.lengths: Sequence[int] | None = None

    def mask(self, shape: Sequence[int], rate: float) -> list[Tensor]:
        """Return one mask per client; rows that only fill up a short batch are 0."""
        batch, *rest = shape
        masks = []
        for row, generator in enumerate(self._generators):
            own = batch if self.lengths is None else self.lengths[row]
            mask = draw_mask((own, *rest), rate, generator)
            masks.append(mask if own == batch else torch.cat([mask, mask.new_zeros(batch - own, *rest)]))
        return masks
