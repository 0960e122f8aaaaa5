"""One client's max and mean pooling on images as :mod:`~fedlama.kernels.images` lays them out.

Outputs are :class:`~fedlama.kernels.operands.Images` of some height and width, inputs of others; channels and batch are
the same. In the loops, lanes run over samples of one pixel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, load_some, store_some
from fedlama.kernels.vectors import full, larger, plus, times, where_equal


class Pool(NamedTuple):
    """A window's sizes."""

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
def pool(out: Any, x: Any, to: Any, grid: Any, p: Any) -> None:
    """Take the largest pixel of each window.

    Args:
        out: Images of the form `to`.
        x: Images of the form `grid`.
        to: The outputs' :class:`~fedlama.kernels.operands.Field`.
        grid: The inputs'.
        p: The :class:`Pool`.
    """
    if _is_two_by_two(p):
        _pool_two_by_two(out, x, to, grid)
        return
    for channel in range(to.channels):
        for y in range(to.height):
            top, bottom = _span(y, grid.height, p.size_y, p.stride_y, p.padding_y)
            for z in range(to.width):
                left, right = _span(z, grid.width, p.size_x, p.stride_x, p.padding_x)
                goal = channel * to.plane + y * to.row + to.left + z * to.batch
                source = channel * grid.plane + grid.left
                for lane in range(0, to.batch, LANES):
                    best = load(x, source + top * grid.row + left * grid.batch + lane)
                    for row in range(top, bottom):  # best (16 samples) <- x (window height, window width, 16 samples)
                        for column in range(left, right):
                            best = larger(best, load(x, source + row * grid.row + column * grid.batch + lane))
                    store_some(out, goal + lane, LANES, best, to.batch - lane)


@kernel
def unpool(below: Any, gradient: Any, x: Any, out: Any, to: Any, grid: Any, p: Any) -> None:
    """Add each gradient to the first of its window's pixels that is the largest.

    A later ReLU may have cut `out` at 0 in the meantime: where it did, the gradient is 0 and changes no pixel.

    Args:
        below: Images of the form `grid`, the inputs'.
        gradient: Images of the form `to`, the outputs'.
        x: The pooling's input.
        out: Its output.
        to: The outputs' :class:`~fedlama.kernels.operands.Field`.
        grid: The inputs'.
        p: The :class:`Pool`.
    """
    if not _is_two_by_two(p) or grid.height != 2 * to.height or grid.width != 2 * to.width:
        _clear(below, grid)
    if _is_two_by_two(p):
        _unpool_two_by_two(below, gradient, x, out, to, grid)
        return
    for channel in range(to.channels):
        for y in range(to.height):
            top, bottom = _span(y, grid.height, p.size_y, p.stride_y, p.padding_y)
            for z in range(to.width):
                left, right = _span(z, grid.width, p.size_x, p.stride_x, p.padding_x)
                goal = channel * to.plane + y * to.row + to.left + z * to.batch
                source = channel * grid.plane + grid.left
                for lane in range(0, to.batch, LANES):
                    here = to.batch - lane
                    best, waiting = load(out, goal + lane), load_some(gradient, goal + lane, here)
                    for row in range(top, bottom):  # below (window height, width, 16 samples) <- waiting (16 samples)
                        for column in range(left, right):
                            pixel = source + row * grid.row + column * grid.batch + lane
                            taken = where_equal(load(x, pixel), best, waiting)
                            waiting = plus(waiting, taken, np.float32(-1.0))  # given to one pixel only
                            sum_ = plus(load(below, pixel), taken, np.float32(1.0))
                            store_some(below, pixel, LANES, sum_, here)


@kernel
def _is_two_by_two(p: Any) -> Any:
    """Return whether windows are the usual ones: two by two, next to each other, no zeros around the image."""
    return p.size_y == 2 and p.size_x == 2 and p.stride_y == 2 and p.stride_x == 2 and p.padding_y + p.padding_x == 0


@kernel
def _pool_two_by_two(out: Any, x: Any, to: Any, grid: Any) -> None:
    """Take the largest of four pixels."""
    for channel in range(to.channels):  # out (16 samples) <- x (2, 2, 16 samples)
        for y in range(to.height):
            goal = channel * to.plane + y * to.row + to.left
            source = channel * grid.plane + 2 * y * grid.row + grid.left
            for z in range(to.width):
                for lane in range(0, to.batch, LANES):
                    pixel = source + 2 * z * grid.batch + lane
                    upper = larger(load(x, pixel), load(x, pixel + grid.batch))
                    lower = larger(load(x, pixel + grid.row), load(x, pixel + grid.row + grid.batch))
                    store_some(out, goal + z * to.batch + lane, LANES, larger(upper, lower), to.batch - lane)


