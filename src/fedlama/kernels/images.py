"""How a client's images lie in memory: (channels, height, width, batch), the batch innermost and not filled up.

A row of pixels is one run of width x batch numbers, so a step to the next pixel is a shift by `batch` elements, and
vectors of sixteen run over a row whatever the batch. Rows begin at whole vectors and have zeros on both sides, so that
the taps of a kernel may reach over the edge.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import full, load, load_some, plus, store, store_some, times, turn
from fedlama.kernels.table import LANES, row_elements

_row_elements = kernel(row_elements)


class Field(NamedTuple):
    """The layout of one activation.

    Attributes:
        channels: Planes.
        height: Rows of pixels.
        width: Pixels in a row.
        batch: Samples.
        length: Numbers in a row, width * batch.
        left: Elements from the start of a row to its first pixel.
        row: Elements from one row to the next.
        plane: Elements from one channel to the next.
    """

    channels: int
    height: int
    width: int
    batch: int
    length: int
    left: int
    row: int
    plane: int


@kernel
def field(channels: int, height: int, width: int, margin: int, batch: int) -> Any:
    """Lay out an activation with so many pixels of zeros beside each row."""
    left, row = _row_elements(width, margin, batch)
    return Field(channels, height, width, batch, width * batch, left, row, height * row)


@kernel
def enter(out: Any, x: Any, f: Any) -> None:
    """Bring samples (batch, channels, height, width) into images."""
    features = f.channels * f.height * f.width
    for line in range(f.channels * f.height):
        for z in range(f.width):
            place = line * f.row + f.left + z * f.batch
            for sample in range(f.batch):
                out[place + sample] = x[sample * features + line * f.width + z]


@kernel
def enter_features(out: Any, x: Any, batch: int, features: int) -> None:
    """Bring (batch, features) into (blocks, features, 16); samples that are not there are 0."""
    for block in range(-(-batch // LANES)):
        here = min(batch - block * LANES, LANES)
        start, place = block * LANES * features, block * features * LANES
        whole = features - features % LANES if here == LANES else 0
        for feature in range(0, whole, LANES):
            turn(out, place + feature * LANES, LANES, x, start + feature, features)
        for feature in range(whole, features):
            for lane in range(here):
                out[place + feature * LANES + lane] = x[start + lane * features + feature]
            for lane in range(here, LANES):
                out[place + feature * LANES + lane] = 0.0


@kernel
def flatten(out: Any, x: Any, f: Any) -> None:
    """Bring images into features (blocks, channels x height x width, 16)."""
    features = f.channels * f.height * f.width
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for line in range(f.channels * f.height):
            for z in range(f.width):
                vector = load_some(x, line * f.row + f.left + z * f.batch + block * LANES, here)
                store(out, (block * features + line * f.width + z) * LANES, LANES, vector)


@kernel
def unflatten(below: Any, gradient: Any, f: Any) -> None:
    """Bring a gradient of features (blocks, channels x height x width, 16) into images."""
    features = f.channels * f.height * f.width
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for line in range(f.channels * f.height):
            for z in range(f.width):
                vector = load(gradient, (block * features + line * f.width + z) * LANES)
                store_some(below, line * f.row + f.left + z * f.batch + block * LANES, LANES, vector, here)


@kernel
def mean(out: Any, x: Any, f: Any) -> None:
    """Average over the pixels: features (blocks, channels, 16)."""
    share = full(np.float32(1.0 / (f.height * f.width)))
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for channel in range(f.channels):
            total = full(np.float32(0.0))
            for y in range(f.height):
                for z in range(f.width):
                    place = channel * f.plane + y * f.row + f.left + z * f.batch + block * LANES
                    total = plus(total, load_some(x, place, here), np.float32(1.0))
            store(out, (block * f.channels + channel) * LANES, LANES, times(total, share))


@kernel
def spread_mean(below: Any, gradient: Any, f: Any) -> None:
    """Hand a gradient of features (blocks, channels, 16) to all pixels."""
    share = full(np.float32(1.0 / (f.height * f.width)))
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for channel in range(f.channels):
            vector = times(load(gradient, (block * f.channels + channel) * LANES), share)
            for y in range(f.height):
                for z in range(f.width):
                    place = channel * f.plane + y * f.row + f.left + z * f.batch + block * LANES
                    store_some(below, place, LANES, vector, here)
