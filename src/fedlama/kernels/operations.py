"""Every operation, forward and backward: fetches what its kernels need.

Each pair of functions here becomes machine code of its own, which :mod:`~fedlama.kernels.advance` calls by its address,
with a row of the program, the row's constants, the context and the settings of the step. The backward functions make
the input's gradient first, as the parameters' may change the parameters themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fedlama.kernels import table, winograd
from fedlama.kernels.convolution import Window, add_weight_gradient, backward_input, forward
from fedlama.kernels.dense import add_outer, multiply
from fedlama.kernels.images import enter, enter_features, flatten, mean, spread_mean, unflatten
from fedlama.kernels.kernel import kernel
from fedlama.kernels.long_dense import multiply_long, undo_long
from fedlama.kernels.norm import Norm, normalise, undo_normalise
from fedlama.kernels.operands import Affine, Images, Matrix, field
from fedlama.kernels.pooling import Pool, pool, pool_mean, unpool, unpool_mean
from fedlama.kernels.table import (
    ABOVE,
    ADDS,
    ADDS_OTHER,
    AVERAGE,
    BELOW,
    BELOW_OTHER,
    BIAS,
    EXTRA,
    FIRST_SIZE,
    IMAGES,
    IN,
    LANES,
    OTHER,
    OUT,
    TO_END,
    VALUES,
    VARIANCE,
    WANTED,
    WANTED_OTHER,
    WEIGHT,
)
from fedlama.kernels.tiles import load, offset, part, store, tile
from fedlama.kernels.update import (
    add_feature_bias,
    add_gradient,
    add_image_bias,
    client_view,
    is_trained,
    step_of,
    target_of,
)
from fedlama.kernels.vectors import plus, times, where_positive

_F = FIRST_SIZE
_W = FIRST_SIZE + 6  # where a window's sizes begin, after those of the input and of the output


@kernel
def _region(s: Any, row: Any, column: int) -> Any:
    """Return the region of the scratch that a column of the program names."""
    return part(s.scratch, row[column], row[column + TO_END])


@kernel
def _field(row: Any, first: int, s: Any) -> Any:
    """Return the layout of the activation whose sizes begin at `first`: 0 for the input, 3 for the output."""
    return field(row[_F + first], row[_F + first + 1], row[_F + first + 2], s.margin, s.batch)


@kernel
def _images(s: Any, row: Any, column: int, first: int) -> Any:
    """Return the images in a region, of the layout whose sizes begin at `first`."""
    return Images(_region(s, row, column), _field(row, first, s))


@kernel
def _affine(s: Any, row: Any) -> Any:
    """Return the operation's weight and bias."""
    return Affine(client_view(s, row[WEIGHT], VALUES), client_view(s, row[BIAS], VALUES), row[BIAS] >= 0)


@kernel
def _window(row: Any) -> Any:
    return Window(row[_W], row[_W + 1], row[_W + 2], row[_W + 3], row[_W + 4], row[_W + 5], row[_W + 6], row[_W + 7])


@kernel
def _pool(row: Any) -> Any:
    return Pool(row[_W], row[_W + 1], row[_W + 2], row[_W + 3], row[_W + 4], row[_W + 5])


