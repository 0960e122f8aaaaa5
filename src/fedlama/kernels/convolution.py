"""One client's convolution on images as :mod:`~fedlama.kernels.images` lays them out.

Forward pass and input's gradient are one kernel, a correlation, with the weights read in another order. It forms no
product with rows above or below the image, and none with pixels beside it where a whole tile would meet only those.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fedlama.kernels.filters import add_filters
from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import (
    ACROSS,
    ROWS,
    add_products,
    add_scaled,
    ahead,
    beside,
    broad,
    fetch,
    load,
    load_some,
    one,
    pair,
    spread,
    store,
    store_some,
    sums,
    tall,
    turn,
)
from fedlama.kernels.table import LANES


class Window(NamedTuple):
    """A kernel's sizes; `top` and `left` count the rows and columns of zeros before the image."""

    height: int
    width: int
    stride_y: int
    stride_x: int
    top: int
    left: int
    dilation_y: int
    dilation_x: int


class Taps(NamedTuple):
    """Where a correlation's taps lie: in the image, in elements along a row, and in the weights.

    Row y of the result meets row y * stride_y + origin_y + k * step_y of the source, and its element f the element
    f + origin_x + m * step_x. A result's pixel z begins `hop` elements further for each pixel where pixels are not
    neighbours in the source too; else `hop` is 0.
    """

    height: int
    width: int
    stride_y: int
    origin_y: int
    step_y: int
    origin_x: int
    step_x: int
    hop: int
    per_goal: int
    per_source: int


@kernel
def forward(out: Any, x: Any, weight: Any, bias: Any, biased: bool, to: Any, own: Any, w: Any) -> None:
    """Convolve.

    Args:
        out: Images of the form `to`.
        x: Images of the form `own`.
        weight: (outputs, inputs, height, width).
        bias: (outputs,), not looked at unless `biased`.
        biased: Whether there is a bias.
        to: The outputs' :class:`Field`.
        own: The inputs'.
        w: The :class:`Window`.
    """
    area = w.height * w.width
    hop = 0 if w.stride_x == 1 else w.stride_x * own.batch
    origin, step = -w.left * own.batch, w.dilation_x * own.batch
    taps = Taps(
        w.height, w.width, w.stride_y, -w.top, w.dilation_y, origin, step, hop, own.channels * area, area
    )  # fmt: skip
    _correlate(out, x, weight, bias, biased, False, to, own, taps)


@kernel
def backward_input(below: Any, gradient: Any, weight: Any, add: bool, to: Any, own: Any, w: Any) -> None:
    """Compute the input's gradient.

    Args:
        below: Images of the form `to`, the inputs'.
        gradient: Images of the form `own`, the outputs'.
        weight: (outputs, inputs, height, width).
        add: Whether to add to what is there.
        to: The inputs' :class:`Field`.
        own: The outputs'.
        w: The :class:`Window`.
    """
    area = w.height * w.width
    if w.stride_y == 1 and w.stride_x == 1:
        origin, step = w.left * own.batch, -w.dilation_x * own.batch
        taps = Taps(w.height, w.width, 1, w.top, -w.dilation_y, origin, step, 0, area, to.channels * area)
        _correlate(below, gradient, weight, weight, False, add, to, own, taps)
        return
    full = to.channels - to.channels % ROWS
    for channel in range(0, full, ROWS):
        _backward_strided(tall(), below, gradient, weight, add, to, own, w, channel)
    for channel in range(full, to.channels):
        _backward_strided(one(), below, gradient, weight, add, to, own, w, channel)


@kernel
def _correlate(out: Any, x: Any, weight: Any, bias: Any, biased: bool, add: bool, to: Any, own: Any, taps: Any) -> None:
    full = to.channels - to.channels % ROWS
    for channel in range(0, full, ROWS):
        _correlate_channels(broad(), tall(), out, x, weight, bias, biased, add, to, own, taps, channel)
    for channel in range(full, to.channels):
        _correlate_channels(pair(), one(), out, x, weight, bias, biased, add, to, own, taps, channel)


@kernel
def _correlate_channels(
    broad: Any, tall: Any, out: Any, x: Any, weight: Any, bias: Any, biased: bool, add: bool, to: Any, own: Any,
    taps: Any, channel: int,
) -> None:  # fmt: skip
    """Compute as many channels as the tiles are high."""
    weights = ahead(weight, channel * taps.per_goal)
    if biased:
        broad, tall = spread(broad, bias, channel, 1), spread(tall, bias, channel, 1)
    pieces, length = (1, to.length) if taps.hop == 0 else (to.width, to.batch)
    for y in range(to.height):
        first, last = _meeting(y * taps.stride_y + taps.origin_y, taps.step_y, taps.height, own.height)
        for piece in range(pieces):
            start = channel * to.plane + y * to.row + to.left + piece * length
            source = piece * taps.hop
            place = 0
            while place + ACROSS * LANES <= length:
                total = fetch(broad, out, start + place, to.plane) if add else broad
                total = _sum(total, ACROSS * LANES, x, weights, own, taps, y, first, last, source + place)
                store(out, start + place, to.plane, total)
                place += ACROSS * LANES
            while place < length:
                total = fetch(tall, out, start + place, to.plane) if add else tall
                total = _sum(total, LANES, x, weights, own, taps, y, first, last, source + place)
                store_some(out, start + place, to.plane, total, length - place)
                place += LANES


