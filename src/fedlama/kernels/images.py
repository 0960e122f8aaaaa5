"""One client's images: into the kernels' layout, out of it, and their mean over pixels.

Images are stored as (channels, height, row), a row as (left zeros, width, batch, right zeros): the batch is innermost
and not filled up, so a step to the next pixel is a shift by `batch` elements, and vectors of sixteen run over a row
whatever the batch. Rows begin at whole vectors and have zeros on both sides, so that the taps of a filter may reach
over the edge. Features are stored as (blocks, features, 16), a block being sixteen samples. README.md draws both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, load_some, store, store_some, transpose
from fedlama.kernels.vectors import full, plus, times


@kernel
def enter(out: Any, x: Any, f: Any) -> None:
    """Bring samples into the layout of images.

    Args:
        out: Images, (channels, height, row); the zeros beside rows are not written.
        x: (batch, channels, height, width).
        f: The images' :class:`~fedlama.kernels.operands.Field`.
    """
    features = f.channels * f.height * f.width
    for line in range(f.channels * f.height):  # out (channels * height, row) <- x (batch, channels * height, width)
        for z in range(f.width):
            start = line * f.row + f.left + z * f.batch
            for sample in range(f.batch):
                out[start + sample] = x[sample * features + line * f.width + z]


@kernel
def enter_features(out: Any, x: Any, batch: int, features: int) -> None:
    """Bring samples into blocks of sixteen; lanes without a sample are 0.

    Args:
        out: (blocks, features, 16).
        x: (batch, features).
        batch: Samples.
        features: Of a sample.
    """
    for block in range(-(-batch // LANES)):
        here = min(batch - block * LANES, LANES)
        source, goal = block * LANES * features, block * features * LANES
        whole = features - features % LANES if here == LANES else 0
        for feature in range(0, whole, LANES):  # out (16 features, 16 samples) <- x (16 samples, 16 features)
            transpose(out, goal + feature * LANES, LANES, x, source + feature, features)
        for feature in range(whole, features):
            for lane in range(here):
                out[goal + feature * LANES + lane] = x[source + lane * features + feature]
            for lane in range(here, LANES):
                out[goal + feature * LANES + lane] = 0.0


@kernel
def flatten(out: Any, x: Any, f: Any) -> None:
    """Bring images into features.

    Args:
        out: (blocks, channels * height * width, 16); lanes without a sample are 0.
        x: Images.
        f: Their :class:`~fedlama.kernels.operands.Field`.
    """
    features = f.channels * f.height * f.width
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for line in range(f.channels * f.height):  # out (channels * height, width, 16) <- x (channels * height, row)
            for z in range(f.width):
                vector = load_some(x, line * f.row + f.left + z * f.batch + block * LANES, here)
                store(out, (block * features + line * f.width + z) * LANES, LANES, vector)


@kernel
def unflatten(below: Any, gradient: Any, f: Any) -> None:
    """Bring a gradient of features into images.

    Args:
        below: Images; gets the gradient.
        gradient: (blocks, channels * height * width, 16).
        f: The images' :class:`~fedlama.kernels.operands.Field`.
    """
    features = f.channels * f.height * f.width
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for line in range(f.channels * f.height):  # below (channels * height, row) <- (channels * height, width, 16)
            for z in range(f.width):
                vector = load(gradient, (block * features + line * f.width + z) * LANES)
                store_some(below, line * f.row + f.left + z * f.batch + block * LANES, LANES, vector, here)


@kernel
def mean(out: Any, x: Any, f: Any) -> None:
    """Average over the pixels.

    Args:
        out: (blocks, channels, 16).
        x: Images.
        f: Their :class:`~fedlama.kernels.operands.Field`.
    """
    share = full(np.float32(1.0 / (f.height * f.width)))
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for channel in range(f.channels):
            total = full(np.float32(0.0))
            for y in range(f.height):  # total (16 samples) <- x (height, width, 16 samples) of a channel
                for z in range(f.width):
                    pixel = channel * f.plane + y * f.row + f.left + z * f.batch + block * LANES
                    total = plus(total, load_some(x, pixel, here), np.float32(1.0))
            store(out, (block * f.channels + channel) * LANES, LANES, times(total, share))


@kernel
def spread_mean(below: Any, gradient: Any, f: Any) -> None:
    """Divide a gradient of means equally among all pixels.

    Args:
        below: Images; gets the gradient.
        gradient: (blocks, channels, 16).
        f: The images' :class:`~fedlama.kernels.operands.Field`.
    """
    share = full(np.float32(1.0 / (f.height * f.width)))
    for block in range(-(-f.batch // LANES)):
        here = min(f.batch - block * LANES, LANES)
        for channel in range(f.channels):
            vector = times(load(gradient, (block * f.channels + channel) * LANES), share)
            for y in range(f.height):  # below (height, width, 16 samples) of a channel <- vector (16 samples)
                for z in range(f.width):
                    pixel = channel * f.plane + y * f.row + f.left + z * f.batch + block * LANES
                    store_some(below, pixel, LANES, vector, here)
