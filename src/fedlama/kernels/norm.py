"""One client's batch normalisation of images, with the ReLU that may follow it.

Statistics are those of the batch, as in training; means and squares are summed by rows in float32 and over rows in
float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, load_some, offset, store_some
from fedlama.kernels.vectors import add_product, full, plus, total, where_positive


class Norm(NamedTuple):
    """A normalisation.

    Attributes:
        weight: Memory, (channels,).
        bias: Memory, (channels,).
        averages: Running means, memory, (channels,).
        variances: Running variances, which count one degree of freedom less; memory, (channels,).
        statistics: Means, then 1 / sqrt(variance + epsilon), of this batch; memory, (2, channels).
        relu: Whether the output is cut at 0.
        momentum: Weight of the new in the running statistics.
        epsilon: Keeps the root away from 0.
    """

    weight: Any
    bias: Any
    averages: Any
    variances: Any
    statistics: Any
    relu: bool
    momentum: float
    epsilon: float


@kernel
def normalise(out: Any, x: Any, f: Any, norm: Any) -> None:
    """Normalise each channel, scale and shift it, and let the running statistics follow.

    Args:
        out: Images, (channels, height, row).
        x: Images of the same form.
        f: Their :class:`~fedlama.kernels.operands.Field`.
        norm: The :class:`Norm`; its statistics are written.
    """
    count = f.height * f.length
    for channel in range(f.channels):
        start = channel * f.plane + f.left
        mean = 0.0
        for y in range(f.height):
            mean += _row_total(x, start + y * f.row, f.length)
        mean /= count
        variance = 0.0
        for y in range(f.height):
            variance += _row_squares(x, start + y * f.row, f.length, np.float32(mean))
        variance /= count
        scale = 1.0 / math.sqrt(variance + norm.epsilon)
        norm.statistics[channel], norm.statistics[f.channels + channel] = mean, scale
        norm.averages[channel] += norm.momentum * (mean - norm.averages[channel])
        norm.variances[channel] += norm.momentum * (variance * count / (count - 1) - norm.variances[channel])
        slope = np.float32(norm.weight[channel] * scale)
        shift = np.float32(norm.bias[channel] - mean * norm.weight[channel] * scale)
        for y in range(f.height):
            _scale_row(out, x, start + y * f.row, f.length, slope, shift, norm.relu)


@kernel
def _row_total(x: Any, start: int, length: int) -> Any:
    """Sum a row, (width * batch,), in two sums of sixteen lanes."""
    even, odd = full(np.float32(0.0)), full(np.float32(0.0))
    element = 0
    while element + 2 * LANES <= length:  # even, odd (16) += x (16) each
        even = plus(even, load(x, start + element), np.float32(1.0))
        odd = plus(odd, load(x, start + element + LANES), np.float32(1.0))
        element += 2 * LANES
    while element < length:
        even = plus(even, load_some(x, start + element, length - element), np.float32(1.0))
        element += LANES
    return total(plus(even, odd, np.float32(1.0)))


@kernel
def _row_squares(x: Any, start: int, length: int, mean: Any) -> Any:
    """Sum the squared differences of a row, (width * batch,), from the mean."""
    centre, squares = full(mean), full(np.float32(0.0))
    element = 0
    while element + LANES <= length:  # squares (16) += x (16)
        apart = plus(load(x, start + element), centre, np.float32(-1.0))
        squares = add_product(squares, apart, apart)
        element += LANES
    rest = np.float32(0.0)
    while element < length:
        rest += (x[start + element] - mean) * (x[start + element] - mean)
        element += 1
    return total(squares) + rest


@kernel
def _scale_row(out: Any, x: Any, start: int, length: int, slope: Any, shift: Any, relu: bool) -> None:
    factor, added = full(slope), full(shift)
    for element in range(0, length, LANES):  # out (16) <- x (16) of a row's (width * batch)
        value = add_product(added, load(x, start + element), factor)
        if relu:
            value = where_positive(value, value)
        store_some(out, start + element, LANES, value, length - element)


class _Coefficients(NamedTuple):
    """dx = factor * g + lift + pull * (x - mean)."""

    mean: Any
    factor: Any
    pull: Any
    lift: Any


@kernel
def undo_normalise(gradient: Any, x: Any, out: Any, f: Any, norm: Any, sums: Any) -> None:
    """Turn the output's gradient into the input's, in place.

    With g the gradient where the ReLU let it through, n the count, s = 1 / sqrt(variance + epsilon), c = x - mean:
    dx = weight s (g - sum(g) / n - c s^2 sum(g c) / n).

    Args:
        gradient: Images, (channels, height, row).
        x: The normalisation's input.
        out: Its output; accessed only with ReLU.
        f: The :class:`~fedlama.kernels.operands.Field` of all three.
        norm: The :class:`Norm`, with the statistics that :func:`normalise` wrote.
        sums: Gets the gradients of bias and weight, (2, channels).
    """
    count = f.height * f.length
    shifts, slopes = sums, offset(sums, f.channels)
    for channel in range(f.channels):
        start = channel * f.plane + f.left
        mean, scale = norm.statistics[channel], norm.statistics[f.channels + channel]
        plain, along = 0.0, 0.0
        for y in range(f.height):
            row_plain, row_along = _row_products(gradient, x, out, start + y * f.row, f.length, mean, norm.relu)
            plain, along = plain + row_plain, along + row_along
        shifts[channel], slopes[channel] = plain, along * scale
        factor = norm.weight[channel] * scale
        pull = np.float32(-factor * scale * scale * along / count)
        lift = np.float32(-factor * plain / count)
        coefficients = _Coefficients(mean, factor, pull, lift)
        for y in range(f.height):
            _undo_row(gradient, x, out, start + y * f.row, f.length, coefficients, norm.relu)


@kernel
def _row_products(gradient: Any, x: Any, out: Any, start: int, length: int, mean: Any, relu: bool) -> tuple[Any, Any]:
    """Sum a row's gradients, and its gradients times the input's differences from the mean."""
    centre, plain, along = full(mean), full(np.float32(0.0)), full(np.float32(0.0))
    for element in range(0, length, LANES):  # plain, along (16) += gradient (16), x (16)
        slope = load_some(gradient, start + element, length - element)
        if relu:
            slope = where_positive(load(out, start + element), slope)
        plain = plus(plain, slope, np.float32(1.0))
        along = add_product(along, slope, plus(load(x, start + element), centre, np.float32(-1.0)))
    return total(plain), total(along)


@kernel
def _undo_row(gradient: Any, x: Any, out: Any, start: int, length: int, c: Any, relu: bool) -> None:
    centre, factors, pulls, lifts = full(c.mean), full(c.factor), full(c.pull), full(c.lift)
    for element in range(0, length, LANES):  # gradient (16) <- gradient (16), x (16) of a row's (width * batch)
        slope = load(gradient, start + element)
        if relu:
            slope = where_positive(load(out, start + element), slope)
        value = add_product(lifts, plus(load(x, start + element), centre, np.float32(-1.0)), pulls)
        store_some(gradient, start + element, LANES, add_product(value, slope, factors), length - element)