@kernel
def _meeting(start: int, step: int, taps: int, size: int) -> tuple[int, int]:
    """Return the first tap k with start + k * step in [0, size), and the first after it that is not."""
    first = 0
    while first < taps and not 0 <= start + first * step < size:
        first += 1
    last = first
    while last < taps and 0 <= start + last * step < size:
        last += 1
    return first, last


@kernel
def _sum(
    total: Any, span: int, x: Any, weights: Any, own: Any, taps: Any, y: int, first: int, last: int, place: int
) -> Any:
    """Add the products of all taps that meet any of `span` elements from `place` on."""
    start = place + taps.origin_x
    left, right = _meeting(start + span - 1, taps.step_x, taps.width, own.length + span - 1)
    top = y * taps.stride_y + taps.origin_y
    for source in range(own.channels):
        for k in range(first, last):
            row = source * own.plane + (top + k * taps.step_y) * own.row + own.left + start
            tap = source * taps.per_source + k * taps.width
            for m in range(left, right):
                total = add_scaled(total, weights, tap + m, taps.per_goal, beside(total, x, row + m * taps.step_x))
    return total


@kernel
def _backward_strided(
    zero: Any, below: Any, gradient: Any, weight: Any, add: bool, to: Any, own: Any, w: Any, channel: int
) -> None:
    """Compute as many input channels as the tile is high, a pixel at a time."""
    area = w.height * w.width
    for y in range(to.height):
        for z in range(to.width):
            for lane in range(0, to.batch, LANES):
                start = channel * to.plane + y * to.row + to.left + z * to.batch + lane
                total = fetch(zero, below, start, to.plane) if add else zero
                for k in range(w.height):
                    up = y + w.top - k * w.dilation_y
                    if up < 0 or up % w.stride_y or up // w.stride_y >= own.height:
                        continue
                    for m in range(w.width):
                        left = z + w.left - m * w.dilation_x
                        if left < 0 or left % w.stride_x or left // w.stride_x >= own.width:
                            continue
                        place = up // w.stride_y * own.row + own.left + left // w.stride_x * own.batch + lane
                        tap = channel * area + k * w.width + m
                        for o in range(own.channels):
                            vector = load(gradient, place + o * own.plane)
                            total = add_scaled(total, weight, tap + o * to.channels * area, area, vector)
                store_some(below, start, to.plane, total, to.batch - lane)