@kernel
def _vectors(row: Any, s: Any) -> Any:
    """Return the vectors of an activation whose sizes come first, zeros beside images included."""
    if row[IMAGES]:
        f = _field(row, 0, s)
        return f.channels * f.plane // LANES
    return row[_F] * -(-s.batch // LANES)


def _dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    affine, rows, columns = _affine(s, row), row[_F], row[_F + 1]
    matrix = Matrix(affine.weight, rows, columns, columns, 1)
    x, out = _region(s, row, IN), _region(s, row, OUT)
    multiply(out, matrix, x, affine.bias, affine.biased, -(-s.batch // LANES))


def _undo_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above = _region(s, row, IN), _region(s, row, ABOVE)
    rows, columns, weight = row[_F], row[_F + 1], client_view(s, row[WEIGHT], VALUES)
    if row[WANTED]:
        transposed = Matrix(weight, columns, rows, 1, columns)
        multiply(_region(s, row, BELOW), transposed, above, weight, False, -(-s.batch // LANES))
    if is_trained(s, row[WEIGHT]):
        add_outer(target_of(s, row[WEIGHT]), above, x, s.spare, s.batch, rows, columns)
    add_feature_bias(s, row[BIAS], above, rows)


def _long_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = _region(s, row, IN), _region(s, row, OUT)
    multiply_long(out, _affine(s, row), x, s.spare, s.batch, row[_F], row[_F + 1])


def _undo_long_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above, below = _region(s, row, IN), _region(s, row, ABOVE), _region(s, row, BELOW)
    undo_long(s, row[WEIGHT], below, above, x, row[_F], row[_F + 1], row[WANTED] != 0)
    add_feature_bias(s, row[BIAS], above, row[_F])


def _convolution(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    forward(_images(s, row, OUT, 3), _images(s, row, IN, 0), _affine(s, row), _window(row))


def _undo_convolution(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above, w = _images(s, row, ABOVE, 3), _window(row)
    if row[WANTED]:
        backward_input(_images(s, row, BELOW, 0), above, client_view(s, row[WEIGHT], VALUES), row[ADDS] != 0, w)
    if is_trained(s, row[WEIGHT]):
        add_weight_gradient(target_of(s, row[WEIGHT]), above, _images(s, row, IN, 0), s.spare, w)
    add_image_bias(s, row[BIAS], above)


@kernel
def _winograd_forward(forms: Any, size: int, row: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    way = winograd.Way(size, _window(row).top, False, False)
    winograd.correlate(forms, _images(s, row, OUT, 3), _images(s, row, IN, 0), _affine(s, row), s.spare, way)


@kernel
def _winograd_backward(forms: Any, size: int, row: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above, padding = _images(s, row, ABOVE, 3), _window(row).top
    if row[WANTED]:
        weight = client_view(s, row[WEIGHT], VALUES)
        way = winograd.Way(size, size - 1 - padding, True, row[ADDS] != 0)
        affine = Affine(weight, weight, False)
        winograd.correlate(forms, _images(s, row, BELOW, 0), above, affine, s.spare, way)
    if is_trained(s, row[WEIGHT]):
        target, x = target_of(s, row[WEIGHT]), _images(s, row, IN, 0)
        winograd.add_weight_gradient(forms, target, above, x, s.spare, size, padding)
    add_image_bias(s, row[BIAS], above)


def _winograd_3(row: Any, constants: Any, context: Any, settings: Any) -> None:
    _winograd_forward(winograd.Forms(tile(16, 1), tile(9, 1)), 3, row, context, settings)


def _undo_winograd_3(row: Any, constants: Any, context: Any, settings: Any) -> None:
    _winograd_backward(winograd.Forms(tile(16, 1), tile(9, 1)), 3, row, context, settings)


def _winograd_5(row: Any, constants: Any, context: Any, settings: Any) -> None:
    _winograd_forward(winograd.Forms(tile(4, 1), tile(25, 1)), 5, row, context, settings)


def _undo_winograd_5(row: Any, constants: Any, context: Any, settings: Any) -> None:
    _winograd_backward(winograd.Forms(tile(4, 1), tile(25, 1)), 5, row, context, settings)


def _max_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    pool(_region(s, row, OUT), _region(s, row, IN), _field(row, 3, s), _field(row, 0, s), _pool(row))


def _undo_max_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        below, above = _region(s, row, BELOW), _region(s, row, ABOVE)
        x, out = _region(s, row, IN), _region(s, row, OUT)
        unpool(below, above, x, out, _field(row, 3, s), _field(row, 0, s), _pool(row))


def _mean_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    pool_mean(_region(s, row, OUT), _region(s, row, IN), _field(row, 3, s), _field(row, 0, s), _pool(row))


def _undo_mean_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        below, above = _region(s, row, BELOW), _region(s, row, ABOVE)
        unpool_mean(below, above, _field(row, 3, s), _field(row, 0, s), _pool(row))


@kernel
def _norm_of(s: Any, row: Any, constants: Any) -> Any:
    return Norm(
        client_view(s, row[WEIGHT], VALUES),
        client_view(s, row[BIAS], VALUES),
        client_view(s, row[AVERAGE], VALUES),
        client_view(s, row[VARIANCE], VALUES),
        _region(s, row, EXTRA),
        row[_F + 3] != 0,
        constants[0],
        constants[1],
    )


def _norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    normalise(_region(s, row, OUT), _region(s, row, IN), _field(row, 0, s), _norm_of(s, row, constants))


def _undo_norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out, above, f = _region(s, row, IN), _region(s, row, OUT), _region(s, row, ABOVE), _field(row, 0, s)
    undo_normalise(above, x, out, f, _norm_of(s, row, constants), s.spare)
    if is_trained(s, row[BIAS]):
        add_gradient(s, row[BIAS], s.spare)
    if is_trained(s, row[WEIGHT]):
        add_gradient(s, row[WEIGHT], offset(s.spare, f.channels))


def _relu(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = _region(s, row, IN), _region(s, row, OUT)
    for vector in range(_vectors(row, s)):  # out (vectors, 16) <- x (vectors, 16)
        start = vector * LANES
        store(out, start, LANES, where_positive(load(x, start), load(x, start)))


def _undo_relu(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    out, above = _region(s, row, OUT), _region(s, row, ABOVE)
    for vector in range(_vectors(row, s)):  # above (vectors, 16) <- above, where out (vectors, 16) is above 0
        start = vector * LANES
        store(above, start, LANES, where_positive(load(out, start), load(above, start)))


def _add(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, other, out = _region(s, row, IN), _region(s, row, OTHER), _region(s, row, OUT)
    for vector in range(_vectors(row, s)):  # out (vectors, 16) <- x (vectors, 16) + other (vectors, 16)
        start = vector * LANES
        store(out, start, LANES, plus(load(x, start), load(other, start), np.float32(1.0)))


def _undo_add(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = _region(s, row, ABOVE)
    if row[WANTED] and row[BELOW] != row[ABOVE]:
        _pass_on(_region(s, row, BELOW), above, row[ADDS] != 0, _vectors(row, s))
    if row[WANTED_OTHER]:
        _pass_on(_region(s, row, BELOW_OTHER), above, row[ADDS_OTHER] != 0, _vectors(row, s))


@kernel
def _pass_on(below: Any, above: Any, adds: bool, vectors: int) -> None:
    """Copy a gradient, or add it to what is there."""
    for vector in range(vectors):  # below (vectors, 16) <- above (vectors, 16)
        start, value = vector * LANES, load(above, vector * LANES)
        store(below, start, LANES, plus(value, load(below, start), np.float32(1.0)) if adds else value)


def _flatten(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    flatten(_region(s, row, OUT), _region(s, row, IN), _field(row, 0, s))


def _undo_flatten(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        unflatten(_region(s, row, BELOW), _region(s, row, ABOVE), _field(row, 0, s))


def _mean(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    mean(_region(s, row, OUT), _region(s, row, IN), _field(row, 0, s))


def _undo_mean(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        spread_mean(_region(s, row, BELOW), _region(s, row, ABOVE), _field(row, 0, s))


def _dropout(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    mask, drawn = _region(s, row, EXTRA), offset(s.masks, s.batch * row[_F + 3])
    if row[IMAGES]:
        enter(mask, drawn, _field(row, 0, s))
    else:
        enter_features(mask, drawn, s.batch, row[_F])
    _multiply_vectors(_region(s, row, OUT), _region(s, row, IN), mask, _vectors(row, s))


def _undo_dropout(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = _region(s, row, ABOVE)
    _multiply_vectors(above, above, _region(s, row, EXTRA), _vectors(row, s))


@kernel
def _multiply_vectors(out: Any, x: Any, mask: Any, vectors: int) -> None:
    for vector in range(vectors):  # out (vectors, 16) <- x (vectors, 16) * mask (vectors, 16)
        start = vector * LANES
        store(out, start, LANES, times(load(x, start), load(mask, start)))


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
"""The forward and the backward function of each kind of operation."""
