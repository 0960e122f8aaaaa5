"""Every operation, forward and backward: fetches what its kernels ask for.

Each function here becomes a piece of machine code of its own, which :mod:`~fedlama.kernels.advance` calls by
its address, with a row of the program, the row's two numbers that are not whole, and what is to be known of the step.
The backward functions make the input's gradient first, as the parameters' may change the parameters themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedlama.kernels import table, winograd
from fedlama.kernels.convolution import Window, add_weight_gradient, backward_input, forward
from fedlama.kernels.dense import add_outer, multiply
from fedlama.kernels.images import enter, enter_features, field, flatten, mean, spread_mean, unflatten
from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import ahead, load, plus, quarter, square, store, times, where_positive
from fedlama.kernels.long_dense import multiply_long, undo_long
from fedlama.kernels.norm import normalise, undo_normalise
from fedlama.kernels.pooling import Pool, pool, pool_mean, unpool, unpool_mean
from fedlama.kernels.table import (
    ABOVE,
    ADDS,
    ADDS_BESIDE,
    AVERAGE,
    BELOW,
    BESIDE,
    BIAS,
    EXTRA,
    FIRST_SIZE,
    IMAGES,
    IN,
    LANES,
    OTHER,
    OUT,
    VALUES,
    VARIANCE,
    WANTED,
    WANTED_BESIDE,
    WEIGHT,
)
from fedlama.kernels.transforms import nine, twenty_five
from fedlama.kernels.update import add_feature_bias, add_gradient, add_image_bias, is_trained, own, step_of, target

_F = FIRST_SIZE


@kernel
def _field(row: Any, first: int, s: Any) -> Any:
    """Lay out the activation whose sizes begin there."""
    return field(row[_F + first], row[_F + first + 1], row[_F + first + 2], s.margin, s.batch)


@kernel
def _window(row: Any) -> Any:
    f = _F + 6
    return Window(row[f], row[f + 1], row[f + 2], row[f + 3], row[f + 4], row[f + 5], row[f + 6], row[f + 7])


@kernel
def _pool(row: Any) -> Any:
    f = _F + 6
    return Pool(row[f], row[f + 1], row[f + 2], row[f + 3], row[f + 4], row[f + 5])


@kernel
def _vectors(row: Any, s: Any) -> Any:
    """Count the vectors of an activation whose sizes come first, zeros beside images included."""
    if row[IMAGES]:
        f = _field(row, 0, s)
        return f.channels * f.plane // LANES
    return row[_F] * -(-s.batch // LANES)


def _dense(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT])
    weight, bias, columns = own(s, row[WEIGHT], VALUES), own(s, row[BIAS], VALUES), row[_F + 1]
    multiply(out, weight, x, bias, row[BIAS] >= 0, -(-s.batch // LANES), row[_F], columns, columns, 1)


def _undo_dense(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above = ahead(s.scratch, row[IN]), ahead(s.scratch, row[ABOVE])
    rows, columns, weight = row[_F], row[_F + 1], own(s, row[WEIGHT], VALUES)
    if row[WANTED]:
        below = ahead(s.scratch, row[BELOW])
        multiply(below, weight, above, weight, False, -(-s.batch // LANES), columns, rows, 1, columns)
    if is_trained(s, row[WEIGHT]):
        goal, scale, factor = target(s, row[WEIGHT])
        add_outer(goal, above, x, s.spare, s.batch, rows, columns, scale, factor)
    add_feature_bias(s, row[BIAS], above, rows)


def _long_dense(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT])
    weight, bias = own(s, row[WEIGHT], VALUES), own(s, row[BIAS], VALUES)
    multiply_long(out, weight, x, bias, row[BIAS] >= 0, s.spare, s.batch, row[_F], row[_F + 1])


def _undo_long_dense(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above, below = ahead(s.scratch, row[IN]), ahead(s.scratch, row[ABOVE]), ahead(s.scratch, row[BELOW])
    undo_long(s, row[WEIGHT], below, above, x, s.spare, row[_F], row[_F + 1], row[WANTED] != 0)
    add_feature_bias(s, row[BIAS], above, row[_F])


def _convolution(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT])
    weight, bias = own(s, row[WEIGHT], VALUES), own(s, row[BIAS], VALUES)
    forward(out, x, weight, bias, row[BIAS] >= 0, _field(row, 3, s), _field(row, 0, s), _window(row))


def _undo_convolution(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above = ahead(s.scratch, row[IN]), ahead(s.scratch, row[ABOVE])
    inputs, outputs, w = _field(row, 0, s), _field(row, 3, s), _window(row)
    if row[WANTED]:
        below, weight = ahead(s.scratch, row[BELOW]), own(s, row[WEIGHT], VALUES)
        backward_input(below, above, weight, row[ADDS] != 0, inputs, outputs, w)
    if is_trained(s, row[WEIGHT]):
        goal, scale, factor = target(s, row[WEIGHT])
        add_weight_gradient(goal, above, x, s.spare, outputs, inputs, w, scale, factor)
    add_image_bias(s, row[BIAS], above, outputs)


@kernel
def _winograd_forward(results: Any, taps: Any, size: int, row: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT])
    weight, bias, w = own(s, row[WEIGHT], VALUES), own(s, row[BIAS], VALUES), _window(row)
    winograd.correlate(
        results, taps, out, x, weight, bias, s.spare, _field(row, 3, s), _field(row, 0, s), size, w.top, False,
        row[BIAS] >= 0, False,
    )  # fmt: skip


@kernel
def _winograd_backward(results: Any, taps: Any, size: int, row: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above = ahead(s.scratch, row[IN]), ahead(s.scratch, row[ABOVE])
    inputs, outputs, w = _field(row, 0, s), _field(row, 3, s), _window(row)
    if row[WANTED]:
        below, weight = ahead(s.scratch, row[BELOW]), own(s, row[WEIGHT], VALUES)
        winograd.correlate(
            results, taps, below, above, weight, weight, s.spare, inputs, outputs, size, size - 1 - w.top, True,
            False, row[ADDS] != 0,
        )  # fmt: skip
    if is_trained(s, row[WEIGHT]):
        goal, scale, factor = target(s, row[WEIGHT])
        winograd.add_weight_gradient(
            results, taps, goal, above, x, s.spare, outputs, inputs, size, w.top, scale, factor
        )  # fmt: skip
    add_image_bias(s, row[BIAS], above, outputs)


def _winograd_3(row: Any, reals: Any, context: Any, settings: Any) -> None:
    _winograd_forward(square(), nine(), 3, row, context, settings)


def _undo_winograd_3(row: Any, reals: Any, context: Any, settings: Any) -> None:
    _winograd_backward(square(), nine(), 3, row, context, settings)


def _winograd_5(row: Any, reals: Any, context: Any, settings: Any) -> None:
    _winograd_forward(quarter(), twenty_five(), 5, row, context, settings)


def _undo_winograd_5(row: Any, reals: Any, context: Any, settings: Any) -> None:
    _winograd_backward(quarter(), twenty_five(), 5, row, context, settings)


def _max_pool(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    pool(ahead(s.scratch, row[OUT]), ahead(s.scratch, row[IN]), _field(row, 3, s), _field(row, 0, s), _pool(row))


def _undo_max_pool(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    below, above = ahead(s.scratch, row[BELOW]), ahead(s.scratch, row[ABOVE])
    x, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT])
    if row[WANTED]:
        unpool(below, above, x, out, _field(row, 3, s), _field(row, 0, s), _pool(row))


def _mean_pool(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    pool_mean(ahead(s.scratch, row[OUT]), ahead(s.scratch, row[IN]), _field(row, 3, s), _field(row, 0, s), _pool(row))


def _undo_mean_pool(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    below, above = ahead(s.scratch, row[BELOW]), ahead(s.scratch, row[ABOVE])
    if row[WANTED]:
        unpool_mean(below, above, _field(row, 3, s), _field(row, 0, s), _pool(row))


def _norm(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out, statistics = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT]), ahead(s.scratch, row[EXTRA])
    weight, bias = own(s, row[WEIGHT], VALUES), own(s, row[BIAS], VALUES)
    averages, variances = own(s, row[AVERAGE], VALUES), own(s, row[VARIANCE], VALUES)
    f, relu = _field(row, 0, s), row[_F + 3] != 0
    normalise(out, x, weight, bias, averages, variances, statistics, f, relu, reals[0], reals[1])


def _undo_norm(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out, above = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT]), ahead(s.scratch, row[ABOVE])
    f, weight, statistics = _field(row, 0, s), own(s, row[WEIGHT], VALUES), ahead(s.scratch, row[EXTRA])
    shifts, slopes = s.spare, ahead(s.spare, f.channels)
    undo_normalise(above, x, out, weight, statistics, f, row[_F + 3] != 0, shifts, slopes)
    if is_trained(s, row[BIAS]):
        add_gradient(s, row[BIAS], shifts)
    if is_trained(s, row[WEIGHT]):
        add_gradient(s, row[WEIGHT], slopes)


def _relu(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OUT])
    for vector in range(_vectors(row, s)):
        place = vector * LANES
        store(out, place, LANES, where_positive(load(x, place), load(x, place)))


def _undo_relu(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    out, above = ahead(s.scratch, row[OUT]), ahead(s.scratch, row[ABOVE])
    for vector in range(_vectors(row, s)):
        place = vector * LANES
        store(above, place, LANES, where_positive(load(out, place), load(above, place)))


def _add(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, other, out = ahead(s.scratch, row[IN]), ahead(s.scratch, row[OTHER]), ahead(s.scratch, row[OUT])
    for vector in range(_vectors(row, s)):
        place = vector * LANES
        store(out, place, LANES, plus(load(x, place), load(other, place), np.float32(1.0)))


def _undo_add(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = ahead(s.scratch, row[ABOVE])
    if row[WANTED] and row[BELOW] != row[ABOVE]:
        _pass_on(ahead(s.scratch, row[BELOW]), above, row[ADDS] != 0, _vectors(row, s))
    if row[WANTED_BESIDE]:
        _pass_on(ahead(s.scratch, row[BESIDE]), above, row[ADDS_BESIDE] != 0, _vectors(row, s))


@kernel
def _pass_on(below: Any, above: Any, adds: bool, vectors: int) -> None:
    """Copy a gradient, or add it to what is there."""
    for vector in range(vectors):
        place, value = vector * LANES, load(above, vector * LANES)
        store(below, place, LANES, plus(value, load(below, place), np.float32(1.0)) if adds else value)


def _flatten(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    flatten(ahead(s.scratch, row[OUT]), ahead(s.scratch, row[IN]), _field(row, 0, s))


def _undo_flatten(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        unflatten(ahead(s.scratch, row[BELOW]), ahead(s.scratch, row[ABOVE]), _field(row, 0, s))


def _mean(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    mean(ahead(s.scratch, row[OUT]), ahead(s.scratch, row[IN]), _field(row, 0, s))


def _undo_mean(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        spread_mean(ahead(s.scratch, row[BELOW]), ahead(s.scratch, row[ABOVE]), _field(row, 0, s))


def _dropout(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    mask, drawn = ahead(s.scratch, row[EXTRA]), ahead(s.masks, s.batch * row[_F + 3])
    if row[IMAGES]:
        enter(mask, drawn, _field(row, 0, s))
    else:
        enter_features(mask, drawn, s.batch, row[_F])
    _multiply(ahead(s.scratch, row[OUT]), ahead(s.scratch, row[IN]), mask, _vectors(row, s))


def _undo_dropout(row: Any, reals: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = ahead(s.scratch, row[ABOVE])
    _multiply(above, above, ahead(s.scratch, row[EXTRA]), _vectors(row, s))


@kernel
def _multiply(out: Any, x: Any, mask: Any, vectors: int) -> None:
    for vector in range(vectors):
        place = vector * LANES
        store(out, place, LANES, times(load(x, place), load(mask, place)))


OPERATIONS: dict[int, tuple[Callable[..., None], Callable[..., None]]] = {
    table.DENSE: (_dense, _undo_dense),
    table.LONG_DENSE: (_long_dense, _undo_long_dense),
    table.CONVOLUTION: (_convolution, _undo_convolution),
    table.WINOGRAD_3: (_winograd_3, _undo_winograd_3),
    table.WINOGRAD_5: (_winograd_5, _undo_winograd_5),
    table.POOL: (_max_pool, _undo_max_pool),
    table.MEAN_POOL: (_mean_pool, _undo_mean_pool),
    table.RELU: (_relu, _undo_relu),
    table.FLATTEN: (_flatten, _undo_flatten),
    table.NORM: (_norm, _undo_norm),
    table.ADD: (_add, _undo_add),
    table.MEAN: (_mean, _undo_mean),
    table.DROPOUT: (_dropout, _undo_dropout),
}
"""How each kind is done and undone."""
