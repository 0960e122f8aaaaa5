"""One client's max pooling: images (planes, height, width, 16)."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import larger, load, plus, store, where_equal
from fedlama.engines.compiled.table import LANES


class Window(NamedTuple):
    """All sizes of a pooling."""

    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    size_y: int
    size_x: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int


@kernel
def _span(position: int, size: int, window: int, stride: int, padding: int) -> tuple[int, int]:
    """Return the first real pixel of a window along one side, and the first after it."""
    start = position * stride - padding
    return max(start, 0), min(start + window, size)


@kernel
def pool(out: Any, x: Any, planes: int, s: Window) -> None:
    """Take the largest pixel of each window."""
    for plane in range(planes):
        for y in range(s.out_height):
            top, bottom = _span(y, s.height, s.size_y, s.stride_y, s.padding_y)
            for z in range(s.out_width):
                left, right = _span(z, s.width, s.size_x, s.stride_x, s.padding_x)
                best = load(x, ((plane * s.height + top) * s.width + left) * LANES)
                for row in range(top, bottom):
                    for column in range(left, right):
                        best = larger(best, load(x, ((plane * s.height + row) * s.width + column) * LANES))
                store(out, ((plane * s.out_height + y) * s.out_width + z) * LANES, LANES, best)


@kernel
def unpool(below: Any, gradient: Any, x: Any, out: Any, planes: int, s: Window) -> None:
    """Send each gradient to the first of its window's pixels that is the largest.

    A ReLU above may have cut `out` at 0 meanwhile: where it did, the gradient is 0 and goes nowhere.
    """
    for element in range(planes * s.height * s.width * LANES):
        below[element] = 0.0
    for plane in range(planes):
        for y in range(s.out_height):
            top, bottom = _span(y, s.height, s.size_y, s.stride_y, s.padding_y)
            for z in range(s.out_width):
                left, right = _span(z, s.width, s.size_x, s.stride_x, s.padding_x)
                place = ((plane * s.out_height + y) * s.out_width + z) * LANES
                best, waiting = load(out, place), load(gradient, place)
                for row in range(top, bottom):
                    for column in range(left, right):
                        pixel = ((plane * s.height + row) * s.width + column) * LANES
                        taken = where_equal(load(x, pixel), best, waiting)
                        waiting = plus(waiting, taken, -1.0)  # what was handed out is not handed out again
                        store(below, pixel, LANES, plus(load(below, pixel), taken, 1.0))
