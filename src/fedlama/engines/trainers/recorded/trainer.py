"""The trainer that records every client's step and replays it, for any module.

A round copies the clients' models into slots. At every step their batches are copied too, recordings of some slots each
compute gradients, and the solver steps for all slots together.

Batches of another shape than the usual one (the short last batch of an epoch, texts of other lengths) are computed by
guests: a guest is a slot with a recording for one shape, into which a client's model is copied for this step. At the
same time the client's own slot computes something from an old batch, with its neighbours in the recording; the guest's
results replace it. Guests for the short batches of tensors are recorded in the first round, and for other shapes when
they first come up. When there are too many shapes, the rest are not recorded.

Results do not depend on lanes, shares or guests: each client is computed by the same kernels with the same shapes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from fedlama.core.trees import Signature, Tree, leaves, pick, signature, stack
from fedlama.data.clients import is_pure
from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches, StackedBatch
from fedlama.engines.cohort.cohort import CohortSlice, check_losses
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.dropout import client_generators
from fedlama.engines.trainers.fitting import CudaMemory, DeviceMemory, lanes_and_slots_that_fit
from fedlama.engines.trainers.gradients import Precision
from fedlama.engines.trainers.recorded.client_step import ClientStep, StepTensors
from fedlama.engines.trainers.recorded.guests import MOST_GUESTS, Guests, Visit
from fedlama.engines.trainers.recorded.kernel_choice import kernels
from fedlama.engines.trainers.recorded.lanes import CudaLanes, Lanes, PlainLanes, Step
from fedlama.engines.trainers.recorded.slots import Slots

_MOST_SLOTS = 256
"""Clients of a share, at most: recording takes about 10 ms for each slot."""


class RecordedTrainer(Trainer):
    """Trains clients with recorded steps.

    Args:
        setup: The federation's fixed parts.
        batches: Where batches come from.
        precision: The numbers that the model computes in.
        torch_compiled: Whether a client's step goes through ``torch.compile`` before it is recorded.
        lanes: Clients of a recording, which run beside each other.
        share: Clients that have slots at a time, at most; None for as many as fit the memory.
        autotune: Whether cuDNN tries which of its kernels are fastest for the usual shape, if not in float32.
        memory: Measures the device's memory, if `share` is None.
        make_lanes: Makes lanes, given their number; by default streams on CUDA, and elsewhere a plain lane.
    """

    name = "RecordedTrainer"
    rows_per_call = None

    def __init__(
        self,
        setup: EngineSetup,
        batches: CohortBatches,
        precision: Precision = "float32",
        torch_compiled: bool = False,
        lanes: int = 16,
        share: int | None = None,
        autotune: bool = False,
        memory: DeviceMemory | None = None,
        make_lanes: Callable[[int], Lanes] | None = None,
    ) -> None:
        self._arguments = (setup, batches, precision, False, lanes, share, autotune, memory, make_lanes)
        on_cuda = setup.device.type == "cuda"
        self._setup, self._batches, self.precision = setup, batches, precision
        self._torch_compiled, self._lane_count, self._share = torch_compiled, lanes, share
        self._autotune = autotune
        self._memory = memory or (CudaMemory(setup.device) if on_cuda else None)
        self._make_lanes = make_lanes or (lambda count: CudaLanes(setup.device, count) if on_cuda else PlainLanes())
        self._names = setup.parameter_names
        self._client_step: ClientStep | None = None
        self._lanes: Lanes = PlainLanes()
        self._slots: Slots | None = None
        self._usual: Signature | None = None
        self._tensors: list[StepTensors] = []
        self._recordings: list[Step] = []  # of as many neighbouring slots as there are lanes
        self._buffers = [name for name, _ in setup.model.named_buffers()]  # those that a step writes
        self._guests: Guests | None = None
        words = ["every client's step recorded" if on_cuda else "every client's step as a GPU would record it"]
        words += [precision] if precision != "float32" else []
        words += ["steps torch-compiled where the model allows it"] if torch_compiled else []
        self.description = ", ".join(words)

    def rehearsed(self) -> Trainer:
        """Return a trainer of its own that takes the same steps, without torch.compile: two rows need few slots."""
        return RecordedTrainer(*self._arguments)

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        with kernels(self.precision, self._autotune):
            count = len(rows.clients)
            parts = -(-count // min(self._share_of(rows), count))
            edges = [-(-count * part // parts) for part in range(parts + 1)]  # the largest first: it has most slots
            slices = [rows.part(slice(start, end)) for start, end in pairwise(edges)]
            return [loss for part in slices for loss in self._train(part, work)]

    def _train(self, rows: CohortSlice, work: LocalSteps) -> list[float]:
        """Train the clients of a share."""
        count = len(rows.clients)
        total = torch.zeros(count, dtype=torch.float64, device=self._setup.device)
        generators: list[torch.Generator] = []
        state = {kind: [buffers[index] for index in work.trained] for kind, buffers in rows.optimizer_state.items()}
        parameters: list[Tensor] = []
        gradients: list[Tensor] = []
        slots = self._slots
        for step, groups in enumerate(self._batches.steps(rows.clients, rows.steps_done, work.steps)):
            if step == 0:
                slots = self._ready(rows, groups)
                slots.take(rows)
                if self._draws:
                    generators = client_generators(self._setup, work.round_index, rows.clients, work.generators)
                for mine, drawn in zip(slots.generators, generators, strict=False):
                    mine.set_state(drawn.get_state())
                parameters = [slots.values[name][:count] for name in work.names]
                gradients = [slots.gradients[index][:count] for index in work.trained]
            assert slots is not None
            slots.cast_weights(count)
            self._compute(slots, groups)
            self._count_batches(slots, count)
            total += slots.losses[:count]
            work.update(parameters, gradients, state, work.rates[step], work.reference)
            if not self._lanes.records:  # on CUDA one look at the end saves waiting at every step
                slots_rows = CohortSlice(rows.clients, slots.values, {}, rows.steps_done)
                check_losses(self._setup, slots_rows, total.tolist(), work.round_index)
        assert slots is not None
        slots.give_back(rows)
        for mine, drawn in zip(slots.generators, generators, strict=False):
            drawn.set_state(mine.get_state())
        means = (total / work.steps).tolist()
        check_losses(self._setup, rows, means, work.round_index)
        return means

    def _compute(self, slots: Slots, groups: Sequence[StackedBatch]) -> None:
        """Compute a step's losses and gradients of all clients of a share."""
        assert self._guests is not None
        usual: list[int] = []
        visits: list[Visit] = []
        for group in groups:
            if _signature_of(group.batch) == self._usual:
                slots.put_batches(group.rows, group.batch)
                usual += group.rows
            else:
                visits += [Visit(self._tensors[slot], pick(group.batch, k)) for k, slot in enumerate(group.rows)]
        states = self._guests.begin(visits)
        for index in sorted({slot // len(self._lanes) for slot in usual}):
            self._recordings[index]()
        self._guests.finish(visits, states)

    def _count_batches(self, slots: Slots, count: int) -> None:
        """Raise the counters that steps leave out."""
        assert self._client_step is not None
        for amount in set(self._client_step.shared.counters.values()):
            raised = [name for name, by in self._client_step.shared.counters.items() if by == amount]
            torch._foreach_add_([slots.values[name][:count] for name in raised], amount)

    def _share_of(self, rows: CohortSlice) -> int:
        """Return how many clients have slots at a time, at most; at the first call it is measured."""
        if self._share is None:
            self._share = _MOST_SLOTS
            if self._memory is not None and is_pure(self._setup.clients):
                (groups,) = self._batches.steps(rows.clients, rows.steps_done, 1)
                activations, trial = self._observe(rows, groups)
                self._lane_count, self._share = lanes_and_slots_that_fit(
                    self._memory.free(), activations, trial.nbytes, self._lane_count, self._share
                )
                self._lanes = self._chosen_lanes(trial)
        return self._share

    def _observe(self, rows: CohortSlice, groups: Sequence[StackedBatch]) -> tuple[int, Slots]:
        """Compute a client's first step on copies, to find out what the model draws and what memory a step takes.

        Returns:
            Bytes that a step holds at its peak, or 0 if they are not measured; and the slot that was used.
        """
        batch = _usual_batch(groups)
        trial = Slots.allocate(1, rows.values, self._names, batch)
        trial.take(rows.part(slice(0, 1)))
        trial.put_batches([0], stack([batch]))
        tensors = trial.of_client(0)
        self._client_step = ClientStep(self._setup, self.precision, self._torch_compiled)
        self._client_step.observe(tensors)  # libraries also allocate their workspaces at the first call
        self._client_step(tensors)
        step = partial(self._client_step, tensors)
        return (0 if self._memory is None else self._memory.peak(step)), trial

    def _chosen_lanes(self, trial: Slots) -> Lanes:
        """Return the lanes in which the model's steps run; the trial slot may be changed."""
        assert self._client_step is not None
        lanes = self._make_lanes(self._lane_count)
        if self._client_step.draws != "global" or not lanes.records:
            if lanes.records:
                self._client_step.share_work(trial.of_client(0))
                counters = self._client_step.shared.counters
                self._buffers = [name for name in self._buffers if name not in counters]
            return lanes
        warnings.warn(
            f"the model {type(self._setup.model).__name__} draws random numbers beside dropout, which a recording "
            "cannot repeat for each client; its steps are not recorded, which is slower",
            stacklevel=2,
        )
        return PlainLanes()

    def _ready(self, rows: CohortSlice, groups: Sequence[StackedBatch]) -> Slots:
        """Return recorded slots for the clients of a share; they are made when more clients come than before."""
        if self._slots is not None and len(self._slots) >= len(rows.clients):
            return self._slots
        if self._client_step is None:
            self._lanes = self._chosen_lanes(self._observe(rows, groups)[1])
        assert self._client_step is not None
        batch = _usual_batch(groups)
        self._usual, self._recordings = signature(batch), []  # the old ones hold memory
        cast = self._client_step.shared.cast
        self._slots = slots = Slots.allocate(len(rows.clients), rows.values, self._names, batch, cast)
        self._tensors = [slots.of_client(slot) for slot in range(len(slots))]
        if self._lanes.records:  # libraries load their kernels, and torch.compile is done, before anything is recorded
            self._client_step(self._tensors[0])
        try:
            self._recordings = self._recorded()
        except RuntimeError as error:
            warnings.warn(
                f"the steps of the model {type(self._setup.model).__name__} cannot be recorded, so they run as they "
                f"are, which is slower ({str(error).splitlines()[0]})",
                stacklevel=2,
            )
            self._lanes = PlainLanes()
            self._recordings = self._recorded()
        self._guests = Guests(self._client_step, self._lanes, slots, self._names, self._buffers, self.precision)
        if self._lanes.records:
            self._expect_guests(self._guests, batch)
        return slots

    def _expect_guests(self, guests: Guests, usual: Tree) -> None:
        """Record the guests for the short batches that will come up, so that no round has to wait for one."""
        lengths: set[int] = getattr(self._setup.clients, "batch_lengths", set)()
        for length in sorted(lengths, reverse=True)[:MOST_GUESTS]:
            if length < len(leaves(usual)[0]):
                guests.expect(pick(usual, slice(0, length)))

    def _recorded(self) -> list[Step]:
        """Return recordings of all slots."""
        assert self._client_step is not None
        recordings = []
        for first in range(0, len(self._tensors), len(self._lanes)):
            chosen = self._tensors[first : first + len(self._lanes)]
            steps = [partial(self._client_step, tensors) for tensors in chosen]
            recordings.append(self._lanes.record(steps, [t.generator for t in chosen] if self._draws else []))
        return recordings

    @property
    def _draws(self) -> bool:
        """Whether the model has dropout."""
        return self._client_step is not None and self._client_step.draws != "nothing"


def _usual_batch(groups: Sequence[StackedBatch]) -> Tree:
    """Return a batch of the shape that most clients have."""
    return pick(max(groups, key=lambda group: len(group.rows)).batch, 0)


def _signature_of(batch: Tree) -> Signature:
    """Return the signature of one client's batch; leaves of `batch` are (clients, batch, ...)."""
    return signature(pick(batch, 0))
