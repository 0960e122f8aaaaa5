"""The trainer for compiled models: gathers batches, keeps the tables of addresses, and calls one kernel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlama.choices.solvers import SGD, FedProx
from fedlama.data.clients import TensorClients
from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import BatchBlock, CohortBatches
from fedlama.engines.cohort.cohort import CohortSlice, check_losses
from fedlama.engines.cohort.sizes import is_large
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.dropout import client_generators, fill_mask
from fedlama.engines.trainers.model_graph import example_input, read_graph
from fedlama.kernels.kernel import can_compile, operation
from fedlama.kernels.program import Program, write_program
from fedlama.kernels.table import CONTEXT, COUNT, DECAYS, DO, MARGIN, NORM, PARAMETERS, UNDO, Scratch

if TYPE_CHECKING:
    from fedlama.kernels.advance import Round

_Given = tuple[Any, ...]
_WORTH = 1 << 24
"""Multiplications that are worth waking a thread for: 0.3 ms of work, while it takes 0.1 ms until it has begun."""
_NO_MASKS = np.empty((0, 0, 0), np.float32)


class NumbaTrainer(Trainer):
    """Trains the clients of a slice one after another, each through all its steps.

    Args:
        setup: The federation's fixed parts; its solver is SGD or FedProx in PyTorch's convention.
        batches: Where batches come from.
        program: The model.
    """

    name = "NumbaTrainer"
    description = "kernels compiled by Numba"
    starts_fresh = True
    supports_threads = True

    def __init__(self, setup: EngineSetup, batches: CohortBatches, program: Program) -> None:
        from fedlama.kernels.advance import Round, advance  # needs Numba
        from fedlama.kernels.operations import OPERATIONS

        self._round, self._advance = Round, advance
        self._code = [[operation(function).address for function in OPERATIONS[row.kind]] for row in program.rows]
        self._setup, self._batches, self._program = setup, batches, program
        # A large model is given out client by client, so that no thread waits for another's last clients.
        self.rows_per_call = 1 if is_large(setup.model, setup.clients) else 64
        self.multiply_adds_per_sample: int = 3 * program.products  # forward, and two products of that size backward
        self._trainable = [name for name, _ in setup.model.named_parameters()]
        buffers = [name for name, buffer in setup.model.named_buffers() if buffer.is_floating_point()]
        self._names = [*self._trainable, *buffers]
        tensors = setup.model.state_dict()
        self._elements = [tensors[name].numel() for name in self._names]
        self._ways = [2 if name in program.moving else 1 for name in self._names]
        self._reals = np.array([row.reals for row in program.rows], np.float32)
        self._counts = [row.count for row in program.rows if row.count is not None]
        self._scratches = [Scratch()]
        self._placed: tuple[tuple[object, ...], NDArray[np.int64], int] = (), np.empty(0, np.int64), 0

    @torch.no_grad()
    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        solver, program = self._setup.solver, self._program
        assert isinstance(solver, SGD)
        parameters, decays = self._parameters(rows, work), self._decays(work, solver)  # both must outlive the kernel
        told = self._told(parameters, decays, solver)
        losses, done = np.zeros(len(rows.clients)), 0
        drawn = sum(math.prod(size) for size, _ in program.masks)
        generators = client_generators(self._setup, work.round_index, rows.clients) if drawn else []
        for block in self._batches.blocks(rows.clients, rows.steps_done, work.steps, drawn):
            steps, _, batch = block.rows.shape
            self._check_statistics(block.lengths)
            table, scratch = self._place(batch, work.names)
            fresh = rows.fresh and done == 0 and solver.momentum > 0.0
            sizes = self._sizes(block, drawn, scratch, fresh)
            rates = np.array(work.rates[done : done + steps], np.float32)
            masks = self._masks(generators, block.lengths, batch * drawn)
            x, y = block.x.data_ptr(), block.y.data_ptr()
            batches = rates, x, y, block.rows, block.lengths, masks
            self._call((table, self._reals), told, batches, losses, sizes, threads)
            self._check(rows, losses, work.round_index)
            done += steps
        for name in self._counts:
            rows.values[name] += work.steps
        mean: list[float] = (losses / work.steps).tolist()
        return mean

    def _call(
        self, program: _Given, told: _Given, batches: _Given, losses: NDArray[np.float64], sizes: Round,
        threads: WorkerThreads,
    ) -> None:  # fmt: skip
        """Run the kernel on as many threads as are worth it; each takes the next client when it is free."""
        products = sizes.clients * sizes.steps * sizes.batch * self.multiply_adds_per_sample
        count = min(threads.count, sizes.clients, max(products // _WORTH, 1))
        self._scratches += [Scratch() for _ in range(count - len(self._scratches))]
        elements = sizes.scratch + sizes.spare + sizes.batch * math.prod(self._program.sizes[0])
        turn = np.zeros(1, np.int64)

        def work_off(worker: int) -> None:
            own = self._scratches[worker]
            own.resize(elements)
            notes = [one.copy() for one in told]  # where a thread writes down which client and step it is at
            given: _Given = (*program, *notes, *batches, own.room, own.state, losses, turn, sizes)
            self._advance(*given)

        threads.run_parallel(work_off, count)

    def _sizes(self, block: BatchBlock, drawn: int, scratch: int, fresh: bool) -> Round:
        """Put the numbers together that the kernel asks for."""
        channels, height, width = (*self._program.sizes[0], 0, 0)[:3]
        steps, clients, batch = block.rows.shape
        spare, classes = self._program.spare(batch), self._program.classes
        return self._round(clients, steps, batch, channels, height, width, classes, drawn, scratch, spare, fresh)

    def _told(
        self, parameters: NDArray[np.int64], decays: NDArray[np.float32], solver: SGD
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Write down what operations are told of every step; see :mod:`~fedlama.kernels.table`."""
        context = np.zeros(CONTEXT, np.int64)
        context[PARAMETERS], context[DECAYS] = (_address(torch.from_numpy(table)) for table in (parameters, decays))
        context[COUNT], context[MARGIN] = len(parameters), self._program.margin
        pull = solver.proximal if isinstance(solver, FedProx) else 0.0
        return context, np.array([0.0, solver.momentum, pull], np.float32)

    def _place(self, batch: int, trained: tuple[str, ...]) -> tuple[NDArray[np.int64], int]:
        """Write the program down, unless the last time will do."""
        if self._placed[0] != (batch, trained):
            table, scratch = self._program.place(batch, self._names, trained)
            table[:, DO : UNDO + 1] = self._code
            self._placed = (batch, trained), table, scratch
        return self._placed[1:]

    def _masks(
        self, generators: Sequence[torch.Generator], lengths: NDArray[np.int64], room: int
    ) -> NDArray[np.float32]:
        """Draw every batch's dropout masks as the loop engine draws them: (steps, clients, room)."""
        if not generators:
            return _NO_MASKS
        masks = torch.empty(*lengths.shape, room)
        for client, generator in enumerate(generators):
            for step, own in enumerate(lengths[:, client].tolist()):
                here, begin = masks[step, client], 0
                for size, rate in self._program.masks:
                    end = begin + own * math.prod(size)
                    fill_mask(here[begin:end], rate, generator)
                    begin = end
        return masks.numpy()

    def _parameters(self, rows: CohortSlice, work: LocalSteps) -> NDArray[np.int64]:
        """Tell where everything lies; see :mod:`~fedlama.kernels.table`."""
        velocities = dict(
            zip(self._trainable, rows.optimizer_state.get("velocity", ()), strict=False)
        )  # none without momentum
        reference = dict(zip(work.names, work.reference, strict=True)) if work.reference else {}
        trained = set(work.names)
        table = []
        for name, elements, how in zip(self._names, self._elements, self._ways, strict=True):
            addresses = [_address(one) for one in (rows.values[name], velocities.get(name), reference.get(name))]
            table.append([*addresses, elements, how if name in trained else 0])
        return np.array(table, np.int64)

    def _decays(self, work: LocalSteps, solver: SGD) -> NDArray[np.float32]:
        """Return every parameter's weight decay."""
        decayed = dict(zip(work.names, work.decayed, strict=True))
        every = [solver.decay_normalisation or decayed.get(name, True) for name in self._names]
        return np.array([solver.weight_decay * own for own in every], np.float32)

    def _check_statistics(self, lengths: NDArray[np.int64]) -> None:
        """Refuse, as torch does, to normalise a channel by a single number."""
        areas = [math.prod(row.sizes[1:3]) for row in self._program.rows if row.kind == NORM]
        if areas and min(areas) * lengths.min() < 2:
            raise ValueError(
                f"batch norm in training needs more than one number per channel, but a client's batch of "
                f"{lengths.min()} sample meets images of one pixel there; give batches of two samples or more"
            )

    def _check(self, rows: CohortSlice, losses: NDArray[np.float64], round_index: int) -> None:
        if not math.isfinite(losses.sum()):  # one look at all of them
            check_losses(self._setup, rows, losses.tolist(), round_index)


def _address(tensor: Tensor | None) -> int:
    """Return where a dense tensor begins, 0 for none."""
    if tensor is None:
        return 0
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def compiled_form(setup: EngineSetup) -> Program | None:
    """Return the program of a federation's local work, or None if it has no compiled form here.

    Args:
        setup: The federation's fixed parts.
    """
    solver = setup.solver
    if not can_compile() or setup.device.type != "cpu" or type(solver) not in (SGD, FedProx):
        return None
    if getattr(solver, "velocity", "gradient") != "gradient":
        return None
    x = example_input(setup)
    steps = read_graph(setup.model)
    if x is None or not steps or not all(parameter.requires_grad for parameter in setup.model.parameters()):
        return None
    shapes = {name: tuple(parameter.shape) for name, parameter in setup.model.named_parameters()}
    assert isinstance(setup.clients, TensorClients)  # as `example_input` says
    return write_program(steps, shapes, x.shape[2:], max(setup.clients.batch_sizes))
