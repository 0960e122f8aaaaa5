"""Lanes: what records the steps of several clients side by side, and replays them.

On CUDA a recording is a graph: all kernels of the forward and backward passes of some clients, started by one call.
Each client of a recording has a stream of its own, so the small kernels of many clients fill the device together.
Recordings are replayed one after another and share the memory for activations. Guests, which serve batches of unusual
shapes, run beside them and beside each other, on a few streams with memory of their own.

:class:`PlainLanes` has the same contract and calls the steps themselves. It serves other devices, models that cannot be
recorded, and tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

_GUESTS = 4
"""Streams for guests: few, as each has memory for the activations of a client."""
Step = Callable[[], None]
"""Computes one client's step, from fixed tensors into fixed tensors."""


class Lanes(Protocol):
    """Records and replays steps.

    Attributes:
        records: Whether a step runs once when it is recorded, and its kernels alone after that.
    """

    records: bool

    def __len__(self) -> int:
        """Return how many steps a recording has side by side, at most."""

    def record(self, steps: Sequence[Step], generators: Sequence[torch.Generator], guest: int | None = None) -> Step:
        """Record steps, without computing them.

        Args:
            steps: The steps, no more than there are lanes.
            generators: The generators that they draw from; a replay continues their sequences.
            guest: The number of the guest that the recording is for; it is replayed inside :meth:`guest`. None for a
                recording that is replayed outside.

        Returns:
            What replays them all.

        Raises:
            RuntimeError: A step cannot be recorded, for instance because it looks at a number.
        """

    def guest(self, number: int) -> contextlib.AbstractContextManager[object]:
        """Return a context for a guest: its work begins after what was queued before, and runs beside what comes next.

        Args:
            number: The number of the guest.
        """

    def join(self) -> None:
        """Let what comes next wait for all guests."""


class PlainLanes:
    """Calls steps as they are, one after another."""

    records = False

    def __len__(self) -> int:
        """Return 1: no step runs beside another."""
        return 1

    def record(self, steps: Sequence[Step], generators: Sequence[torch.Generator], guest: int | None = None) -> Step:
        """Return a function that calls the steps."""

        def call() -> None:
            for step in steps:
                step()

        return call

    def guest(self, number: int) -> contextlib.AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return contextlib.nullcontext()

    def join(self) -> None:
        """Do nothing: everything runs in order."""


class CudaLanes:
    """Streams of a CUDA device, and the graphs that are recorded with them.

    Args:
        device: The device.
        count: Clients of a recording.
    """

    records = True

    def __init__(self, device: torch.device, count: int) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(count)]  # type: ignore[no-untyped-call]
        self._for_guests = [torch.cuda.Stream(device) for _ in range(_GUESTS)]  # type: ignore[no-untyped-call]
        self._pool, *self._guest_pools = (torch.cuda.graph_pool_handle() for _ in range(1 + _GUESTS))

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._streams)

    def record(self, steps: Sequence[Step], generators: Sequence[torch.Generator], guest: int | None = None) -> Step:
        """Record steps as one CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        pool = self._pool if guest is None else self._guest_pools[guest % _GUESTS]
        # Not the context manager torch.cuda.graph: it collects garbage and empties the allocator each time.
        with torch.cuda.stream(self._for_guests[0]):  # any stream but the default one can record
            graph.capture_begin(pool=pool, capture_error_mode="thread_local")
            try:
                self._side_by_side(steps)
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the recording is lost anyway
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay

    def _side_by_side(self, steps: Sequence[Step]) -> None:
        """Record each step in its stream; the streams part from the current one and come back to it."""
        current = torch.cuda.current_stream(self._device)
        begin = current.record_event()
        streams = self._streams[: len(steps)]
        for stream, step in zip(streams, steps, strict=True):
            stream.wait_event(begin)
            with torch.cuda.stream(stream):
                step()
        for stream in streams:
            current.wait_stream(stream)

    @contextlib.contextmanager
    def guest(self, number: int) -> Iterator[None]:
        """Queue work in a guest's stream, after what was queued in the current one."""
        stream = self._for_guests[number % _GUESTS]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            yield

    def join(self) -> None:
        """Let the current stream wait for those of the guests."""
        current = torch.cuda.current_stream(self._device)
        for stream in self._for_guests:
            current.wait_stream(stream)
