"""One client's group normalisation of images, with the ReLU that may follow it.

A sample's channels are normalised in groups, each by its own mean and variance. The batch is innermost in images, so a
vector holds one pixel of sixteen samples, and the sums of a group need no sums over lanes. They are made by rows, then
over rows, then over channels, so that few of their terms are much smaller than the sum so far.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, load_some, offset, store, store_some
from fedlama.kernels.vectors import add_product, full, plus, times, total, where_positive


class GroupNorm(NamedTuple):
    """A group normalisation.

    Attributes:
        weight: Memory, (channels,).
        bias: Memory, (channels,).
        statistics: Means, then 1 / sqrt(variance + epsilon), of this batch; memory, (blocks, groups, 2, 16), a block
            being sixteen samples.
        groups: How many.
        members: Channels of a group.
        relu: Whether the output is cut at 0.
        epsilon: Keeps the root away from 0.
    """

    weight: Any
    bias: Any
    statistics: Any
    groups: int
    members: int
    relu: bool
    epsilon: float


@kernel
def normalise_groups(out: Any, x: Any, f: Any, norm: Any) -> None:
    """Normalise each group of each sample, and scale and shift each channel.

    Args:
        out: Images, (channels, height, row).
        x: Images of the same form.
        f: Their :class:`~fedlama.kernels.operands.Field`.
        norm: The :class:`GroupNorm`; its statistics are written.
    """
    share = full(np.float32(1.0 / (norm.members * f.height * f.width)))
    for first in range(0, f.batch, LANES):
        here = min(f.batch - first, LANES)
        for group in range(norm.groups):
            start = group * norm.members * f.plane + f.left + first
            at = offset(norm.statistics, (first // LANES * norm.groups + group) * 2 * LANES)
            mean = times(_group_total(x, start, f, norm.members), share)
            store(at, 0, LANES, mean)
            store(at, LANES, LANES, times(_group_squares(x, start, f, norm.members, mean), share))
            for lane in range(here):
                at[LANES + lane] = 1.0 / math.sqrt(at[LANES + lane] + norm.epsilon)
            for lane in range(here, LANES):  # lanes without a sample
                at[lane], at[LANES + lane] = 0.0, 0.0
            mean, scale = load(at, 0), load(at, LANES)
            for member in range(norm.members):
                channel = group * norm.members + member
                slope = times(full(norm.weight[channel]), scale)
                shift = plus(full(norm.bias[channel]), times(mean, slope), np.float32(-1.0))
                _scale_channel(out, x, start + member * f.plane, here, f, (slope, shift, norm.relu))


@kernel
def _group_total(x: Any, start: int, f: Any, members: int) -> Any:
    """Sum a group's pixels for sixteen samples."""
    sum_ = full(np.float32(0.0))
    for member in range(members):
        plane = full(np.float32(0.0))
        for y in range(f.height):
            row = full(np.float32(0.0))
            pixel = start + member * f.plane + y * f.row
            for _ in range(f.width):  # row (16 samples) += x (16 samples)
                row = plus(row, load(x, pixel), np.float32(1.0))
                pixel += f.batch
            plane = plus(plane, row, np.float32(1.0))
        sum_ = plus(sum_, plane, np.float32(1.0))
    return sum_


@kernel
def _group_squares(x: Any, start: int, f: Any, members: int, mean: Any) -> Any:
    """Sum the squared differences of a group's pixels from the mean, for sixteen samples."""
    sum_ = full(np.float32(0.0))
    for member in range(members):
        plane = full(np.float32(0.0))
        for y in range(f.height):
            row = full(np.float32(0.0))
            pixel = start + member * f.plane + y * f.row
            for _ in range(f.width):  # row (16 samples) += x (16 samples)
                apart = plus(load(x, pixel), mean, np.float32(-1.0))
                row = add_product(row, apart, apart)
                pixel += f.batch
            plane = plus(plane, row, np.float32(1.0))
        sum_ = plus(sum_, plane, np.float32(1.0))
    return sum_


@kernel
def _scale_channel(out: Any, x: Any, start: int, here: int, f: Any, line: Any) -> None:
    """Write slope * x + shift, cut at 0 if there is a ReLU, for up to sixteen samples."""
    slope, shift, relu = line
    for y in range(f.height):
        pixel = start + y * f.row
        for _ in range(f.width):  # out (16 samples) <- x (16 samples)
            value = add_product(shift, load(x, pixel), slope)
            if relu:
                value = where_positive(value, value)
            store_some(out, pixel, LANES, value, here)
            pixel += f.batch


