"""Filters of convolutions, (outputs, inputs, height, width), as vectors over sixteen of them, and back."""

from __future__ import annotations

from typing import Any

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import full, load, load_some, plus, store_some, times, turn, turn_some
from fedlama.kernels.table import LANES


@kernel
def turn_filters(out: Any, weight: Any, start: int, stride: int, area: int) -> None:
    """Bring sixteen filters to (taps, 16).

    Args:
        out: Gets them; taps filled up to sixteens.
        weight: Where filters lie.
        start: Where the first one begins.
        stride: From one to the next.
        area: Taps.
    """
    for tap in range(0, area, LANES):
        turn_some(out, tap * LANES, LANES, weight, start + tap, stride, area - tap)


@kernel
def add_filters(
    target: Any, start: int, stride: int, given: Any, area: int, count: int, room: Any, scale: float, factor: float
) -> None:
    """Set up to sixteen filters to scale times themselves plus factor times (taps, 16).

    Args:
        target: Where filters lie.
        start: Where the first one begins.
        stride: From one to the next.
        given: What to add, taps filled up to sixteens.
        area: Taps.
        count: How many filters.
        room: Scratch of 256 elements.
        scale: What the filters are multiplied with.
        factor: What is added is multiplied with.
    """
    kept = full(scale)
    for tap in range(0, area, LANES):
        turn(room, 0, LANES, given, tap * LANES, LANES)
        here = min(area - tap, LANES)
        for number in range(count):
            goal = start + number * stride + tap
            before = times(load_some(target, goal, here), kept)
            store_some(target, goal, LANES, plus(before, load(room, number * LANES), factor), here)