@kernel
def _unpool_two_by_two(below: Any, gradient: Any, x: Any, out: Any, to: Any, grid: Any) -> None:
    """Give each gradient to the first of four pixels that is the largest; the others get 0."""
    for channel in range(to.channels):  # below (2, 2, 16 samples) <- gradient (16 samples)
        for y in range(to.height):
            goal = channel * to.plane + y * to.row + to.left
            source = channel * grid.plane + 2 * y * grid.row + grid.left
            for z in range(to.width):
                for lane in range(0, to.batch, LANES):
                    result, pixel, here = (
                        goal + z * to.batch + lane,
                        source + 2 * z * grid.batch + lane,
                        to.batch - lane,
                    )
                    best, waiting = load(out, result), load(gradient, result)
                    waiting = _give(below, x, pixel, best, waiting, here)
                    waiting = _give(below, x, pixel + grid.batch, best, waiting, here)
                    waiting = _give(below, x, pixel + grid.row, best, waiting, here)
                    _give(below, x, pixel + grid.row + grid.batch, best, waiting, here)


@kernel
def _give(below: Any, x: Any, pixel: int, best: Any, waiting: Any, here: int) -> Any:
    """Give the waiting gradient to a pixel if it is the largest; return what still waits."""
    taken = where_equal(load(x, pixel), best, waiting)
    store_some(below, pixel, LANES, taken, here)
    return plus(waiting, taken, np.float32(-1.0))


@kernel
def _clear(below: Any, grid: Any) -> None:
    """Set all pixels to 0."""
    for line in range(grid.channels * grid.height):
        start = line * grid.row + grid.left
        for element in range(0, grid.length, LANES):  # below (16) of a row's (width * batch)
            store_some(below, start + element, LANES, full(np.float32(0.0)), grid.length - element)


@kernel
def pool_mean(out: Any, x: Any, to: Any, grid: Any, p: Any) -> None:
    """Take the mean of each window, zeros around the image included; see :func:`pool`."""
    share = full(np.float32(1.0 / (p.size_y * p.size_x)))
    for channel in range(to.channels):
        for y in range(to.height):
            top, bottom = _span(y, grid.height, p.size_y, p.stride_y, p.padding_y)
            for z in range(to.width):
                left, right = _span(z, grid.width, p.size_x, p.stride_x, p.padding_x)
                goal = channel * to.plane + y * to.row + to.left + z * to.batch
                source = channel * grid.plane + grid.left
                for lane in range(0, to.batch, LANES):
                    sum_ = full(np.float32(0.0))
                    for row in range(top, bottom):  # sum (16 samples) <- x (window height, window width, 16 samples)
                        for column in range(left, right):
                            pixel = source + row * grid.row + column * grid.batch + lane
                            sum_ = plus(sum_, load(x, pixel), np.float32(1.0))
                    store_some(out, goal + lane, LANES, times(sum_, share), to.batch - lane)


@kernel
def unpool_mean(below: Any, gradient: Any, to: Any, grid: Any, p: Any) -> None:
    """Divide each gradient equally among the pixels of its window; see :func:`unpool`."""
    share = full(np.float32(1.0 / (p.size_y * p.size_x)))
    _clear(below, grid)
    for channel in range(to.channels):
        for y in range(to.height):
            top, bottom = _span(y, grid.height, p.size_y, p.stride_y, p.padding_y)
            for z in range(to.width):
                left, right = _span(z, grid.width, p.size_x, p.stride_x, p.padding_x)
                goal = channel * to.plane + y * to.row + to.left + z * to.batch
                source = channel * grid.plane + grid.left
                for lane in range(0, to.batch, LANES):
                    part = times(load(gradient, goal + lane), share)
                    for row in range(top, bottom):  # below (window height, width, 16 samples) <- part (16 samples)
                        for column in range(left, right):
                            pixel = source + row * grid.row + column * grid.batch + lane
                            sum_ = plus(load(below, pixel), part, np.float32(1.0))
                            store_some(below, pixel, LANES, sum_, to.batch - lane)
