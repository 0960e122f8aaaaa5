"""One client's batch normalisation of images, with the ReLU that may follow it.

Statistics are those of the batch, as in training; means and squares are summed by rows in float32 and over rows in
float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import add_product, full, load, load_some, plus, store_some, total, where_positive
from fedlama.kernels.table import LANES


@kernel
def normalise(
    out: Any, x: Any, weight: Any, bias: Any, averages: Any, variances: Any, statistics: Any, f: Any, relu: bool,
    momentum: float, epsilon: float,
) -> None:  # fmt: skip
    """Normalise each channel, scale and shift it, and let the running statistics follow.

    Args:
        out: Images.
        x: Images of the same form.
        weight: (channels,).
        bias: (channels,).
        averages: Running means, (channels,).
        variances: Running variances, which count one degree of freedom less, (channels,).
        statistics: Gets the means and 1 / sqrt(variance + epsilon), (2, channels).
        f: Their :class:`~fedlama.kernels.images.Field`.
        relu: Whether to cut at 0.
        momentum: The share of the new in the running statistics.
        epsilon: Keeps the root away from 0.
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
        scale = 1.0 / math.sqrt(variance + epsilon)
        statistics[channel], statistics[f.channels + channel] = mean, scale
        averages[channel] += momentum * (mean - averages[channel])
        variances[channel] += momentum * (variance * count / (count - 1) - variances[channel])
        slope = np.float32(weight[channel] * scale)
        shift = np.float32(bias[channel] - mean * weight[channel] * scale)
        for y in range(f.height):
            _scale_row(out, x, start + y * f.row, f.length, slope, shift, relu)


@kernel
def _row_total(x: Any, start: int, length: int) -> Any:
    one, other = full(np.float32(0.0)), full(np.float32(0.0))
    place = 0
    while place + 2 * LANES <= length:
        one = plus(one, load(x, start + place), np.float32(1.0))
        other = plus(other, load(x, start + place + LANES), np.float32(1.0))
        place += 2 * LANES
    while place < length:
        one = plus(one, load_some(x, start + place, length - place), np.float32(1.0))
        place += LANES
    return total(plus(one, other, np.float32(1.0)))


@kernel
def _row_squares(x: Any, start: int, length: int, mean: Any) -> Any:
    """Sum the squares of what is above or below the mean."""
    centre, squares = full(mean), full(np.float32(0.0))
    place = 0
    while place + LANES <= length:
        apart = plus(load(x, start + place), centre, np.float32(-1.0))
        squares = add_product(squares, apart, apart)
        place += LANES
    rest = np.float32(0.0)
    while place < length:
        rest += (x[start + place] - mean) * (x[start + place] - mean)
        place += 1
    return total(squares) + rest


@kernel
def _scale_row(out: Any, x: Any, start: int, length: int, slope: Any, shift: Any, relu: bool) -> None:
    factor, added = full(slope), full(shift)
    for place in range(0, length, LANES):
        value = add_product(added, load(x, start + place), factor)
        if relu:
            value = where_positive(value, value)
        store_some(out, start + place, LANES, value, length - place)


@kernel
def undo_normalise(
    gradient: Any, x: Any, out: Any, weight: Any, statistics: Any, f: Any, relu: bool, shifts: Any, slopes: Any
) -> None:
    """Turn the output's gradient into the input's, in place; shifts and slopes get the gradients of bias and weight.

    With g the gradient where the ReLU let it through, n the count, s = 1 / sqrt(variance + epsilon), c = x - mean:
    dx = weight s (g - sum(g) / n - c s^2 sum(g c) / n).

    Args:
        gradient: Images.
        x: The normalisation's input.
        out: Its output; looked at only with `relu`.
        weight: (channels,).
        statistics: As :func:`normalise` left them.
        f: The :class:`~fedlama.kernels.images.Field`.
        relu: Whether the output was cut at 0.
        shifts: (channels,).
        slopes: (channels,).
    """
    count = f.height * f.length
    for channel in range(f.channels):
        start = channel * f.plane + f.left
        mean, scale = statistics[channel], statistics[f.channels + channel]
        plain, along = 0.0, 0.0
        for y in range(f.height):
            one, other = _row_products(gradient, x, out, start + y * f.row, f.length, mean, relu)
            plain, along = plain + one, along + other
        shifts[channel], slopes[channel] = plain, along * scale
        factor = weight[channel] * scale
        pull = np.float32(-factor * scale * scale * along / count)
        lift = np.float32(-factor * plain / count)
        for y in range(f.height):
            _undo_row(gradient, x, out, start + y * f.row, f.length, mean, factor, pull, lift, relu)


@kernel
def _row_products(gradient: Any, x: Any, out: Any, start: int, length: int, mean: Any, relu: bool) -> tuple[Any, Any]:
    """Sum the gradients, and the gradients times what the input is above the mean."""
    centre, plain, along = full(mean), full(np.float32(0.0)), full(np.float32(0.0))
    for place in range(0, length, LANES):
        own = load_some(gradient, start + place, length - place)
        if relu:
            own = where_positive(load(out, start + place), own)
        plain = plus(plain, own, np.float32(1.0))
        along = add_product(along, own, plus(load(x, start + place), centre, np.float32(-1.0)))
    return total(plain), total(along)


@kernel
def _undo_row(
    gradient: Any, x: Any, out: Any, start: int, length: int, mean: Any, factor: Any, pull: Any, lift: Any,
    relu: bool,
) -> None:  # fmt: skip
    centre, factors, pulls, lifts = full(mean), full(factor), full(pull), full(lift)
    for place in range(0, length, LANES):
        own = load(gradient, start + place)
        if relu:
            own = where_positive(load(out, start + place), own)
        value = add_product(lifts, plus(load(x, start + place), centre, np.float32(-1.0)), pulls)
        store_some(gradient, start + place, LANES, add_product(value, own, factors), length - place)
