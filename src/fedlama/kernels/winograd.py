"""One client's convolution with stride 1 by Winograd's algorithm: a quarter to a third of the products of a direct one.

The image is cut into tiles of results; see :mod:`~fedlama.kernels.transforms` for what happens to one. All
tiles' products at one pair of points are a matrix product over the channels, (outputs, inputs) times (inputs, tiles),
36 of them. Tiles of all samples lie side by side, the batch innermost as in the images. Blocks of tiles are small
enough for what is made of them to stay in the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.filters import add_filters, turn_filters
from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import (
    ACROSS,
    ROWS,
    add_scaled,
    ahead,
    beside,
    broad,
    fetch,
    full,
    store,
    store_some,
    tall,
    turn,
)
from fedlama.kernels.table import LANES
from fedlama.kernels.tiling import PAIRS, POINTS, at_a_time, wanted
from fedlama.kernels.transforms import (
    data_side,
    deliver,
    fetch_square,
    fetch_within,
    filters,
    pixels,
    six,
    slopes,
    taps,
    thirty_six,
)


class Cut(NamedTuple):
    """How an image of results is cut into tiles, and these into blocks of about equal sizes.

    Attributes:
        results: Pixels of a tile's side, m.
        padding: Rows and columns of zeros before the source.
        high: Rows of tiles.
        wide: Tiles in a row.
        block_high: Rows of tiles in a block.
        block_wide: Tiles in a row of a block.
        stride: What a block's tiles of all samples take, filled up to vectors.
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


_wanted, _at_a_time = kernel(wanted), kernel(at_a_time)


