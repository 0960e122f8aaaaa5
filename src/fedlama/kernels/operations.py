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
from fedlama.kernels.convolution import (
    Window,
    add_weight_gradient,
    backward_strided,
    backward_taps,
    correlate,
    forward_taps,
)
from fedlama.kernels.dense import add_outer, multiply
from fedlama.kernels.group_norm import GroupNorm, normalise_groups, undo_normalise_groups
from fedlama.kernels.images import enter, enter_features, flatten, mean, spread_mean, unflatten
from fedlama.kernels.kernel import kernel
from fedlama.kernels.long_dense import multiply_long, undo_long
from fedlama.kernels.norm import Norm, normalise, undo_normalise
from fedlama.kernels.operands import Affine, Images, Matrix, field
from fedlama.kernels.pooling import Pool, pool, pool_mean, unpool, unpool_mean
from fedlama.kernels.sequence_operations import SEQUENCE_OPERATIONS
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
    SAMPLES,
    VALUES,
    VARIANCE,
    WANTED,
    WANTED_OTHER,
    WEIGHT,
)
from fedlama.kernels.tiles import client_view, load, offset, region, runtime, store, tile
from fedlama.kernels.tiling import POINTS
from fedlama.kernels.update import (
    add_feature_bias,
    add_image_bias,
    add_norm_gradients,
    is_trained,
    step_of,
    target_of,
)
from fedlama.kernels.vectors import plus, times, where_positive

# Where a row's sizes begin: of the input, of the output, and of a window.
_INPUT, _OUTPUT, _WINDOW = FIRST_SIZE, FIRST_SIZE + 3, FIRST_SIZE + 6


@kernel
def _inputs(row: Any, s: Any) -> Any:
    """Return the layout of the operation's input."""
    return field(row[_INPUT], row[_INPUT + 1], row[_INPUT + 2], s.margin, s.batch)


@kernel
def _outputs(row: Any, s: Any) -> Any:
    """Return the layout of the operation's output."""
    return field(row[_OUTPUT], row[_OUTPUT + 1], row[_OUTPUT + 2], s.margin, s.batch)


@kernel
def _affine(s: Any, row: Any) -> Any:
    """Return the operation's weight and bias."""
    return Affine(client_view(s, row[WEIGHT], VALUES), client_view(s, row[BIAS], VALUES), row[BIAS] >= 0)


@kernel
def _window(row: Any) -> Any:
    w = offset(row, _WINDOW)
    return Window(w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7])


@kernel
def _pool(row: Any) -> Any:
    w = offset(row, _WINDOW)
    return Pool(w[0], w[1], w[2], w[3], w[4], w[5])


