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
from fedlama.engines.cohort.batches import CohortBatches, Portion
from fedlama.engines.cohort.cohort import Share, find_divergence
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import Task
from fedlama.engines.trainers.chain import one_input
from fedlama.engines.trainers.dropout import client_generators, fill_mask
from fedlama.engines.trainers.model_graph import read_graph
from fedlama.kernels.kernel import can_compile, operation
from fedlama.kernels.program import Program, write_program
from fedlama.kernels.table import CONTEXT, COUNT, DECAYS, DO, MARGIN, NORM, PARAMETERS, UNDO, Scratch

if TYPE_CHECKING:
    from fedlama.kernels.advance import Round

_Given = tuple[Any, ...]
_WORTH = 1 << 24
"""Multiplications that are worth waking a thread for: 0.3 ms of work, while it takes 0.1 ms until it has begun."""
_NO_MASKS = np.empty((0, 0, 0), np.float32)


class CompiledTrainer:
    """Trains the rows of a share one after another, each through all its steps.

    Args:
        setup: The federation's fixed parts; its solver is SGD or FedProx in PyTorch's convention.
        batches: Where batches come from.
        program: The model.
    """

    def __init__(self, setup: EngineSetup, batches: CohortBatches, program: Program) -> None:
        from fedlama.kernels.advance import Round, advance  # needs Numba
        from fedlama.kernels.operations import OPERATIONS

        self._round, self._advance = Round, advance
        self._code = [[operation(function).address for function in OPERATIONS[row.kind]] for row in program.rows]
        self._setup, self._batches, self._program = setup, batches, program
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

    @property
    def products(self) -> int:
        """Multiplications of one sample's step, about."""
        return 3 * self._program.products

    @torch.no_grad()
    def run(self, share: Share, task: Task, helpers: WorkerThreads | None = None) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`.

        Args:
            share: Whose state to advance.
            task: The round's work.
            helpers: Threads that may take clients of the share too.
        """
        solver, program = self._setup.solver, self._program
        assert isinstance(solver, SGD)
        parameters, decays = self._parameters(share, task), self._decays(task, solver)  # both must outlive the kernel
        told = self._told(parameters, decays, solver)
        losses, done = np.zeros(len(share.clients)), 0
        drawn = sum(math.prod(size) for size, _ in program.masks)
        generators = client_generators(self._setup, task.round_index, share.clients) if drawn else []
        for portion in self._batches.several(share.clients, share.steps_done, task.steps, drawn):
            steps, _, batch = portion.rows.shape
            self._check_statistics(portion.lengths)
            table, scratch = self._place(batch, task.names)
            fresh = share.fresh and done == 0 and solver.momentum > 0.0
            sizes = self._sizes(portion, drawn, scratch, fresh)
            rates = np.array(task.rates[done : done + steps], np.float32)
            masks = self._masks(generators, portion.lengths, batch * drawn)
            x, y = portion.x.data_ptr(), portion.y.data_ptr()
            batches = rates, x, y, portion.rows, portion.lengths, masks
            self._call((table, self._reals), told, batches, losses, sizes, helpers)
            self._check(share, losses, task.round_index)
            done += steps
        for name in self._counts:
            share.values[name] += task.steps
        mean: list[float] = (losses / task.steps).tolist()
        return mean

    def _call(
        self, program: _Given, told: _Given, batches: _Given, losses: NDArray[np.float64], sizes: Round,
        helpers: WorkerThreads | None,
    ) -> None:  # fmt: skip
        """Run the kernel on as many threads as are worth it; each takes the next client when it is free."""
        products = sizes.clients * sizes.steps * sizes.batch * self.products
        count = min(helpers.count, sizes.clients, max(products // _WORTH, 1)) if helpers else 1
        self._scratches += [Scratch() for _ in range(count - len(self._scratches))]
        elements = sizes.scratch + sizes.spare + sizes.batch * math.prod(self._program.sizes[0])
        turn = np.zeros(1, np.int64)

        def work_off(worker: int) -> None:
            own = self._scratches[worker]
            own.resize(elements)
            notes = [one.copy() for one in told]  # where a thread writes down which client and step it is at
            given: _Given = (*program, *notes, *batches, own.room, own.state, losses, turn, sizes)
            self._advance(*given)

        helpers.join(work_off, count) if helpers and count > 1 else work_off(0)

    def _sizes(self, portion: Portion, drawn: int, scratch: int, fresh: bool) -> Round:
        """Put the numbers together that the kernel asks for."""
        channels, height, width = (*self._program.sizes[0], 0, 0)[:3]
        steps, clients, batch = portion.rows.shape
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

    def _parameters(self, share: Share, task: Task) -> NDArray[np.int64]:
        """Tell where everything lies; see :mod:`~fedlama.kernels.table`."""
        velocities = dict(
            zip(self._trainable, share.optimizer_state.get("velocity", ()), strict=False)
        )  # none without momentum
        reference = dict(zip(task.names, task.reference, strict=True)) if task.reference else {}
        trained = set(task.names)
        rows = []
        for name, elements, how in zip(self._names, self._elements, self._ways, strict=True):
            addresses = [_address(one) for one in (share.values[name], velocities.get(name), reference.get(name))]
            rows.append([*addresses, elements, how if name in trained else 0])
        return np.array(rows, np.int64)

    def _decays(self, task: Task, solver: SGD) -> NDArray[np.float32]:
        """Return every parameter's weight decay."""
        decayed = dict(zip(task.names, task.decayed, strict=True))
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

    def _check(self, share: Share, losses: NDArray[np.float64], round_index: int) -> None:
        if not math.isfinite(losses.sum()):  # one look at all of them
            error = find_divergence(self._setup, share, losses.tolist(), round_index)
            if error is not None:
                raise error


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
    x = one_input(setup)
    steps = read_graph(setup.model)
    if x is None or not steps or not all(parameter.requires_grad for parameter in setup.model.parameters()):
        return None
    shapes = {name: tuple(parameter.shape) for name, parameter in setup.model.named_parameters()}
    assert isinstance(setup.clients, TensorClients)  # as `one_input` says
    return write_program(steps, shapes, x.shape[2:], max(setup.clients.batch_sizes))