@kernel
def undo_normalise_groups(gradient: Any, x: Any, out: Any, f: Any, norm: Any, sums: Any) -> None:
    """Turn the output's gradient into the input's, in place.

    With g the gradient where the ReLU let it through, n the numbers of a group, s = 1 / sqrt(variance + epsilon),
    c = x - mean, and sums over a sample's group:
    dx = weight s g - (s / n) sum(weight g) - c (s^3 / n) sum(weight g c).

    Args:
        gradient: Images, (channels, height, row).
        x: The normalisation's input.
        out: Its output; accessed only with ReLU.
        f: The :class:`~fedlama.kernels.operands.Field` of all three.
        norm: The :class:`GroupNorm`, with the statistics that :func:`normalise_groups` wrote.
        sums: Gets the gradients of bias and weight, (2, channels).
    """
    slopes = offset(sums, f.channels)
    for channel in range(f.channels):
        sums[channel], slopes[channel] = 0.0, 0.0
    share = full(np.float32(-1.0 / (norm.members * f.height * f.width)))
    for first in range(0, f.batch, LANES):
        here = min(f.batch - first, LANES)
        for group in range(norm.groups):
            start = group * norm.members * f.plane + f.left + first
            at = offset(norm.statistics, (first // LANES * norm.groups + group) * 2 * LANES)
            mean, scale = load(at, 0), load(at, LANES)
            lift, pull = full(np.float32(0.0)), full(np.float32(0.0))
            for member in range(norm.members):
                channel = group * norm.members + member
                begin = start + member * f.plane
                plain, along = _channel_products(gradient, (x, out, norm.relu), begin, here, f, mean)
                weight = full(norm.weight[channel])
                lift, pull = add_product(lift, weight, plain), add_product(pull, weight, along)
                sums[channel] += total(plain)
                slopes[channel] += total(times(along, scale))
            part = times(scale, share)
            lift, pull = times(lift, part), times(times(pull, part), times(scale, scale))
            for member in range(norm.members):
                factor = times(full(norm.weight[group * norm.members + member]), scale)
                begin = start + member * f.plane
                _undo_channel(gradient, (x, out, norm.relu), begin, here, f, (mean, factor, pull, lift))


@kernel
def _channel_products(gradient: Any, images: Any, start: int, here: int, f: Any, mean: Any) -> tuple[Any, Any]:
    """Sum a channel's gradients, and its gradients times the input's differences from the mean, for sixteen samples."""
    x, out, relu = images
    plain, along = full(np.float32(0.0)), full(np.float32(0.0))
    for y in range(f.height):
        pixel = start + y * f.row
        row_plain, row_along = full(np.float32(0.0)), full(np.float32(0.0))
        for _ in range(f.width):  # row_plain, row_along (16 samples) += gradient, x (16 samples)
            slope = load_some(gradient, pixel, here)
            if relu:
                slope = where_positive(load(out, pixel), slope)
            row_plain = plus(row_plain, slope, np.float32(1.0))
            row_along = add_product(row_along, slope, plus(load_some(x, pixel, here), mean, np.float32(-1.0)))
            pixel += f.batch
        plain, along = plus(plain, row_plain, np.float32(1.0)), plus(along, row_along, np.float32(1.0))
    return plain, along


@kernel
def _undo_channel(gradient: Any, images: Any, start: int, here: int, f: Any, line: Any) -> None:
    """Write factor * g + pull * (x - mean) + lift over a channel's gradients g, for up to sixteen samples."""
    x, out, relu = images
    mean, factor, pull, lift = line
    for y in range(f.height):
        pixel = start + y * f.row
        for _ in range(f.width):  # gradient (16 samples) <- gradient, x (16 samples)
            slope = load(gradient, pixel)
            if relu:
                slope = where_positive(load(out, pixel), slope)
            value = add_product(lift, plus(load(x, pixel), mean, np.float32(-1.0)), pull)
            store_some(gradient, pixel, LANES, add_product(value, slope, factor), here)
            pixel += f.batch
