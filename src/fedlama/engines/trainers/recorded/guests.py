"""Guests: slots for batches of unusual shapes, into which a client's model is copied for one step.

While a guest computes a client, the client's own slot computes something from an old batch, with its neighbours in the
recording. So the client's buffers are kept before, and the guest's results replace those of the slot afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fedlama.core.devices import copy_all
from fedlama.core.trees import Signature, Tree, leaves, signature
from fedlama.engines.trainers.gradients import Precision
from fedlama.engines.trainers.recorded.client_step import ClientStep, StepTensors
from fedlama.engines.trainers.recorded.kernel_choice import kernels
from fedlama.engines.trainers.recorded.lanes import Lanes, Step
from fedlama.engines.trainers.recorded.slots import Slots

MOST_GUESTS = 64
"""Shapes of unusual batches that are recorded."""


@dataclass(frozen=True)
class Visit:
    """One client's step with a guest.

    Attributes:
        client: The tensors of the client's slot.
        batch: Its batch.
    """

    client: StepTensors
    batch: Tree


@dataclass(frozen=True)
class _Guest:
    """A slot for batches of one unusual shape.

    Attributes:
        number: Its number.
        tensors: Its tensors.
        replay: Computes its step.
    """

    number: int
    tensors: StepTensors
    replay: Step


class Guests:
    """Computes clients whose batches have unusual shapes.

    Args:
        client_step: Computes a step.
        lanes: Records steps and replays them.
        slots: The slots of the clients.
        names: The parameters that require a gradient.
        buffers: The buffers that a step writes.
        precision: The numbers that the model computes in.
    """

    def __init__(
        self,
        client_step: ClientStep,
        lanes: Lanes,
        slots: Slots,
        names: Sequence[str],
        buffers: Sequence[str],
        precision: Precision,
    ) -> None:
        self._step, self._lanes, self._slots, self._precision = client_step, lanes, slots, precision
        self._names, self._buffers = names, buffers
        self._first_buffer = len(names) + 1  # in the results of a step, after the gradients and the loss
        self._draws = client_step.draws != "nothing"
        self._guests: dict[Signature, _Guest] = {}
        self._results: list[list[Tensor]] = []  # memory for clients' results, used again at every step

    def expect(self, batch: Tree) -> None:
        """Record a step for batches of a shape, if there is no guest for it.

        Args:
            batch: A batch of this shape, leaves (batch, ...).
        """
        self._guest(batch)

    def begin(self, visits: Sequence[Visit]) -> list[Tensor]:
        """Let guests compute clients, beside what comes next.

        Args:
            visits: The clients.

        Returns:
            The states in which the clients' random generators will be.
        """
        guests = [self._guest(visit.batch) for visit in visits]
        self._results += [
            [torch.empty_like(value) for value in visit.client.results(self._buffers)]
            for visit in visits[len(self._results) :]
        ]
        first = self._first_buffer
        for visit, kept in zip(visits, self._results, strict=False):
            copy_all(kept[first:], visit.client.results(self._buffers)[first:])
        states = []
        for visit, guest, kept in zip(visits, guests, self._results, strict=False):
            room, client = guest.tensors, visit.client
            with self._lanes.guest(guest.number):
                copy_all(
                    [*(room.values[name] for name in self._names), *room.results(self._buffers)[first:]],
                    [*(client.values[name] for name in self._names), *kept[first:]],
                )
                copy_all([*room.cast.values(), *leaves(room.batch)], [*client.cast.values(), *leaves(visit.batch)])
                if self._draws:
                    room.generator.set_state(client.generator.get_state())
                guest.replay()
                states.append(room.generator.get_state())
                copy_all(kept, room.results(self._buffers))
        return states

    def finish(self, visits: Sequence[Visit], states: Sequence[Tensor]) -> None:
        """Put the guests' results into the clients' slots.

        Args:
            visits: The clients.
            states: What :meth:`begin` returned.
        """
        if visits:
            self._lanes.join()
        for visit, kept, state in zip(visits, self._results, states, strict=False):
            copy_all(visit.client.results(self._buffers), kept)
            if self._draws:
                visit.client.generator.set_state(state)

    def _guest(self, batch: Tree) -> _Guest:
        """Return the guest for batches like this one."""
        shape = signature(batch)
        if shape in self._guests:
            return self._guests[shape]
        slots, number = self._slots, len(self._guests)
        tensors = Slots.allocate(1, slots.values, self._names, batch, list(slots.cast)).of_client(0)
        step: Step = partial(self._step, tensors, usual=False)
        if number == MOST_GUESTS:
            return _Guest(0, tensors, step)
        with kernels(self._precision, autotune=False):  # it takes seconds for each shape
            step()  # libraries load their kernels for this shape; the numbers are overwritten
            with contextlib.suppress(RuntimeError):  # a shape that cannot be recorded runs as it is
                step = self._lanes.record([step], [tensors.generator] if self._draws else [], number)
        self._guests[shape] = _Guest(number, tensors, step)
        return self._guests[shape]
