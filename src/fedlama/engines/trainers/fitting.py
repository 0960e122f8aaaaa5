"""The trainer that cuts a slice into as many parts as the device's memory requires.

A GPU is fastest with all clients at once, but the activations of all clients may not fit. How much memory a step takes
is measured once, before the first step, on copies of one client's row: models, optimizer state, random numbers and data
stay as they are. How many clients fit is decided once for each number of rows, so a run computes alike in all rounds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Protocol

import torch

from fedlama.data.clients import TensorClients
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import LocalSteps, Trainer

MARGIN = 0.2
"""Fraction of the free memory to leave alone: allocated blocks leave gaps, and more clients may need more workspace."""


class DeviceMemory(Protocol):
    """Measures the memory of one device."""

    def free(self) -> int:
        """Return the bytes that can still be allocated."""

    def peak(self, compute: Callable[[], object]) -> int:
        """Run something and return the bytes it held at its peak, beyond those held before."""


class CudaMemory:
    """The memory of a CUDA device, as torch's allocator counts it.

    Args:
        device: Which.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Return the bytes that are free on the device, and those that torch has reserved and not allocated."""
        unused, _ = torch.cuda.mem_get_info(self._device)
        reserved = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return unused + reserved

    def peak(self, compute: Callable[[], object]) -> int:
        """Run something and return the bytes it held at its peak; this resets the device's peak statistics."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        compute()
        return torch.cuda.max_memory_allocated(self._device) - before


def clients_that_fit(free: int, one_client: int, two_clients: int, margin: float = MARGIN) -> int:
    """Return how many clients can take a step together, at least one.

    The need is assumed to grow evenly from the second client on; the rest of the first client's need is shared by all.

    Args:
        free: Bytes that can still be allocated.
        one_client: Bytes that a step of one client takes at its peak.
        two_clients: Bytes that a step of two clients takes at its peak.
        margin: Fraction of the free bytes to leave alone: allocated blocks leave gaps, and kernels for many clients may
            need larger workspaces than those for two.

    >>> clients_that_fit(free=1000, one_client=120, two_clients=200)
    9
    >>> clients_that_fit(free=1000, one_client=900, two_clients=1700)
    1
    """
    return max(1 + int((1.0 - margin) * free - one_client) // max(two_clients - one_client, 1), 1)


def lanes_and_slots_that_fit(free: int, activations: int, per_slot: int, lanes: int, slots: int) -> tuple[int, int]:
    """Return how many lanes and slots fit the memory, at least one of each.

    Args:
        free: Bytes that can still be allocated.
        activations: Bytes that a step holds at its peak; each lane has its own.
        per_slot: Bytes of a slot.
        lanes: Lanes that are wanted, at most.
        slots: Slots that are wanted, at most.

    >>> lanes_and_slots_that_fit(free=1000, activations=50, per_slot=10, lanes=16, slots=256)
    (8, 40)
    """
    room = int((1 - MARGIN) * free)
    lanes = max(min(lanes, room // 2 // max(activations, 1)), 1)
    return lanes, max(min(slots, (room - lanes * activations) // max(per_slot, 1)), 1)


class FittingTrainer(Trainer):
    """Trains the rows of a slice part by part.

    Args:
        inner: Trains a part.
        probe: Takes the steps that are measured: a trainer like `inner`, or `inner` itself.
        clients: All clients' data, to find the largest batch.
        memory: The device's.
    """

    rows_per_call = None

    def __init__(self, inner: Trainer, probe: Trainer, clients: TensorClients, memory: DeviceMemory) -> None:
        self.name, self.description, self.precision = inner.name, inner.description, inner.precision
        self._inner, self._probe, self._clients, self._memory = inner, probe, clients, memory
        self._need: tuple[int, int] | None = None
        self._limits: dict[int, int] = {}

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        count = len(rows.clients)
        if count not in self._limits:
            self._need = self._need or self._measure(rows, work, threads)
            self._limits[count] = clients_that_fit(self._memory.free(), *self._need)
        parts = -(-count // self._limits[count])
        edges = [count * part // parts for part in range(parts + 1)]
        slices = [rows.part(slice(start, end)) for start, end in pairwise(edges)]
        return [loss for part in slices for loss in self._inner.run(part, work, threads)]

    def rehearsed(self) -> Trainer:
        """Return the trainer of a part: two rows always fit, and must not be what the memory is measured with."""
        return self._inner.rehearsed()

    def _measure(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> tuple[int, int]:
        """Return the bytes that a step takes of one client and of two, each with the largest batch."""
        row = max(range(len(rows.clients)), key=lambda index: self._batch_size(rows.clients[index]))
        once = replace(work, steps=1, rates=work.rates[:1], generators=None)

        def step(count: int) -> None:
            self._probe.run(_copies(rows, row, count), once, threads)

        step(1)  # libraries allocate their workspaces at the first call
        return self._memory.peak(lambda: step(1)), self._memory.peak(lambda: step(2))

    def _batch_size(self, client: int) -> int:
        return min(self._clients.batch_sizes[client], self._clients.samples(client))


def _copies(rows: CohortSlice, row: int, count: int) -> CohortSlice:
    """Return `count` copies of a row, at the client's first batch, which is a full one."""
    indices = [row] * count
    return CohortSlice(
        (rows.clients[row],) * count,
        {name: value[indices] for name, value in rows.values.items()},
        {kind: [buffer[indices] for buffer in buffers] for kind, buffers in rows.optimizer_state.items()},
        (0,) * count,
    )
