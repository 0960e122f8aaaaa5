"""One client's convolution: images (blocks, channels, height, width, 16).

Only products with real pixels are formed: zeros around the image cost nothing, which halves the work of a 5x5 kernel
on a 4x4 image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import (
    ROWS,
    add_products,
    add_scaled,
    ahead,
    load,
    one,
    spread,
    store,
    sums,
    tall,
    turn,
)
from fedlama.engines.compiled.table import LANES


class Shape(NamedTuple):
    """All sizes of a convolution."""

    inputs: int
    height: int
    width: int
    outputs: int
    out_height: int
    out_width: int
    kernel_height: int
    kernel_width: int
    stride_y: int
    stride_x: int
    padding_y: int
    padding_x: int
    dilation_y: int
    dilation_x: int


@kernel
def _taps(position: int, size: int, taps: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    """Return the first tap that meets a real pixel, and the first after it that does not."""
    start = position * stride - padding
    first = 0 if start >= 0 else (-start + dilation - 1) // dilation
    last = 0 if start >= size else (size - 1 - start) // dilation + 1
    return min(first, taps), min(last, taps)


@kernel
def _positions(tap: int, size: int, positions: int, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    """Return the first position at which a tap meets a real pixel, and the first after it at which it does not."""
    start = padding - tap * dilation
    first, last = max(start + stride - 1, 0) // stride, max(size + start + stride - 1, 0) // stride
    return min(first, positions), min(last, positions)


@kernel
def forward(out: Any, x: Any, weight: Any, bias: Any, biased: bool, blocks: int, s: Shape) -> None:
    """Convolve: out (blocks, outputs, out_height, out_width, 16); the bias is not looked at unless `biased`."""
    full = s.outputs - s.outputs % ROWS
    for block in range(blocks):
        own = ahead(x, block * s.inputs * s.height * s.width * LANES)
        to = ahead(out, block * s.outputs * s.out_height * s.out_width * LANES)
        for channel in range(0, full, ROWS):
            _forward(tall(), to, own, weight, bias, biased, s, channel)
        for channel in range(full, s.outputs):
            _forward(one(), to, own, weight, bias, biased, s, channel)


@kernel
def _forward(tile: Any, out: Any, x: Any, weight: Any, bias: Any, biased: bool, s: Shape, channel: int) -> None:
    """Compute as many output channels as the tile is tall."""
    per_output = s.inputs * s.kernel_height * s.kernel_width
    area = s.out_height * s.out_width * LANES
    if biased:
        tile = spread(tile, bias, channel, 1)
    for y in range(s.out_height):
        y_first, y_last = _taps(y, s.height, s.kernel_height, s.stride_y, s.padding_y, s.dilation_y)
        for z in range(s.out_width):
            z_first, z_last = _taps(z, s.width, s.kernel_width, s.stride_x, s.padding_x, s.dilation_x)
            total = tile
            for i in range(s.inputs):
                for k in range(y_first, y_last):
                    row = i * s.height + y * s.stride_y + k * s.dilation_y - s.padding_y
                    pixel = (row * s.width + z * s.stride_x - s.padding_x) * LANES
                    tap = channel * per_output + (i * s.kernel_height + k) * s.kernel_width
                    for m in range(z_first, z_last):
                        pixels = load(x, pixel + m * s.dilation_x * LANES)
                        total = add_scaled(total, weight, tap + m, per_output, pixels)
            store(out, channel * area + (y * s.out_width + z) * LANES, area, total)


@kernel
def backward_input(below: Any, gradient: Any, weight: Any, blocks: int, s: Shape) -> None:
    """Compute the input's gradient: below (blocks, inputs, height, width, 16)."""
    full = s.inputs - s.inputs % ROWS
    for block in range(blocks):
        to = ahead(below, block * s.inputs * s.height * s.width * LANES)
        own = ahead(gradient, block * s.outputs * s.out_height * s.out_width * LANES)
        for channel in range(0, full, ROWS):
            _backward_input(tall(), to, own, weight, s, channel)
        for channel in range(full, s.inputs):
            _backward_input(one(), to, own, weight, s, channel)


