"""Filters of convolutions, (outputs, inputs, height, width), as vectors over sixteen of them, and back."""

from __future__ import annotations

from typing import Any

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, load_some, store_some, transpose, transpose_some
from fedlama.kernels.vectors import full, plus, times


@kernel
def transpose_filters(out: Any, weight: Any, start: int, stride: int, area: int) -> None:
    """Bring sixteen filters from (16, taps) to (taps, 16).

    Args:
        out: (taps, 16), taps filled up to sixteens with zeros.
        weight: Where the filters are.
        start: The first one's first tap.
        stride: Elements from one filter to the next.
        area: Taps of a filter.
    """
    for tap in range(0, area, LANES):  # out (16 taps, 16 filters) <- weight (16 filters, 16 taps)
        transpose_some(out, tap * LANES, LANES, weight, start + tap, stride, area - tap)


@kernel
def add_filters(target: Any, start: int, stride: int, gradients: Any, area: int, count: int, room: Any) -> None:
    """Set up to sixteen filters of a target to scale times themselves plus factor times their gradients.

    Args:
        target: A :class:`~fedlama.kernels.operands.Target`.
        start: The first filter's first tap.
        stride: Elements from one filter to the next.
        gradients: (taps, 16), taps filled up to sixteens.
        area: Taps of a filter.
        count: Filters.
        room: Scratch of 256 elements.
    """
    kept = full(target.scale)
    for tap in range(0, area, LANES):
        transpose(room, 0, LANES, gradients, tap * LANES, LANES)  # (16 filters, 16 taps)
        here = min(area - tap, LANES)
        for number in range(count):  # target (up to 16 taps) of a filter <- room (16)
            goal = start + number * stride + tap
            before = times(load_some(target.memory, goal, here), kept)
            store_some(target.memory, goal, LANES, plus(before, load(room, number * LANES), target.factor), here)
