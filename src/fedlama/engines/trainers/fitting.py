"""The trainer that takes the rows of a share in as many pieces as the device's memory asks for.

A GPU is fastest with all clients at once, and activations of all clients may not fit. What a step takes is measured
once, before the first one, on copies of one client's row: models, solver buffers, random numbers and data stay as they
are. How many clients fit is decided once for each size of a share, so that a run computes alike in all its rounds.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from fedlama.data.clients import TensorClients
from fedlama.engines.cohort.cohort import Share
from fedlama.engines.trainers.base import Task, Trainer
from fedlama.engines.trainers.device_memory import DeviceMemory


def clients_that_fit(free: int, one: int, two: int, margin: float = 0.2) -> int:
    """Return how many clients can take a step together, at least one.

    Need is taken to grow evenly from the second client on: what the first takes beyond that is shared by all.

    Args:
        free: Bytes that can still be had.
        one: Bytes that a step of one client takes at its peak.
        two: Bytes that a step of two clients takes.
        margin: Share of the free bytes to leave alone: memory is handed out in pieces that leave gaps, and kernels for
            many clients may want more room of their own than those for two.

    >>> clients_that_fit(free=1000, one=120, two=200)
    9
    >>> clients_that_fit(free=1000, one=900, two=1700)
    1
    """
    return max(1 + int((1.0 - margin) * free - one) // max(two - one, 1), 1)


class FittingTrainer:
    """Trains the rows of a share piece by piece.

    Args:
        inner: Trains a piece.
        probe: Takes the steps that are measured: a trainer like `inner`, or itself.
        clients: Everyone's data, to find whose batches are largest.
        memory: The device's.

    Attributes:
        inner: As given.
    """

    def __init__(self, inner: Trainer, probe: Trainer, clients: TensorClients, memory: DeviceMemory) -> None:
        self.inner, self._probe, self._clients, self._memory = inner, probe, clients, memory
        self._need: tuple[int, int] | None = None
        self._limits: dict[int, int] = {}

    def run(self, share: Share, task: Task) -> list[float]:
        """Take all local steps of a round; see :meth:`fedlama.engines.trainers.base.Trainer.run`."""
        rows = len(share.clients)
        if rows not in self._limits:
            self._need = self._need or self._measure(share, task)
            self._limits[rows] = clients_that_fit(self._memory.free(), *self._need)
        count = -(-rows // self._limits[rows])
        edges = [rows * piece // count for piece in range(count + 1)]
        return [loss for start, end in pairwise(edges) for loss in self.inner.run(_rows(share, start, end), task)]

    def _measure(self, share: Share, task: Task) -> tuple[int, int]:
        """Return the bytes that a step takes of one client and of two, each with the largest batch."""
        row = max(range(len(share.clients)), key=lambda one: self._batch(share.clients[one]))
        once = replace(task, steps=1, rates=task.rates[:1])

        def step(count: int) -> None:
            self._probe.run(_copies(share, row, count), once)

        step(1)  # libraries take their own room at the first call
        return self._memory.peak(lambda: step(1)), self._memory.peak(lambda: step(2))

    def _batch(self, client: int) -> int:
        return min(self._clients.batch_sizes[client], self._clients.samples(client))


def _rows(share: Share, start: int, end: int) -> Share:
    """Return neighbouring rows of a share, as views."""
    return Share(
        share.clients[start:end],
        {name: value[start:end] for name, value in share.values.items()},
        {kind: [buffer[start:end] for buffer in buffers] for kind, buffers in share.optimizer_state.items()},
        share.steps_done[start:end],
    )


def _copies(share: Share, row: int, count: int) -> Share:
    """Return so many copies of a row, at the client's first batch: that one is full."""
    rows = [row] * count
    return Share(
        (share.clients[row],) * count,
        {name: value[rows] for name, value in share.values.items()},
        {kind: [buffer[rows] for buffer in buffers] for kind, buffers in share.optimizer_state.items()},
        (0,) * count,
    )