@kernel
def _backward_input(zero: Any, below: Any, gradient: Any, weight: Any, s: Shape, channel: int) -> None:
    """Compute as many input channels as the tile is tall."""
    per_kernel = s.kernel_height * s.kernel_width
    area, out_area = s.height * s.width * LANES, s.out_height * s.out_width * LANES
    for y in range(s.height):
        for z in range(s.width):
            total = zero
            for k in range(s.kernel_height):
                up = y + s.padding_y - k * s.dilation_y
                if up < 0 or up % s.stride_y or up // s.stride_y >= s.out_height:
                    continue
                for m in range(s.kernel_width):
                    left = z + s.padding_x - m * s.dilation_x
                    if left < 0 or left % s.stride_x or left // s.stride_x >= s.out_width:
                        continue
                    place = (up // s.stride_y * s.out_width + left // s.stride_x) * LANES
                    tap = channel * per_kernel + k * s.kernel_width + m
                    for o in range(s.outputs):
                        own = load(gradient, place + o * out_area)
                        total = add_scaled(total, weight, tap + o * s.inputs * per_kernel, per_kernel, own)
            store(below, channel * area + (y * s.width + z) * LANES, area, total)


@kernel
def add_weight_gradient(
    target: Any, gradient: Any, x: Any, room: Any, blocks: int, s: Shape, scale: float, factor: float
) -> None:
    """Set the target, (outputs, inputs, height, width), to scale times itself plus factor times the gradient.

    With inputs enough for a tile, vectors run over outputs and nothing has to be summed across lanes.

    Args:
        target: What to add to.
        gradient: (blocks, outputs, out_height, out_width, 16).
        x: (blocks, inputs, height, width, 16).
        room: Scratch of blocks * out_height * out_width * 16 * (outputs rounded up to 16) + 128 elements.
        blocks: How many vectors a batch takes.
        s: All sizes.
        scale: What the target is multiplied with.
        factor: What the gradient is multiplied with.
    """
    if s.inputs < ROWS:
        full = s.outputs - s.outputs % ROWS
        for channel in range(0, full, ROWS):
            _across_lanes(tall(), ROWS, target, gradient, x, room, blocks, s, channel, scale, factor)
        for channel in range(full, s.outputs):
            _across_lanes(one(), 1, target, gradient, x, room, blocks, s, channel, scale, factor)
        return
    wide = -(-s.outputs // LANES) * LANES
    spare = ahead(room, blocks * s.out_height * s.out_width * LANES * wide)
    _turn(room, gradient, blocks, s, wide)
    full = s.inputs - s.inputs % ROWS
    for channel in range(0, full, ROWS):
        _over_outputs(tall(), ROWS, target, room, spare, x, blocks, s, channel, wide, scale, factor)
    for channel in range(full, s.inputs):
        _over_outputs(one(), 1, target, room, spare, x, blocks, s, channel, wide, scale, factor)


@kernel
def _turn(room: Any, gradient: Any, blocks: int, s: Shape, wide: int) -> None:
    """Bring gradients from (blocks, outputs, positions, 16) to (blocks, positions, 16, outputs filled up)."""
    positions, full = s.out_height * s.out_width, s.outputs - s.outputs % LANES
    for block in range(blocks):
        for position in range(positions):
            start = (block * s.outputs * positions + position) * LANES
            place = (block * positions + position) * LANES * wide
            for output in range(0, full, LANES):
                turn(room, place + output, wide, gradient, start + output * positions * LANES, positions * LANES)
            for lane in range(LANES):
                for output in range(full, s.outputs):
                    room[place + lane * wide + output] = gradient[start + output * positions * LANES + lane]
                for output in range(s.outputs, wide):
                    room[place + lane * wide + output] = 0.0


@kernel
def _over_outputs(
    zero: Any,
    height: int,
    target: Any,
    turned: Any,
    spare: Any,
    x: Any,
    blocks: int,
    s: Shape,
    channel: int,
    wide: int,
    scale: float,
    factor: float,
) -> None:
    """Treat as many input channels as the tile is tall, sixteen outputs in a vector."""
    area, per_kernel = s.height * s.width * LANES, s.kernel_height * s.kernel_width
    for output in range(0, s.outputs, LANES):
        for k in range(s.kernel_height):
            top, bottom = _positions(k, s.height, s.out_height, s.stride_y, s.padding_y, s.dilation_y)
            for m in range(s.kernel_width):
                left, right = _positions(m, s.width, s.out_width, s.stride_x, s.padding_x, s.dilation_x)
                total = zero
                for block in range(blocks):
                    image = ahead(x, (block * s.inputs + channel) * area)
                    for y in range(top, bottom):
                        row = (y * s.stride_y + k * s.dilation_y - s.padding_y) * s.width
                        for z in range(left, right):
                            pixel = (row + z * s.stride_x + m * s.dilation_x - s.padding_x) * LANES
                            place = ((block * s.out_height + y) * s.out_width + z) * LANES * wide + output
                            for lane in range(LANES):
                                gradients = load(turned, place + lane * wide)
                                total = add_scaled(total, image, pixel + lane, area, gradients)
                store(spare, 0, LANES, total)
                for c in range(min(LANES, s.outputs - output)):
                    goal = ((output + c) * s.inputs + channel) * per_kernel + k * s.kernel_width + m
                    for r in range(height):
                        own = factor * spare[r * LANES + c]
                        target[goal + r * per_kernel] = scale * target[goal + r * per_kernel] + own


@kernel
def _across_lanes(
    zero: Any,
    height: int,
    target: Any,
    gradient: Any,
    x: Any,
    room: Any,
    blocks: int,
    s: Shape,
    channel: int,
    scale: float,
    factor: float,
) -> None:
    """Treat as many output channels as the tile is tall, sixteen samples in a vector."""
    per_output = s.inputs * s.kernel_height * s.kernel_width
    area, out_area = s.height * s.width * LANES, s.out_height * s.out_width * LANES
    for i in range(s.inputs):
        for k in range(s.kernel_height):
            top, bottom = _positions(k, s.height, s.out_height, s.stride_y, s.padding_y, s.dilation_y)
            for m in range(s.kernel_width):
                left, right = _positions(m, s.width, s.out_width, s.stride_x, s.padding_x, s.dilation_x)
                total = zero
                for block in range(blocks):
                    own = ahead(gradient, (block * s.outputs + channel) * out_area)
                    image = ahead(x, (block * s.inputs + i) * area)
                    for y in range(top, bottom):
                        row = (y * s.stride_y + k * s.dilation_y - s.padding_y) * s.width
                        for z in range(left, right):
                            pixel = row + z * s.stride_x + m * s.dilation_x - s.padding_x
                            pixels, place = load(image, pixel * LANES), (y * s.out_width + z) * LANES
                            total = add_products(total, own, place, out_area, pixels)
                sums(room, total)
                tap = channel * per_output + (i * s.kernel_height + k) * s.kernel_width + m
                for r in range(height):
                    target[tap + r * per_output] = scale * target[tap + r * per_output] + factor * room[r]
