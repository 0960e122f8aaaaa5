"""One client's convolution with stride 1 by Winograd's algorithm: a quarter to a third of the products of a direct one.

The image is cut into tiles of results; see :mod:`~fedlama.kernels.transforms` for what happens to one tile. All tiles'
products at one pair of points are a matrix product over the channels, (outputs, inputs) times (inputs, columns), 36 of
them. The columns are the tiles of all samples, the batch innermost as in the images. Blocks of tiles are so small that
what is made of them stays in the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.filters import add_filters, transpose_filters
from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import (
    ROWS,
    VECTORS,
    add_scaled,
    load_row,
    load_tile,
    offset,
    rows_of,
    store,
    store_some,
    tile,
    transpose,
)
from fedlama.kernels.tiling import PAIRS, POINTS, at_a_time, wanted
from fedlama.kernels.transforms import (
    Square,
    data_side,
    filters,
    load_square,
    load_within,
    pixels,
    slopes,
    store_square,
    taps,
)
from fedlama.kernels.vectors import full


class Forms(NamedTuple):
    """Tiles of zeros, which fix the size of filters at compile time.

    Attributes:
        results: Square tile of a tile's results, (m * m, 1, 16).
        taps: Square tile of a filter, (size * size, 1, 16).
    """

    results: Any
    taps: Any


class Way(NamedTuple):
    """How a correlation goes.

    Attributes:
        size: Taps of a filter's side, 3 or 5.
        padding: Rows and columns of zeros before the source.
        backward: Whether the weights are read in the order of the input's gradient.
        add: Whether results are added to what is there.
    """

    size: int
    padding: int
    backward: bool
    add: bool


class Cut(NamedTuple):
    """How an image of results is cut into tiles, and these into blocks of about equal sizes.

    Attributes:
        results: Pixels of a tile's side, m.
        padding: Rows and columns of zeros before the source.
        high: Rows of tiles.
        wide: Tiles in a row.
        block_high: Rows of tiles in a block.
        block_wide: Tiles in a row of a block.
        stride: Columns of a block (its tiles of all samples), filled up to vectors.
    """

    results: int
    padding: int
    high: int
    wide: int
    block_high: int
    block_wide: int
    stride: int


class Block(NamedTuple):
    """Some tiles.

    Attributes:
        y: The first row of tiles.
        z: The first tile in a row.
        high: Rows of tiles.
        wide: Tiles in a row.
        columns: Numbers of one channel at one pair of points: tiles times batch.
    """

    y: int
    z: int
    high: int
    wide: int
    columns: int


class Channels(NamedTuple):
    """The matrix product of a block at one pair of points.

    Attributes:
        inputs: Channels of the source.
        outputs: Channels of the result.
        first: The first output of this product.
        taken: Its outputs.
    """

    inputs: int
    outputs: int
    first: int
    taken: int


_wanted, _at_a_time = kernel(wanted), kernel(at_a_time)


@kernel
def cut(height: int, width: int, batch: int, channels: int, size: int, padding: int) -> Any:
    """Cut an image.

    Args:
        height: Rows of pixels of the results.
        width: Pixels in a row.
        batch: Samples.
        channels: The larger number of channels that a block's numbers are stored for.
        size: A filter's side, 3 or 5.
        padding: Rows and columns of zeros before the source.
    """
    results = POINTS + 1 - size
    high, wide = -(-height // results), -(-width // results)
    columns = _wanted(channels)
    block_wide, block_high = portion(wide, batch, columns), 1
    if block_wide == wide:
        block_high = portion(high, wide * batch, columns)
    stride = -(-block_high * block_wide * batch // LANES) * LANES
    return Cut(results, padding, high, wide, block_high, block_wide, stride)


@kernel
def portion(count: int, columns: int, wanted: int) -> int:
    """Return how many of `count` things of `columns` columns each to take at a time, to have about the wanted columns.

    Vectors should be full and even in number: two share the numbers that are broadcast over their lanes.

    Args:
        count: Things.
        columns: Of one of them.
        wanted: Columns; up to twice as many will do where they are few, half as many more elsewhere.
    """
    best, least, most = 1, -1, max(wanted + wanted // 2, min(2 * wanted, 4 * LANES))
    for taken in range(1, count + 1):
        if taken > 1 and taken * columns > most:
            break
        cost = count // taken * _tenths(taken * columns) + _tenths(count % taken * columns)
        nearer = abs(taken * columns - wanted) < abs(best * columns - wanted)
        if least < 0 or cost < least or (cost == least and nearer):
            best, least = taken, cost
    return best


@kernel
def _tenths(columns: int) -> int:
    """Return what a block's columns cost, in tenths of a vector; a vector without a partner costs a third more."""
    vectors = -(-columns // LANES)
    return 10 * vectors + 3 * (vectors % 2) + (vectors > 0)


@kernel
def correlate(forms: Any, out: Any, x: Any, affine: Any, scratch: Any, way: Any) -> None:
    """Convolve forward, or compute the input's gradient.

    Args:
        forms: The :class:`Forms` of the filter's size.
        out: :class:`~fedlama.kernels.operands.Images`, the outputs; backward the inputs' gradient.
        x: Images, the inputs; backward the outputs' gradient.
        affine: The :class:`~fedlama.kernels.operands.Affine`: weight (outputs, inputs, size, size), both numbers of
            channels multiples of 16; bias (outputs,).
        scratch: As much as :func:`fedlama.kernels.tiling.room` says.
        way: The :class:`Way`.
    """
    to, grid, size = out.field, x.field, way.size
    c = cut(to.height, to.width, to.batch, grid.channels, size, way.padding)
    spread = to.channels * grid.channels + LANES  # from one pair of points to the next
    weights, lines = scratch, offset(scratch, PAIRS * spread)
    points = offset(lines, POINTS * _line(c, grid.batch))
    products = offset(points, PAIRS * (grid.channels * c.stride + LANES))
    outputs = _at_a_time(grid.channels, to.channels)
    if way.backward:
        _filters_backward(forms.taps, weights, affine.weight, products, to.channels, grid.channels)
    else:
        _filters_forward(forms.taps, weights, affine.weight, products, grid.channels, to.channels)
    for y in range(0, c.high, c.block_high):
        for z in range(0, c.wide, c.block_wide):
            b = _block(c, y, z, grid.batch)
            _to_points(points, x, lines, c, b)
            for channel in range(0, to.channels, outputs):
                channels = Channels(grid.channels, to.channels, channel, outputs)
                _multiply(products, weights, points, channels, c, b)
                _from_points(forms.results, out, products, affine, channels, way.add, c, b)


@kernel
def _line(c: Any, batch: int) -> Any:
    """Return the elements of a line of a block's source, filled up to vectors."""
    width = (c.block_wide - 1) * c.results + POINTS
    return -(-width * batch // LANES) * LANES + LANES


@kernel
def _block(c: Any, y: int, z: int, batch: int) -> Any:
    high, wide = min(c.block_high, c.high - y), min(c.block_wide, c.wide - z)
    return Block(y, z, high, wide, high * wide * batch)


@kernel
def _filters_forward(like: Any, weights: Any, weight: Any, buffer: Any, inputs: int, outputs: int) -> None:
    """Evaluate filters at all pairs of points: (pairs, inputs, outputs)."""
    area, spread = rows_of(like), inputs * outputs + LANES
    for c in range(inputs):
        for o in range(0, outputs, LANES):  # weights (pairs, 16 outputs) <- weight (16 outputs, taps) of an input
            transpose_filters(buffer, weight, (o * inputs + c) * area, inputs * area, area)
            store(weights, c * outputs + o, spread, filters(load_tile(like, buffer, 0, LANES)))


@kernel
def _filters_backward(like: Any, weights: Any, weight: Any, buffer: Any, inputs: int, outputs: int) -> None:
    """Evaluate filters turned by half a circle: (pairs, outputs, inputs)."""
    area, spread = rows_of(like), inputs * outputs + LANES
    for o in range(outputs):
        for c in range(0, inputs, LANES):  # weights (pairs, 16 inputs) <- weight (16 inputs, taps) of an output
            transpose_filters(buffer, weight, (o * inputs + c) * area, area, area)
            store(weights, o * inputs + c, spread, filters(load_tile(like, buffer, (area - 1) * LANES, -LANES)))


@kernel
def _to_points(points: Any, x: Any, lines: Any, c: Any, b: Any) -> None:
    """Transform a block's tiles of the source: (pairs, channels, columns)."""
    grid = x.field
    line, left = _line(c, grid.batch), b.z * c.results - c.padding
    width = (b.wide - 1) * c.results + POINTS
    first, last = max(-left, 0) * grid.batch, min(grid.width - left, width) * grid.batch
    for element in range(0, POINTS * line, LANES):  # lines (points, line); what is beside the image stays 0
        store(lines, element, LANES, full(np.float32(0.0)))
    for channel in range(grid.channels):
        for y in range(b.high):
            top = (b.y + y) * c.results - c.padding
            source = channel * grid.plane + top * grid.row + grid.left + left * grid.batch
            above, beneath = max(-top, 0), grid.height - top
            for element in range(first, last, LANES):  # lines (points, 16) <- x (6 rows of pixels, 16 elements)
                rows = load_within(tile(POINTS, 1), x.pixels, source + element, grid.row, above, beneath)
                store_some(lines, element, line, data_side(rows), last - element)
            start = channel * c.stride + y * b.wide * grid.batch
            _along_lines(points, lines, grid.batch, line, grid.channels * c.stride + LANES, start, c, b)


@kernel
def _along_lines(points: Any, lines: Any, batch: int, line: int, plane: int, start: int, c: Any, b: Any) -> None:
    """Transform a row of tiles whose columns have been transformed; the surplus of one is overwritten by the next."""
    top, goals = 0, start
    while top < POINTS * line:  # LLVM would unroll a loop over range(POINTS), which takes a third longer
        for z in range(b.wide):
            source, goal = top + z * c.results * batch, goals + z * batch
            for sample in range(0, batch, LANES):  # points (6 pairs, 16 samples) <- lines (6 pixels, 16 samples)
                neighbours = load_tile(tile(POINTS, 1), lines, source + sample, batch)
                store(points, goal + sample, plane, data_side(neighbours))
        top, goals = top + line, goals + POINTS * plane


@kernel
def _multiply(products: Any, weights: Any, points: Any, channels: Any, c: Any, b: Any) -> None:
    """Multiply at every pair of points: (pairs, outputs taken, columns)."""
    inputs, outputs = channels.inputs, channels.outputs
    spread, stride = inputs * outputs + LANES, c.stride
    from_plane, to_plane = inputs * stride + LANES, channels.taken * stride + LANES
    for pair in range(PAIRS):
        x = offset(points, pair * from_plane)
        for channel in range(0, channels.taken, ROWS):
            rows = offset(weights, pair * spread + channels.first + channel)
            out = offset(products, pair * to_plane + channel * stride)
            element = 0
            while element + LANES < b.columns:
                _multiply_columns(
                    tile(ROWS, VECTORS), offset(out, element), rows, offset(x, element), outputs, inputs, stride
                )
                element += VECTORS * LANES
            if element < b.columns:
                _multiply_columns(
                    tile(ROWS, 1), offset(out, element), rows, offset(x, element), outputs, inputs, stride
                )


@kernel
def _multiply_columns(zeros: Any, products: Any, weights: Any, x: Any, outputs: int, inputs: int, stride: int) -> None:
    """Multiply as many columns as the tile has: (8 outputs, inputs) times (inputs, columns)."""
    total = zeros
    for channel in range(inputs):  # total (8 outputs, columns) += weights (8 outputs, 1) * x (1, columns)
        total = add_scaled(total, weights, channel * outputs, 1, load_row(total, x, channel * stride))
    store(products, 0, stride, total)


@kernel
def _from_points(like: Any, out: Any, products: Any, affine: Any, channels: Any, add: bool, c: Any, b: Any) -> None:
    """Interpolate the results of some channels, and write them."""
    to, plane = out.field, channels.taken * c.stride + LANES
    for number in range(channels.taken):
        channel = channels.first + number
        constant = affine.bias[channel] if affine.biased else np.float32(0.0)
        for y in range(b.high):
            top = (b.y + y) * c.results
            for z in range(b.wide):
                left = (b.z + z) * c.results
                goal = channel * to.plane + top * to.row + to.left + left * to.batch
                source = number * c.stride + (y * b.wide + z) * to.batch
                for sample in range(0, to.batch, LANES):  # out (m, m, 16 samples) <- products (pairs, 16 samples)
                    done = pixels(like, load_tile(tile(PAIRS, 1), products, source + sample, plane))
                    square = Square(goal + sample, to.row, to.batch, to.height - top, to.width - left)
                    store_square(out.pixels, square, done, to.batch - sample, constant, add)


@kernel
def add_weight_gradient(forms: Any, target: Any, gradient: Any, x: Any, scratch: Any, size: int, padding: int) -> None:
    """Add the weights' gradient to its target.

    Args:
        forms: The :class:`Forms` of the filter's size.
        target: A :class:`~fedlama.kernels.operands.Target`, (outputs, inputs, size, size).
        gradient: :class:`~fedlama.kernels.operands.Images`, the outputs'.
        x: Images, the inputs.
        scratch: As much as :func:`fedlama.kernels.tiling.room` says.
        size: Taps of a filter's side, 3 or 5.
        padding: Rows and columns of zeros before the inputs.
    """
    grid, inputs, outputs = gradient.field, x.field.channels, gradient.field.channels
    most = max(outputs, inputs)
    c = cut(grid.height, grid.width, grid.batch, most, size, padding)
    spread = inputs * outputs + LANES
    sums, lines = scratch, offset(scratch, PAIRS * spread)
    points = offset(lines, POINTS * _line(c, grid.batch))
    raised = offset(points, PAIRS * (most * c.stride + LANES))
    strip = offset(raised, PAIRS * (most * c.stride + LANES))
    for element in range(PAIRS * spread):
        sums[element] = np.float32(0.0)
    for y in range(0, c.high, c.block_high):
        for z in range(0, c.wide, c.block_wide):
            b = _block(c, y, z, grid.batch)
            _to_points(points, x, lines, c, b)
            _raise(forms.results, raised, gradient, strip, c, b)
            _add_products(sums, points, raised, inputs, outputs, c, b)
    _gather_taps(forms.taps, target, sums, points, inputs, outputs)


@kernel
def _raise(like: Any, raised: Any, gradient: Any, strip: Any, c: Any, b: Any) -> None:
    """Transform a block's gradients of results, sixteen outputs in a vector: (pairs, columns, outputs)."""
    grid = gradient.field
    plane, left = c.stride * grid.channels + LANES, b.z * c.results
    width = min(b.wide * c.results, grid.width - left)
    line = c.block_wide * c.results * grid.batch + LANES
    for output in range(0, grid.channels, LANES):
        for y in range(b.high):
            top = (b.y + y) * c.results
            height = min(c.results, grid.height - top)
            for row in range(height):
                start = output * grid.plane + (top + row) * grid.row + grid.left + left * grid.batch
                # strip (m rows, 16 elements, 16 outputs) <- gradient (16 outputs, 16 elements of a row)
                for element in range(0, width * grid.batch, LANES):
                    transpose(
                        strip, (row * line + element) * LANES, LANES, gradient.pixels, start + element, grid.plane
                    )
            for z in range(b.wide):
                for sample in range(grid.batch):  # raised (pairs, 16 outputs) <- strip (m, m, 16 outputs)
                    source = (z * c.results * grid.batch + sample) * LANES
                    square = Square(source, line * LANES, grid.batch * LANES, height, width - z * c.results)
                    column = (y * b.wide + z) * grid.batch + sample
                    store(raised, column * grid.channels + output, plane, slopes(load_square(like, strip, square)))


@kernel
def _add_products(sums: Any, points: Any, raised: Any, inputs: int, outputs: int, c: Any, b: Any) -> None:
    """Add up products over the columns: (pairs, inputs, outputs)."""
    spread, from_plane, raised_plane = inputs * outputs + LANES, inputs * c.stride + LANES, c.stride * outputs + LANES
    for pair in range(PAIRS):
        goal, x = offset(sums, pair * spread), offset(points, pair * from_plane)
        y = offset(raised, pair * raised_plane)
        for channel in range(0, inputs, ROWS):
            rows, out = offset(x, channel * c.stride), offset(goal, channel * outputs)
            output = 0
            while output + VECTORS * LANES <= outputs:
                _add_columns(
                    tile(ROWS, VECTORS), offset(out, output), rows, offset(y, output), outputs, c.stride, b.columns
                )
                output += VECTORS * LANES
            if output < outputs:
                _add_columns(tile(ROWS, 1), offset(out, output), rows, offset(y, output), outputs, c.stride, b.columns)


@kernel
def _add_columns(like: Any, goal: Any, x: Any, y: Any, outputs: int, stride: int, columns: int) -> None:
    """Add products for as many outputs as the tile has: (8 inputs, columns) times (columns, outputs)."""
    total = load_tile(like, goal, 0, outputs)
    for column in range(columns):  # total (8 inputs, outputs) += x (8 inputs, 1) * y (1, outputs)
        total = add_scaled(total, x, column, stride, load_row(total, y, column * outputs))
    store(goal, 0, outputs, total)


@kernel
def _gather_taps(like: Any, target: Any, sums: Any, buffer: Any, inputs: int, outputs: int) -> None:
    """Make filters' gradients of sums at all pairs of points, and add them to the target."""
    area, spread = rows_of(like), inputs * outputs + LANES
    room = offset(buffer, 2 * LANES * LANES)
    for c in range(inputs):
        for o in range(0, outputs, LANES):  # target (16 outputs, taps) of an input <- sums (pairs, 16 outputs)
            store(buffer, 0, LANES, taps(like, load_tile(tile(PAIRS, 1), sums, c * outputs + o, spread)))
            add_filters(target, (o * inputs + c) * area, inputs * area, buffer, area, LANES, room)