@kernel
def _vectors(row: Any, s: Any) -> Any:
    """Return the vectors of an activation whose sizes come first, zeros beside images included."""
    if row[IMAGES]:
        f = _inputs(row, s)
        return f.channels * f.plane // LANES
    return row[_INPUT] * -(-s.batch // LANES)


def _dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    affine, rows, columns = _affine(s, row), row[_INPUT], row[_INPUT + 1]
    matrix = Matrix(affine.weight, rows, columns, columns, 1)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    multiply(out, matrix, x, affine.bias, affine.biased, -(-s.batch // LANES))


def _undo_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = region(s.scratch, row, ABOVE)
    rows, columns, weight = row[_INPUT], row[_INPUT + 1], client_view(s, row[WEIGHT], VALUES)
    if row[WANTED]:
        transposed = Matrix(weight, columns, rows, 1, columns)
        multiply(region(s.scratch, row, BELOW), transposed, above, weight, runtime(False), -(-s.batch // LANES))
    if is_trained(s, row[WEIGHT]):
        by_sample = row[SAMPLES] != 0
        x = s.inputs if by_sample else region(s.scratch, row, IN)
        add_outer(target_of(s, row[WEIGHT]), above, x, by_sample, s.spare, s.batch, rows, columns)
    add_feature_bias(s, row[BIAS], above, rows)


def _long_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    multiply_long(out, _affine(s, row), x, s.spare, s.batch, row[_INPUT], row[_INPUT + 1])


def _undo_long_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above, below = region(s.scratch, row, IN), region(s.scratch, row, ABOVE), region(s.scratch, row, BELOW)
    undo_long(s, row[WEIGHT], below, above, x, row[_INPUT], row[_INPUT + 1], row[WANTED] != 0)
    add_feature_bias(s, row[BIAS], above, row[_INPUT])


def _convolution(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = Images(region(s.scratch, row, IN), _inputs(row, s)), Images(region(s.scratch, row, OUT), _outputs(row, s))
    correlate(out, x, _affine(s, row), runtime(False), forward_taps(_window(row), x.field))


def _undo_convolution(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    inputs, above, w = _inputs(row, s), Images(region(s.scratch, row, ABOVE), _outputs(row, s)), _window(row)
    if row[WANTED]:
        below, weight = Images(region(s.scratch, row, BELOW), inputs), client_view(s, row[WEIGHT], VALUES)
        if w.stride_y == 1 and w.stride_x == 1:
            affine = Affine(weight, weight, runtime(False))
            correlate(below, above, affine, row[ADDS] != 0, backward_taps(w, inputs))
        else:
            backward_strided(below, above, weight, row[ADDS] != 0, w)
    if is_trained(s, row[WEIGHT]):
        x = Images(region(s.scratch, row, IN), inputs)
        add_weight_gradient(target_of(s, row[WEIGHT]), above, x, s.spare, w)
    add_image_bias(s, row[BIAS], above)


def _winograd(size: int) -> tuple[Callable[..., None], Callable[..., None]]:
    """Return the forward and the backward function of convolutions with filters of this side, 3 or 5."""
    results, taps = (POINTS + 1 - size) ** 2, size**2

    def forward(row: Any, constants: Any, context: Any, settings: Any) -> None:
        s = step_of(context, settings)
        x, out = Images(region(s.scratch, row, IN), _inputs(row, s)), region(s.scratch, row, OUT)
        forms, padding = winograd.Forms(tile(results, 1), tile(taps, 1)), _window(row).top
        way = winograd.Way(size, padding, runtime(False), runtime(False))
        winograd.correlate(forms, Images(out, _outputs(row, s)), x, _affine(s, row), s.spare, way)

    def backward(row: Any, constants: Any, context: Any, settings: Any) -> None:
        s = step_of(context, settings)
        inputs, above = _inputs(row, s), Images(region(s.scratch, row, ABOVE), _outputs(row, s))
        forms, padding = winograd.Forms(tile(results, 1), tile(taps, 1)), _window(row).top
        if row[WANTED]:
            below, weight = Images(region(s.scratch, row, BELOW), inputs), client_view(s, row[WEIGHT], VALUES)
            affine = Affine(weight, weight, runtime(False))
            way = winograd.Way(size, size - 1 - padding, runtime(True), row[ADDS] != 0)
            winograd.correlate(forms, below, above, affine, s.spare, way)
        if is_trained(s, row[WEIGHT]):
            target, x = target_of(s, row[WEIGHT]), Images(region(s.scratch, row, IN), inputs)
            winograd.add_weight_gradient(forms, target, above, x, s.spare, size, padding)
        add_image_bias(s, row[BIAS], above)

    return forward, backward


def _max_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    pool(out, x, _outputs(row, s), _inputs(row, s), _pool(row))


def _undo_max_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        below, above = region(s.scratch, row, BELOW), region(s.scratch, row, ABOVE)
        x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
        unpool(below, above, x, out, _outputs(row, s), _inputs(row, s), _pool(row))


def _mean_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    pool_mean(out, x, _outputs(row, s), _inputs(row, s), _pool(row))


def _undo_mean_pool(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        below, above = region(s.scratch, row, BELOW), region(s.scratch, row, ABOVE)
        unpool_mean(below, above, _outputs(row, s), _inputs(row, s), _pool(row))


@kernel
def _norm_of(s: Any, row: Any, constants: Any) -> Any:
    return Norm(
        client_view(s, row[WEIGHT], VALUES),
        client_view(s, row[BIAS], VALUES),
        client_view(s, row[AVERAGE], VALUES),
        client_view(s, row[VARIANCE], VALUES),
        region(s.scratch, row, EXTRA),
        row[_INPUT + 3] != 0,
        constants[0],
        constants[1],
    )


def _norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    normalise(out, x, _inputs(row, s), _norm_of(s, row, constants))


def _undo_norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out, above = region(s.scratch, row, IN), region(s.scratch, row, OUT), region(s.scratch, row, ABOVE)
    f = _inputs(row, s)
    undo_normalise(above, x, out, f, _norm_of(s, row, constants), s.spare)
    add_norm_gradients(s, row, f.channels)


@kernel
def _group_norm_of(s: Any, row: Any, constants: Any) -> Any:
    return GroupNorm(
        client_view(s, row[WEIGHT], VALUES),
        client_view(s, row[BIAS], VALUES),
        region(s.scratch, row, EXTRA),
        row[_INPUT + 4],
        row[_INPUT + 5],
        row[_INPUT + 3] != 0,
        constants[1],
    )


def _group_norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    normalise_groups(out, x, _inputs(row, s), _group_norm_of(s, row, constants))


def _undo_group_norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out, above = region(s.scratch, row, IN), region(s.scratch, row, OUT), region(s.scratch, row, ABOVE)
    f = _inputs(row, s)
    undo_normalise_groups(above, x, out, f, _group_norm_of(s, row, constants), s.spare)
    add_norm_gradients(s, row, f.channels)


def _relu(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    for vector in range(_vectors(row, s)):  # out (vectors, 16) <- x (vectors, 16)
        start = vector * LANES
        store(out, start, LANES, where_positive(load(x, start), load(x, start)))


def _undo_relu(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    out, above = region(s.scratch, row, OUT), region(s.scratch, row, ABOVE)
    for vector in range(_vectors(row, s)):  # above (vectors, 16) <- above, where out (vectors, 16) is above 0
        start = vector * LANES
        store(above, start, LANES, where_positive(load(out, start), load(above, start)))


def _add(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, other, out = region(s.scratch, row, IN), region(s.scratch, row, OTHER), region(s.scratch, row, OUT)
    for vector in range(_vectors(row, s)):  # out (vectors, 16) <- x (vectors, 16) + other (vectors, 16)
        start = vector * LANES
        store(out, start, LANES, plus(load(x, start), load(other, start), np.float32(1.0)))


def _undo_add(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = region(s.scratch, row, ABOVE)
    if row[WANTED] and row[BELOW] != row[ABOVE]:
        _pass_on(region(s.scratch, row, BELOW), above, row[ADDS] != 0, _vectors(row, s))
    if row[WANTED_OTHER]:
        _pass_on(region(s.scratch, row, BELOW_OTHER), above, row[ADDS_OTHER] != 0, _vectors(row, s))


@kernel
def _pass_on(below: Any, above: Any, adds: bool, vectors: int) -> None:
    """Copy a gradient, or add it to what is there."""
    for vector in range(vectors):  # below (vectors, 16) <- above (vectors, 16)
        start, value = vector * LANES, load(above, vector * LANES)
        store(below, start, LANES, plus(value, load(below, start), np.float32(1.0)) if adds else value)


def _flatten(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    flatten(region(s.scratch, row, OUT), region(s.scratch, row, IN), _inputs(row, s))


def _undo_flatten(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        unflatten(region(s.scratch, row, BELOW), region(s.scratch, row, ABOVE), _inputs(row, s))


def _mean(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    mean(region(s.scratch, row, OUT), region(s.scratch, row, IN), _inputs(row, s))


def _undo_mean(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if row[WANTED]:
        spread_mean(region(s.scratch, row, BELOW), region(s.scratch, row, ABOVE), _inputs(row, s))


def _dropout(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    mask, drawn = region(s.scratch, row, EXTRA), offset(s.masks, s.batch * row[_INPUT + 3])
    if row[IMAGES]:
        enter(mask, drawn, _inputs(row, s))
    else:
        enter_features(mask, drawn, s.batch, row[_INPUT])
    _multiply_vectors(region(s.scratch, row, OUT), region(s.scratch, row, IN), mask, _vectors(row, s))


def _undo_dropout(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    above = region(s.scratch, row, ABOVE)
    _multiply_vectors(above, above, region(s.scratch, row, EXTRA), _vectors(row, s))


@kernel
def _multiply_vectors(out: Any, x: Any, mask: Any, vectors: int) -> None:
    for vector in range(vectors):  # out (vectors, 16) <- x (vectors, 16) * mask (vectors, 16)
        start = vector * LANES
        store(out, start, LANES, times(load(x, start), load(mask, start)))


OPERATIONS: dict[int, tuple[Callable[..., None], Callable[..., None]]] = {
    table.DENSE: (_dense, _undo_dense),
    table.LONG_DENSE: (_long_dense, _undo_long_dense),
    table.CONVOLUTION: (_convolution, _undo_convolution),
    table.WINOGRAD_3: _winograd(3),
    table.WINOGRAD_5: _winograd(5),
    table.POOL: (_max_pool, _undo_max_pool),
    table.MEAN_POOL: (_mean_pool, _undo_mean_pool),
    table.RELU: (_relu, _undo_relu),
    table.FLATTEN: (_flatten, _undo_flatten),
    table.NORM: (_norm, _undo_norm),
    table.GROUP_NORM: (_group_norm, _undo_group_norm),
    table.ADD: (_add, _undo_add),
    table.MEAN: (_mean, _undo_mean),
    table.DROPOUT: (_dropout, _undo_dropout),
    **SEQUENCE_OPERATIONS,
}
"""The forward and the backward function of each kind of operation."""
