"""Lanes: what records a client's step and replays it, several clients beside each other.

On CUDA a lane is a stream, and a recording is a CUDA graph: all kernels of a forward and a backward pass, started by
one call. Steps of one lane run one after another, so their recordings share memory for activations; those of different
lanes run at the same time, which fills the device with the small kernels of many clients.

:class:`PlainLanes` has the same contract and calls the step itself. It serves other devices, models that cannot be
recorded, and tests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch

Step = Callable[[], None]
"""Computes one client's step, from fixed tensors into fixed tensors."""


class Lanes(Protocol):
    """Records and replays steps.

    Attributes:
        records: Whether a step runs once when it is recorded, and its kernels alone after that.
    """

    records: bool

    def __len__(self) -> int:
        """Return the number of lanes."""

    def record(self, lane: int, step: Step, generators: Sequence[torch.Generator] = ()) -> Step:
        """Record a step, without computing it.

        Args:
            lane: The lane in which it will run.
            step: The step.
            generators: The generators that it draws from; a replay continues their sequences.

        Returns:
            What replays it; to be called inside :meth:`inside` of the same lane.

        Raises:
            RuntimeError: The step cannot be recorded, for instance because it looks at a number.
        """

    def start(self) -> None:
        """Let the lanes begin after what the caller's stream has to do first."""

    def inside(self, lane: int) -> contextlib.AbstractContextManager[object]:
        """Return a context in which work is queued in a lane."""

    def join(self) -> None:
        """Let the caller's stream go on after what the lanes have to do first."""


class PlainLanes:
    """One lane that calls steps as they are."""

    records = False

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def record(self, lane: int, step: Step, generators: Sequence[torch.Generator] = ()) -> Step:
        """Return the step itself."""
        return step

    def start(self) -> None:
        """Do nothing: there is one stream."""

    def inside(self, lane: int) -> contextlib.AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return contextlib.nullcontext()

    def join(self) -> None:
        """Do nothing: there is one stream."""


class CudaLanes:
    """Streams of a CUDA device.

    Args:
        device: The device.
        count: How many.
    """

    records = True

    def __init__(self, device: torch.device, count: int) -> None:
        self._device = device
        self._streams = [torch.cuda.Stream(device) for _ in range(count)]  # type: ignore[no-untyped-call]
        self._pools = [torch.cuda.graph_pool_handle() for _ in range(count)]

    def __len__(self) -> int:
        """Return the number of streams."""
        return len(self._streams)

    def record(self, lane: int, step: Step, generators: Sequence[torch.Generator] = ()) -> Step:
        """Record a step as a CUDA graph."""
        graph = torch.cuda.CUDAGraph()
        for generator in generators:
            graph.register_generator_state(generator)
        # Not the context manager torch.cuda.graph: it collects garbage and empties the allocator each time, which takes
        # longer than to record a client's step.
        with torch.cuda.stream(self._streams[lane]):
            graph.capture_begin(pool=self._pools[lane], capture_error_mode="thread_local")
            try:
                step()
            except BaseException:
                with contextlib.suppress(RuntimeError):  # the recording is lost anyway
                    graph.capture_end()
                raise
            graph.capture_end()
        return graph.replay

    def start(self) -> None:
        """Let every stream wait for the caller's."""
        ready = torch.cuda.current_stream(self._device).record_event()
        for stream in self._streams:
            stream.wait_event(ready)

    @contextlib.contextmanager
    def inside(self, lane: int) -> Iterator[None]:
        """Queue work in a stream."""
        with torch.cuda.stream(self._streams[lane]):
            yield

    def join(self) -> None:
        """Let the caller's stream wait for all others."""
        current = torch.cuda.current_stream(self._device)
        for stream in self._streams:
            current.wait_stream(stream)
