"""One client's convolution on images as :mod:`~fedlama.kernels.images` lays them out.

Forward pass and input's gradient are one kernel, a correlation, with the weights read in another order. It forms no
product with rows above or below the image, and none with pixels beside it where a whole tile would meet only those.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fedlama.kernels.filters import add_filters
from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import (
    ROWS,
    VECTORS,
    add_products,
    add_scaled,
    broadcast,
    lanes_of,
    load,
    load_row,
    load_some,
    load_tile,
    offset,
    row_sums,
    rows_of,
    runtime,
    store,
    store_some,
    tile,
    transpose,
)


class Window(NamedTuple):
    """A filter's sizes; `top` and `left` count the rows and columns of zeros before the image."""

    height: int
    width: int
    stride_y: int
    stride_x: int
    top: int
    left: int
    dilation_y: int
    dilation_x: int


class Taps(NamedTuple):
    """Where a correlation's taps are: in the image, in elements along a row, and in the weights.

    Row y of the result meets row y * stride_y + origin_y + k * step_y of the source, and its element f the element
    f + origin_x + m * step_x. A result's pixel z begins `hop` elements further for each pixel where pixels are not
    neighbours in the source too; else `hop` is 0. Weights are `per_goal` elements further for the next channel of the
    result, and `per_source` for the next one of the source.
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
def forward_taps(w: Any, inputs: Any) -> Any:
    """Return the :class:`Taps` of a convolution.

    Args:
        w: The :class:`Window`.
        inputs: The inputs' :class:`~fedlama.kernels.operands.Field`.
    """
    area, batch = w.height * w.width, inputs.batch
    hop = 0 if w.stride_x == 1 else w.stride_x * batch
    origin, step = -w.left * batch, w.dilation_x * batch
    return Taps(
        w.height, w.width, w.stride_y, -w.top, w.dilation_y, origin, step, hop, inputs.channels * area, area
    )  # fmt: skip


@kernel
def backward_taps(w: Any, inputs: Any) -> Any:
    """Return the :class:`Taps` of the input's gradient, for strides of 1.

    Args:
        w: The :class:`Window`.
        inputs: The inputs' :class:`~fedlama.kernels.operands.Field`.
    """
    area, batch = w.height * w.width, inputs.batch
    origin, step = w.left * batch, -w.dilation_x * batch
    return Taps(
        w.height, w.width, w.stride_y, w.top, -w.dilation_y, origin, step, runtime(0), area, inputs.channels * area
    )  # fmt: skip


@kernel
def correlate(out: Any, x: Any, affine: Any, add: bool, taps: Any) -> None:
    """Convolve, or compute the input's gradient for strides of 1, a tile of channels at a time.

    Args:
        out: :class:`~fedlama.kernels.operands.Images`, the outputs, or the inputs' gradient.
        x: Images, the inputs, or the outputs' gradient.
        affine: The :class:`~fedlama.kernels.operands.Affine`: weight (outputs, inputs, height, width), bias (outputs,).
        add: Whether to add to what is in `out`.
        taps: :func:`forward_taps` or :func:`backward_taps`.
    """
    channels = out.field.channels
    full = channels - channels % ROWS
    for channel in range(0, full, ROWS):
        _correlate_channels(tile(ROWS, VECTORS), tile(ROWS, 1), out, x, affine, add, taps, channel)
    for channel in range(full, channels):
        _correlate_channels(tile(1, VECTORS), tile(1, 1), out, x, affine, add, taps, channel)


@kernel
def _correlate_channels(
    wide: Any, narrow: Any, out: Any, x: Any, affine: Any, add: bool, taps: Any, channel: int
) -> None:
    """Compute as many channels as the tiles have rows."""
    to, weights = out.field, offset(affine.weight, channel * taps.per_goal)
    if affine.biased:
        wide, narrow = broadcast(wide, affine.bias, channel, 1), broadcast(narrow, affine.bias, channel, 1)
    pieces, length = (1, to.length) if taps.hop == 0 else (to.width, to.batch)
    for y in range(to.height):
        rows = _meeting(y * taps.stride_y + taps.origin_y, taps.step_y, taps.height, x.field.height)
        for piece in range(pieces):
            start = channel * to.plane + y * to.row + to.left + piece * length
            source = piece * taps.hop
            element = 0
            while element + lanes_of(wide) <= length:  # out (channels, 32) <- sum over taps and channels of the source
                total = load_tile(wide, out.pixels, start + element, to.plane) if add else wide
                total = _sum(total, x, weights, taps, y, rows, source + element)
                store(out.pixels, start + element, to.plane, total)
                element += lanes_of(wide)
            while element < length:  # out (channels, 16)
                total = load_tile(narrow, out.pixels, start + element, to.plane) if add else narrow
                total = _sum(total, x, weights, taps, y, rows, source + element)
                store_some(out.pixels, start + element, to.plane, total, length - element)
                element += LANES


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
def _sum(total: Any, x: Any, weights: Any, taps: Any, y: int, rows: Any, element: int) -> Any:
    """Add the products of all taps that meet any of a tile's elements.

    Args:
        total: Tile, (channels of the result, elements).
        x: Images, the source.
        weights: Of the first of the tile's channels.
        taps: The :class:`Taps`.
        y: Row of the result.
        rows: The first row of taps that meets the source, and the first after it that does not.
        element: The tile's first element, counted from the first pixel of its row.
    """
    grid, span = x.field, lanes_of(total)
    start = element + taps.origin_x
    left, right = _meeting(start + span - 1, taps.step_x, taps.width, grid.length + span - 1)
    top = y * taps.stride_y + taps.origin_y
    for source in range(grid.channels):
        for k in range(rows[0], rows[1]):
            row = source * grid.plane + (top + k * taps.step_y) * grid.row + grid.left + start
            tap = source * taps.per_source + k * taps.width
            for m in range(left, right):  # total (channels, elements) += weights (channels, 1) * x (1, elements)
                pixels = load_row(total, x.pixels, row + m * taps.step_x)
                total = add_scaled(total, weights, tap + m, taps.per_goal, pixels)
    return total


@kernel
def backward_strided(below: Any, gradient: Any, weight: Any, add: bool, w: Any) -> None:
    """Compute the input's gradient, for any strides.

    Args:
        below: :class:`~fedlama.kernels.operands.Images`, the inputs'; gets the gradient.
        gradient: Images, the outputs'.
        weight: (outputs, inputs, height, width).
        add: Whether to add to what is there.
        w: The :class:`Window`.
    """
    channels = below.field.channels
    full = channels - channels % ROWS
    for channel in range(0, full, ROWS):
        _backward_strided(tile(ROWS, 1), below, gradient, weight, add, w, channel)
    for channel in range(full, channels):
        _backward_strided(tile(1, 1), below, gradient, weight, add, w, channel)


@kernel
def _backward_strided(zeros: Any, below: Any, gradient: Any, weight: Any, add: bool, w: Any, channel: int) -> None:
    """Compute as many input channels as the tile has rows, a pixel at a time."""
    to, grid, area = below.field, gradient.field, w.height * w.width
    for y in range(to.height):
        for z in range(to.width):
            for lane in range(0, to.batch, LANES):
                start = channel * to.plane + y * to.row + to.left + z * to.batch + lane
                total = load_tile(zeros, below.pixels, start, to.plane) if add else zeros
                for k in range(w.height):
                    up = y + w.top - k * w.dilation_y
                    if up < 0 or up % w.stride_y or up // w.stride_y >= grid.height:
                        continue
                    for m in range(w.width):
                        left = z + w.left - m * w.dilation_x
                        if left < 0 or left % w.stride_x or left // w.stride_x >= grid.width:
                            continue
                        pixel = up // w.stride_y * grid.row + grid.left + left // w.stride_x * grid.batch + lane
                        tap = channel * area + k * w.width + m
                        for o in range(grid.channels):  # total (channels, 16) += weight (channels, 1) * (1, 16 samples)
                            vector = load(gradient.pixels, pixel + o * grid.plane)
                            total = add_scaled(total, weight, tap + o * to.channels * area, area, vector)
                store_some(below.pixels, start, to.plane, total, to.batch - lane)


@kernel
def add_weight_gradient(target: Any, gradient: Any, x: Any, room: Any, w: Any) -> None:
    """Add the weights' gradient to its target.

    With inputs enough for a tile, vectors run over outputs and nothing has to be summed across lanes.

    Args:
        target: A :class:`~fedlama.kernels.operands.Target`, (outputs, inputs, height, width).
        gradient: :class:`~fedlama.kernels.operands.Images`, the outputs'.
        x: Images, the inputs.
        room: Scratch of (height * width * batch + 16) * (outputs rounded up to 16) elements, height and width of the
            outputs, and of 128 * (taps rounded up to 16) + 256 more.
        w: The :class:`Window`.
    """
    outputs, inputs = gradient.field.channels, x.field.channels
    if inputs < ROWS:
        full = outputs - outputs % ROWS
        for channel in range(0, full, ROWS):
            _across_lanes(tile(ROWS, 1), target, gradient, x, room, w, channel)
        for channel in range(full, outputs):
            _across_lanes(tile(1, 1), target, gradient, x, room, w, channel)
        return
    wide = -(-outputs // LANES) * LANES
    spare = offset(room, (gradient.field.height * gradient.field.length + LANES) * wide)
    _transpose_outputs(room, gradient)
    full = inputs - inputs % ROWS
    for channel in range(0, full, ROWS):
        _over_outputs(tile(ROWS, 1), target, gradient.field, room, x, spare, w, channel)
    for channel in range(full, inputs):
        _over_outputs(tile(1, 1), target, gradient.field, room, x, spare, w, channel)


@kernel
def _transpose_outputs(out: Any, gradient: Any) -> None:
    """Bring images to (outputs / 16, height, width, batch, 16), outputs filled up with zeros."""
    grid = gradient.field
    positions = grid.height * grid.length
    for output in range(0, grid.channels, LANES):
        slab = offset(out, output * positions)
        here = min(grid.channels - output, LANES)
        for y in range(grid.height):
            start = output * grid.plane + y * grid.row + grid.left
            if here == LANES:
                # slab (16 elements of a row, 16 outputs) <- gradient (16 outputs, 16 elements); the surplus of the last
                # transpose is overwritten by what follows
                for element in range(0, grid.length, LANES):
                    goal = (y * grid.length + element) * LANES
                    transpose(slab, goal, LANES, gradient.pixels, start + element, grid.plane)
                continue
            for element in range(grid.length):
                goal = (y * grid.length + element) * LANES
                for c in range(here):
                    slab[goal + c] = gradient.pixels[start + c * grid.plane + element]
                for c in range(here, LANES):
                    slab[goal + c] = 0.0


@kernel
def _positions(start: int, stride: int, positions: int, size: int) -> tuple[int, int]:
    """Return the first position p with start + p * stride in [0, size), and the first after it that is not."""
    first, last = max(stride - 1 - start, 0) // stride, max(size - start + stride - 1, 0) // stride
    return min(first, positions), min(last, positions)


@kernel
def _over_outputs(zeros: Any, target: Any, grid: Any, gradient: Any, x: Any, spare: Any, w: Any, channel: int) -> None:
    """Treat as many input channels as the tile has rows, sixteen outputs in a vector.

    Args:
        zeros: Tile, (inputs at a time, 16).
        target: As for :func:`add_weight_gradient`.
        grid: The outputs' :class:`~fedlama.kernels.operands.Field`.
        gradient: (outputs / 16, height, width, batch, 16).
        x: Images, the inputs.
        spare: Scratch of 256 elements, and of (inputs at a time, taps rounded up to 16, 16).
        w: The :class:`Window`.
        channel: The first of the inputs.
    """
    to, area = x.field, w.height * w.width
    filter_ = -(-area // LANES) * LANES * LANES
    gradients = offset(spare, LANES * LANES)  # (inputs at a time, taps, 16)
    for output in range(0, grid.channels, LANES):
        slab = offset(gradient, output * grid.height * grid.length)
        for k in range(w.height):
            top, bottom = _positions(k * w.dilation_y - w.top, w.stride_y, grid.height, to.height)
            for m in range(w.width):
                shift = m * w.dilation_x - w.left
                left, right = _positions(shift, w.stride_x, grid.width, to.width)
                total = zeros
                for y in range(top, bottom):
                    row = channel * to.plane + (y * w.stride_y + k * w.dilation_y - w.top) * to.row + to.left
                    for z in range(left, right):
                        pixel = row + (z * w.stride_x + shift) * to.batch
                        element = (y * grid.length + z * grid.batch) * LANES
                        for sample in range(grid.batch):  # total (inputs, 16) += x (inputs, 1) * slab (1, 16 outputs)
                            outputs = load(slab, element + sample * LANES)
                            total = add_scaled(total, x.pixels, pixel + sample, to.plane, outputs)
                store(gradients, (k * w.width + m) * LANES, filter_, total)
        here = min(grid.channels - output, LANES)
        for r in range(rows_of(zeros)):
            start = (output * to.channels + channel + r) * area
            add_filters(target, start, to.channels * area, offset(gradients, r * filter_), area, here, spare)


@kernel
def _across_lanes(zeros: Any, target: Any, gradient: Any, x: Any, room: Any, w: Any, channel: int) -> None:
    """Treat as many output channels as the tile has rows, sixteen elements of a row in a vector."""
    grid, to = gradient.field, x.field
    per_output = to.channels * w.height * w.width
    for i in range(to.channels):
        for k in range(w.height):
            top, bottom = _positions(k * w.dilation_y - w.top, w.stride_y, grid.height, to.height)
            for m in range(w.width):
                shift = m * w.dilation_x - w.left
                left, right = _positions(shift, w.stride_x, grid.width, to.width)
                total = zeros
                for y in range(top, bottom):
                    line = i * to.plane + (y * w.stride_y + k * w.dilation_y - w.top) * to.row + to.left
                    rows = offset(gradient.pixels, channel * grid.plane + y * grid.row + grid.left)
                    if w.stride_x == 1:
                        pixels = offset(x.pixels, line + shift * to.batch)
                        total = _row_products(total, rows, grid.plane, pixels, left * grid.batch, right * grid.batch)
                    else:
                        for z in range(left, right):
                            pixels = offset(x.pixels, line + (z * w.stride_x + shift) * to.batch)
                            samples = offset(rows, z * grid.batch)
                            total = _row_products(total, samples, grid.plane, pixels, runtime(0), grid.batch)
                row_sums(room, total)
                tap = channel * per_output + (i * w.height + k) * w.width + m
                for r in range(rows_of(zeros)):
                    goal = tap + r * per_output
                    target.memory[goal] = target.scale * target.memory[goal] + target.factor * room[r]


@kernel
def _row_products(total: Any, rows: Any, plane: int, pixels: Any, begin: int, end: int) -> Any:
    """Add the products of elements `begin` to `end` of rows that are `plane` elements apart and of a row of pixels."""
    element = begin
    while element + LANES <= end:  # total (channels, 16) += rows (channels, 16) * pixels (1, 16)
        total = add_products(total, rows, element, plane, load(pixels, element))
        element += LANES
    if element < end:  # the surplus lanes of the pixels are 0
        total = add_products(total, rows, element, plane, load_some(pixels, element, end - element))
    return total
