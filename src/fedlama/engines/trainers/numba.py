"""The trainer for models that have compiled kernels: gathers batches and hands NumPy views to :mod:`fedlama.kernels`.

This is the one file that knows both PyTorch's tensors and the kernels' door.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.choices.solvers.sgd import plain_sgd
from fedlama.data.clients import tensor_clients
from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import BatchBlock, CohortBatches
from fedlama.engines.cohort.cohort import CohortSlice, check_losses
from fedlama.engines.cohort.sizes import is_large
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.dropout import client_generators, fill_mask
from fedlama.engines.trainers.model_graph import example_batch, read_graph
from fedlama.kernels import Batches, Model, Scratch, SGDSettings, StackedTensor, can_compile, plan_model

_WORTH = 1 << 24
"""Multiplications that are worth waking a thread for: 0.3 ms of work, while it takes 0.1 ms until it has begun."""


class NumbaTrainer(Trainer):
    """Trains the clients of a slice one after another, each through all its steps.

    Args:
        setup: The federation's fixed parts; its solver has a :func:`~fedlama.choices.solvers.sgd.plain_sgd`.
        batches: Where batches come from.
        model: The model's kernels.
    """

    name = "NumbaTrainer"
    description = "kernels compiled by Numba"
    starts_fresh = True
    supports_threads = True

    def __init__(self, setup: EngineSetup, batches: CohortBatches, model: Model) -> None:
        model.compile()
        self._setup, self._batches, self._model = setup, batches, model
        solver = plain_sgd(setup.solver)
        assert solver is not None  # as `compiled_form` says
        self._solver = solver
        # A large model is given out client by client, so that no thread waits for another's last clients.
        self.rows_per_call = 1 if is_large(setup.model, setup.clients) else 64
        self.multiply_adds_per_sample: int = 3 * model.multiply_adds  # forward, and two products of that size backward
        self._trainable = [name for name, _ in setup.model.named_parameters()]
        self._scratches = [Scratch()]

    @torch.no_grad()
    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        solver = self._solver
        tensors = self._tensors(rows, work)
        losses, done = np.zeros(len(rows.clients)), 0
        drawn = sum(math.prod(size) for size, _ in self._model.masks)
        generators = client_generators(self._setup, work.round_index, rows.clients, work.generators) if drawn else []
        for block in self._batches.blocks(rows.clients, rows.steps_done, work.steps, drawn):
            rates = np.array(work.rates[done : done + len(block.rows)], np.float32)
            settings = SGDSettings(rates, solver.momentum, solver.proximal or 0.0, fresh=rows.fresh and done == 0)
            masks = self._masks(generators, block.lengths, block.rows.shape[2] * drawn) if drawn else None
            batches = Batches(block.x.numpy(), block.y.numpy(), block.rows, block.lengths, masks)
            scratches = self._scratches_for(block, threads)
            self._model.run(tensors, batches, settings, losses, scratches, threads.run_parallel)
            if not math.isfinite(losses.sum()):  # one look at all of them
                check_losses(self._setup, rows, losses.tolist(), work.round_index)
            done += len(block.rows)
        for name in self._model.counters:
            rows.values[name] += work.steps
        mean: list[float] = (losses / work.steps).tolist()
        return mean

    def _scratches_for(self, block: BatchBlock, threads: WorkerThreads) -> list[Scratch]:
        """Return scratch for as many threads as the block's work is worth."""
        clients = block.rows.shape[1]
        multiply_adds = block.rows.size * self.multiply_adds_per_sample
        count = min(threads.count, clients, max(multiply_adds // _WORTH, 1))
        self._scratches += [Scratch() for _ in range(count - len(self._scratches))]
        return self._scratches[:count]

    def _masks(
        self, generators: Sequence[torch.Generator], lengths: NDArray[np.int64], elements: int
    ) -> NDArray[np.float32]:
        """Draw every batch's dropout masks as the loop engine draws them: (steps, clients, elements)."""
        masks = torch.empty(*lengths.shape, elements)  # (steps, clients, elements)
        for client, generator in enumerate(generators):
            for step, length in enumerate(lengths[:, client].tolist()):
                begin = 0
                for size, rate in self._model.masks:
                    end = begin + length * math.prod(size)
                    fill_mask(masks[step, client, begin:end], rate, generator)
                    begin = end
        return masks.numpy()

    def _tensors(self, rows: CohortSlice, work: LocalSteps) -> dict[str, StackedTensor]:
        """Give the kernels views of the slice's state."""
        buffers = rows.optimizer_state.get("velocity", ())  # empty without momentum
        velocities = {name: buffer.numpy() for name, buffer in zip(self._trainable, buffers, strict=False)}
        reference = dict(zip(work.names, work.reference, strict=True)) if work.reference else {}
        decayed = dict(zip(work.names, work.update.decayed, strict=True))
        return {
            name: StackedTensor(
                rows.values[name].numpy(),
                velocities.get(name),
                reference[name].numpy() if name in reference else None,
                self._solver.decay(decayed.get(name, True)),
                name in decayed,
            )
            for name in self._model.names
        }


def compiled_form(setup: EngineSetup) -> Model | None:
    """Return the kernels of a federation's local work, or None if there are none for it here.

    Args:
        setup: The federation's fixed parts.
    """
    if setup.micro_batch_size is not None or setup.personal is not None:  # kernels take whole batches, for all layers
        return None
    if not can_compile() or setup.device.type != "cpu" or plain_sgd(setup.solver) is None:
        return None
    batch = example_batch(setup)
    if batch is None or not all(parameter.requires_grad for parameter in setup.model.parameters()):
        return None
    x, y = batch
    tokens = x.dtype == torch.int64
    steps = read_graph(setup.model, x.shape[2:] if tokens else None)
    clients = tensor_clients(setup.clients)
    if not steps or clients is None:
        return None
    shapes = {name: tuple(parameter.shape) for name, parameter in setup.model.named_parameters()}
    model = plan_model(steps, shapes, x.shape[2:], max(clients.batch_sizes))
    fits = model is not None and (model.takes_tokens, model.label_shape) == (tokens, tuple(y.shape[2:]))
    return model if fits else None