@kernel
def add_weight_gradient(
    target: Any, gradient: Any, x: Any, room: Any, own: Any, to: Any, w: Any, scale: float, factor: float
) -> None:
    """Set the target, (outputs, inputs, height, width), to scale times itself plus factor times the gradient.

    With inputs enough for a tile, vectors run over outputs and nothing has to be summed across lanes.

    Args:
        target: What to add to.
        gradient: Images of the form `own`, the outputs'.
        x: Images of the form `to`, the inputs'.
        room: Scratch of (height * width * batch + 16) * (outputs rounded up to 16) elements, height and width of the
            outputs, and of 128 * (taps rounded up to 16) + 256 more.
        own: The outputs' :class:`Field`.
        to: The inputs'.
        w: The :class:`Window`.
        scale: What the target is multiplied with.
        factor: What the gradient is multiplied with.
    """
    if to.channels < ROWS:
        full = own.channels - own.channels % ROWS
        for channel in range(0, full, ROWS):
            _across_lanes(tall(), ROWS, target, gradient, x, room, own, to, w, channel, scale, factor)
        for channel in range(full, own.channels):
            _across_lanes(one(), 1, target, gradient, x, room, own, to, w, channel, scale, factor)
        return
    wide = -(-own.channels // LANES) * LANES
    spare = ahead(room, (own.height * own.length + LANES) * wide)
    _turn(room, gradient, own)
    full = to.channels - to.channels % ROWS
    for channel in range(0, full, ROWS):
        _over_outputs(tall(), ROWS, target, room, spare, x, own, to, w, channel, wide, scale, factor)
    for channel in range(full, to.channels):
        _over_outputs(one(), 1, target, room, spare, x, own, to, w, channel, wide, scale, factor)


@kernel
def _turn(room: Any, gradient: Any, own: Any) -> None:
    """Bring gradients from images to (outputs / 16, height, width, batch, 16), outputs filled up with zeros."""
    positions = own.height * own.length
    for output in range(0, own.channels, LANES):
        slab = ahead(room, output * positions)
        here = min(own.channels - output, LANES)
        for y in range(own.height):
            start = output * own.plane + y * own.row + own.left
            if here == LANES:
                for place in range(0, own.length, LANES):  # the surplus of the last one is overwritten by what follows
                    turn(slab, (y * own.length + place) * LANES, LANES, gradient, start + place, own.plane)
                continue
            for place in range(own.length):
                to = (y * own.length + place) * LANES
                for c in range(here):
                    slab[to + c] = gradient[start + c * own.plane + place]
                for c in range(here, LANES):
                    slab[to + c] = 0.0


@kernel
def _positions(start: int, stride: int, positions: int, size: int) -> tuple[int, int]:
    """Return the first position p with start + p * stride in [0, size), and the first after it that is not."""
    first, last = max(stride - 1 - start, 0) // stride, max(size - start + stride - 1, 0) // stride
    return min(first, positions), min(last, positions)


@kernel
def _over_outputs(
    zero: Any, height: int, target: Any, turned: Any, spare: Any, x: Any, own: Any, to: Any, w: Any, channel: int,
    wide: int, scale: float, factor: float,
) -> None:  # fmt: skip
    """Treat as many input channels as the tile is high, sixteen outputs in a vector."""
    area = w.height * w.width
    filter_ = -(-area // LANES) * LANES * LANES
    found = ahead(spare, LANES * LANES)  # (channels, taps, 16)
    for output in range(0, wide, LANES):
        slab = ahead(turned, output * own.height * own.length)
        for k in range(w.height):
            top, bottom = _positions(k * w.dilation_y - w.top, w.stride_y, own.height, to.height)
            for m in range(w.width):
                shift = m * w.dilation_x - w.left
                left, right = _positions(shift, w.stride_x, own.width, to.width)
                total = zero
                for y in range(top, bottom):
                    row = channel * to.plane + (y * w.stride_y + k * w.dilation_y - w.top) * to.row + to.left
                    for z in range(left, right):
                        pixel = row + (z * w.stride_x + shift) * to.batch
                        place = (y * own.length + z * own.batch) * LANES
                        for sample in range(own.batch):
                            gradients = load(slab, place + sample * LANES)
                            total = add_scaled(total, x, pixel + sample, to.plane, gradients)
                store(found, (k * w.width + m) * LANES, filter_, total)
        here = min(own.channels - output, LANES)
        for r in range(height):
            start = (output * to.channels + channel + r) * area
            add_filters(
                target, start, to.channels * area, ahead(found, r * filter_), area, here, spare, scale, factor
            )  # fmt: skip


@kernel
def _across_lanes(
    zero: Any, height: int, target: Any, gradient: Any, x: Any, room: Any, own: Any, to: Any, w: Any, channel: int,
    scale: float, factor: float,
) -> None:  # fmt: skip
    """Treat as many output channels as the tile is high, sixteen elements of a row in a vector."""
    per_output = to.channels * w.height * w.width
    for i in range(to.channels):
        for k in range(w.height):
            top, bottom = _positions(k * w.dilation_y - w.top, w.stride_y, own.height, to.height)
            for m in range(w.width):
                shift = m * w.dilation_x - w.left
                left, right = _positions(shift, w.stride_x, own.width, to.width)
                total = zero
                for y in range(top, bottom):
                    line = i * to.plane + (y * w.stride_y + k * w.dilation_y - w.top) * to.row + to.left
                    start = channel * own.plane + y * own.row + own.left
                    if w.stride_x == 1:
                        begin, end = left * own.batch, right * own.batch
                        total = _row_products(total, gradient, x, start, own.plane, line + shift * to.batch, begin, end)
                    else:
                        for z in range(left, right):
                            pixel = line + (z * w.stride_x + shift) * to.batch
                            total = _row_products(
                                total, gradient, x, start + z * own.batch, own.plane, pixel, 0, own.batch
                            )
                sums(room, total)
                tap = channel * per_output + (i * w.height + k) * w.width + m
                for r in range(height):
                    target[tap + r * per_output] = scale * target[tap + r * per_output] + factor * room[r]


@kernel
def _row_products(total: Any, gradient: Any, x: Any, start: int, plane: int, pixel: int, begin: int, end: int) -> Any:
    """Add the products of elements `begin` to `end` of rows that begin at `start` (every `plane`) and at `pixel`."""
    place = begin
    while place + LANES <= end:
        total = add_products(total, gradient, start + place, plane, load(x, pixel + place))
        place += LANES
    if place < end:  # the surplus lanes are 0
        total = add_products(total, gradient, start + place, plane, load_some(x, pixel + place, end - place))
    return total