@kernel
def cut(height: int, width: int, batch: int, channels: int, size: int, padding: int) -> Any:
    """Cut an image.

    Args:
        height: Rows of pixels of the results.
        width: Pixels in a row.
        batch: Samples.
        channels: The most that a block's numbers exist for.
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
    """Return how many of `count` things of so many columns to take at a time, for about the columns that are wanted.

    Vectors should be full and even in number: two share what is spread over their lanes.

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
    """Return what a block of so many columns costs, in tenths of a vector; one without a partner costs a third more."""
    vectors = -(-columns // LANES)
    return 10 * vectors + 3 * (vectors % 2) + (vectors > 0)


@kernel
def correlate(
    like_results: Any, like_taps: Any, out: Any, x: Any, weight: Any, bias: Any, scratch: Any, to: Any, own: Any,
    size: int, padding: int, backward: bool, biased: bool, add: bool,
) -> None:  # fmt: skip
    """Convolve forward, or compute the input's gradient.

    Args:
        like_results: Square tile of a tile's results.
        like_taps: Square tile of a filter.
        out: Images of the form `to`, the outputs; backward the inputs' gradient.
        x: Images of the form `own`, the inputs; backward the outputs' gradient.
        weight: (outputs, inputs, taps, taps); both numbers of channels are multiples of 16.
        bias: (outputs,), not looked at unless `biased`.
        scratch: As much as :func:`fedlama.kernels.tiling.room` says.
        to: The result's :class:`~fedlama.kernels.images.Field`.
        own: The source's.
        size: Taps of a filter's side, 3 or 5.
        padding: Rows and columns of zeros before the source.
        backward: Whether the weights are read the other way round.
        biased: Whether there is a bias.
        add: Whether to add to what is there.
    """
    c = cut(to.height, to.width, to.batch, own.channels, size, padding)
    spread = to.channels * own.channels + LANES
    weights, lines = scratch, ahead(scratch, PAIRS * spread)
    points = ahead(lines, POINTS * _line(c, own.batch))
    products = ahead(points, PAIRS * (own.channels * c.stride + LANES))
    outputs = _at_a_time(own.channels, to.channels)
    if backward:
        _filters_backward(like_taps, weights, weight, products, to.channels, own.channels, size)
    else:
        _filters_forward(like_taps, weights, weight, products, own.channels, to.channels, size)
    for y in range(0, c.high, c.block_high):
        for z in range(0, c.wide, c.block_wide):
            b = _block(c, y, z, own.batch)
            _to_points(points, x, lines, own, c, b)
            for channel in range(0, to.channels, outputs):
                _multiply(products, weights, points, spread, channel, outputs, to.channels, own.channels, c, b)
                _from_points(like_results, out, products, bias, to, channel, outputs, biased, add, c, b)


@kernel
def _line(c: Any, batch: int) -> Any:
    """Count the elements of a line of a block's source, filled up to vectors."""
    width = (c.block_wide - 1) * c.results + POINTS
    return -(-width * batch // LANES) * LANES + LANES


@kernel
def _block(c: Any, y: int, z: int, batch: int) -> Any:
    high, wide = min(c.block_high, c.high - y), min(c.block_wide, c.wide - z)
    return Block(y, z, high, wide, high * wide * batch)


@kernel
def _filters_forward(like: Any, weights: Any, weight: Any, buffer: Any, inputs: int, outputs: int, size: int) -> None:
    """Evaluate filters at all pairs of points: (pairs, inputs, outputs)."""
    area, spread = size * size, inputs * outputs + LANES
    for c in range(inputs):
        for o in range(0, outputs, LANES):
            turn_filters(buffer, weight, (o * inputs + c) * area, inputs * area, area)
            store(weights, c * outputs + o, spread, filters(fetch(like, buffer, 0, LANES)))


@kernel
def _filters_backward(like: Any, weights: Any, weight: Any, buffer: Any, inputs: int, outputs: int, size: int) -> None:
    """Evaluate filters turned by half a circle: (pairs, outputs, inputs)."""
    area, spread = size * size, inputs * outputs + LANES
    for o in range(outputs):
        for c in range(0, inputs, LANES):
            turn_filters(buffer, weight, (o * inputs + c) * area, area, area)
            store(weights, o * inputs + c, spread, filters(fetch(like, buffer, (area - 1) * LANES, -LANES)))


@kernel
def _to_points(points: Any, x: Any, lines: Any, own: Any, c: Any, b: Any) -> None:
    """Transform a block's tiles of the source: (pairs, channels, columns)."""
    line, left = _line(c, own.batch), b.z * c.results - c.padding
    width = (b.wide - 1) * c.results + POINTS
    first, last = max(-left, 0) * own.batch, min(own.width - left, width) * own.batch
    for place in range(0, POINTS * line, LANES):  # what is beside the image stays 0
        store(lines, place, LANES, full(np.float32(0.0)))
    for channel in range(own.channels):
        for y in range(b.high):
            top = (b.y + y) * c.results - c.padding
            source = channel * own.plane + top * own.row + own.left + left * own.batch
            above, beneath = max(-top, 0), own.height - top
            for place in range(first, last, LANES):
                tile = data_side(fetch_within(six(), x, source + place, own.row, above, beneath))
                store_some(lines, place, line, tile, last - place)
            start = channel * c.stride + y * b.wide * own.batch
            _along_lines(points, lines, own.batch, line, own.channels * c.stride + LANES, start, c, b)


@kernel
def _along_lines(points: Any, lines: Any, batch: int, line: int, plane: int, start: int, c: Any, b: Any) -> None:
    """Transform a row of tiles whose columns have been transformed; the surplus of one is overwritten by the next."""
    for number in range(POINTS):
        for z in range(b.wide):
            source = number * line + z * c.results * batch
            goal = number * POINTS * plane + start + z * batch
            for sample in range(0, batch, LANES):
                store(points, goal + sample, plane, data_side(fetch(six(), lines, source + sample, batch)))


@kernel
def _multiply(
    products: Any, weights: Any, points: Any, spread: int, first: int, count: int, outputs: int, inputs: int, c: Any,
    b: Any,
) -> None:  # fmt: skip
    """Multiply at every pair of points, `count` outputs from the first on: (pairs, count, columns)."""
    from_plane, to_plane = inputs * c.stride + LANES, count * c.stride + LANES
    for pair in range(PAIRS):
        x = ahead(points, pair * from_plane)
        for channel in range(0, count, ROWS):
            own, out = ahead(weights, pair * spread + first + channel), pair * to_plane + channel * c.stride
            place = 0
            while place + LANES < b.columns:
                _multiply_columns(broad(), products, own, x, out + place, place, outputs, inputs, c.stride)
                place += ACROSS * LANES
            if place < b.columns:
                _multiply_columns(tall(), products, own, x, out + place, place, outputs, inputs, c.stride)


@kernel
def _multiply_columns(
    zero: Any, products: Any, weights: Any, x: Any, out: int, place: int, outputs: int, inputs: int, stride: int
) -> None:
    """Multiply as many columns as the tile is wide."""
    total = zero
    for channel in range(inputs):
        total = add_scaled(total, weights, channel * outputs, 1, beside(total, x, channel * stride + place))
    store(products, out, stride, total)


@kernel
def _from_points(
    like: Any, out: Any, products: Any, bias: Any, to: Any, first: int, count: int, biased: bool, add: bool, c: Any,
    b: Any,
) -> None:  # fmt: skip
    """Interpolate the results of `count` channels from the first on, and write them."""
    plane = count * c.stride + LANES
    for channel in range(count):
        constant = bias[first + channel] if biased else np.float32(0.0)
        for y in range(b.high):
            top = (b.y + y) * c.results
            for z in range(b.wide):
                left = (b.z + z) * c.results
                goal = (first + channel) * to.plane + top * to.row + to.left + left * to.batch
                source = channel * c.stride + (y * b.wide + z) * to.batch
                for sample in range(0, to.batch, LANES):
                    done = pixels(like, fetch(thirty_six(), products, source + sample, plane))
                    deliver(
                        out, goal + sample, to.row, to.batch, to.height - top, to.width - left, done,
                        to.batch - sample, constant, add,
                    )  # fmt: skip


@kernel
def add_weight_gradient(
    like_results: Any, like_taps: Any, target: Any, gradient: Any, x: Any, scratch: Any, own: Any, to: Any,
    size: int, padding: int, scale: float, factor: float,
) -> None:  # fmt: skip
    """Set the target, (outputs, inputs, taps, taps), to scale times itself plus factor times the gradient.

    Args:
        like_results: Square tile of a tile's results.
        like_taps: Square tile of a filter.
        target: What to add to.
        gradient: Images of the form `own`, the outputs'.
        x: Images of the form `to`, the inputs'.
        scratch: As much as :func:`fedlama.kernels.tiling.room` says.
        own: The outputs' :class:`~fedlama.kernels.images.Field`.
        to: The inputs'.
        size: Taps of a filter's side, 3 or 5.
        padding: Rows and columns of zeros before the inputs.
        scale: What the target is multiplied with.
        factor: What the gradient is multiplied with.
    """
    most = max(own.channels, to.channels)
    c = cut(own.height, own.width, own.batch, most, size, padding)
    spread = to.channels * own.channels + LANES
    sums, lines = scratch, ahead(scratch, PAIRS * spread)
    points = ahead(lines, POINTS * _line(c, own.batch))
    raised = ahead(points, PAIRS * (most * c.stride + LANES))
    strip = ahead(raised, PAIRS * (most * c.stride + LANES))
    for place in range(PAIRS * spread):
        sums[place] = np.float32(0.0)
    for y in range(0, c.high, c.block_high):
        for z in range(0, c.wide, c.block_wide):
            b = _block(c, y, z, own.batch)
            _to_points(points, x, lines, to, c, b)
            _raise(like_results, raised, gradient, strip, own, c, b)
            _add_products(sums, points, raised, spread, to.channels, own.channels, c, b)
    _take(like_taps, target, sums, points, to.channels, own.channels, size, scale, factor)


@kernel
def _raise(like: Any, raised: Any, gradient: Any, strip: Any, own: Any, c: Any, b: Any) -> None:
    """Transform a block's gradients of results, sixteen outputs in a vector: (pairs, columns, outputs)."""
    plane, left = c.stride * own.channels + LANES, b.z * c.results
    width = min(b.wide * c.results, own.width - left)
    line = c.block_wide * c.results * own.batch + LANES
    for output in range(0, own.channels, LANES):
        for y in range(b.high):
            top = (b.y + y) * c.results
            height = min(c.results, own.height - top)
            for row in range(height):
                start = output * own.plane + (top + row) * own.row + own.left + left * own.batch
                for place in range(0, width * own.batch, LANES):
                    turn(strip, (row * line + place) * LANES, LANES, gradient, start + place, own.plane)
            for z in range(b.wide):
                for sample in range(own.batch):
                    source = (z * c.results * own.batch + sample) * LANES
                    given = fetch_square(
                        like, strip, source, line * LANES, own.batch * LANES, height, width - z * c.results
                    )  # fmt: skip
                    column = (y * b.wide + z) * own.batch + sample
                    store(raised, column * own.channels + output, plane, slopes(given))


@kernel
def _add_products(sums: Any, points: Any, raised: Any, spread: int, inputs: int, outputs: int, c: Any, b: Any) -> None:
    """Add up products over the columns: (pairs, inputs, outputs)."""
    from_plane, raised_plane = inputs * c.stride + LANES, c.stride * outputs + LANES
    for pair in range(PAIRS):
        goal, x, y = ahead(sums, pair * spread), ahead(points, pair * from_plane), ahead(raised, pair * raised_plane)
        for channel in range(0, inputs, ROWS):
            output = 0
            while output + ACROSS * LANES <= outputs:
                _add_columns(broad(), goal, x, y, channel, output, outputs, c.stride, b.columns)
                output += ACROSS * LANES
            if output < outputs:
                _add_columns(tall(), goal, x, y, channel, output, outputs, c.stride, b.columns)


@kernel
def _add_columns(
    like: Any, goal: Any, x: Any, y: Any, channel: int, output: int, outputs: int, stride: int, columns: int
) -> None:
    """Add products for as many outputs as the tile is wide."""
    total = fetch(like, goal, channel * outputs + output, outputs)
    for column in range(columns):
        gradients = beside(total, y, column * outputs + output)
        total = add_scaled(total, x, channel * stride + column, stride, gradients)
    store(goal, channel * outputs + output, outputs, total)


@kernel
def _take(
    like: Any, target: Any, sums: Any, buffer: Any, inputs: int, outputs: int, size: int, scale: float, factor: float
) -> None:
    """Make filters' gradients of sums at all pairs of points, and add them to the target."""
    area, spread = size * size, inputs * outputs + LANES
    room = ahead(buffer, 2 * LANES * LANES)
    for c in range(inputs):
        for o in range(0, outputs, LANES):
            store(buffer, 0, LANES, taps(like, fetch(thirty_six(), sums, c * outputs + o, spread)))
            add_filters(target, (o * inputs + c) * area, inputs * area, buffer, area, LANES, room, scale, factor)
