"""One row of a program, forward and backward: fetches what the kernels ask for."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.engines.compiled.convolution import Window, add_weight_gradient, backward_input, forward
from fedlama.engines.compiled.dense import add_outer, multiply
from fedlama.engines.compiled.images import enter, enter_features, field, flatten, mean, spread_mean, unflatten
from fedlama.engines.compiled.kernel import kernel
from fedlama.engines.compiled.lanes import ahead, load, plus, store, times, where_positive
from fedlama.engines.compiled.long_dense import multiply_long, undo_long
from fedlama.engines.compiled.norm import normalise, undo_normalise
from fedlama.engines.compiled.pooling import Pool, pool, pool_mean, unpool, unpool_mean
from fedlama.engines.compiled.table import (
    ABOVE,
    ADD,
    ADDS,
    ADDS_BESIDE,
    AVERAGE,
    BELOW,
    BESIDE,
    BIAS,
    CONVOLUTION,
    DENSE,
    DROPOUT,
    EXTRA,
    FIRST_SIZE,
    FLATTEN,
    IMAGES,
    IN,
    KIND,
    LANES,
    MEAN,
    MEAN_POOL,
    NORM,
    OTHER,
    OUT,
    POOL,
    RELU,
    VALUES,
    VARIANCE,
    WANTED,
    WANTED_BESIDE,
    WEIGHT,
)
from fedlama.engines.compiled.update import add_feature_bias, add_gradient, add_image_bias, is_trained, own, target

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


@kernel
def do(row: Any, reals: Any, scratch: Any, spare: Any, masks: Any, s: Any) -> None:
    """Do one operation.

    Args:
        row: Of the program.
        reals: Its two numbers that are not whole.
        scratch: Activations and gradients.
        spare: Scratch for a while.
        masks: Dropout masks of this step, one after another, each (batch, ...).
        s: The :class:`~fedlama.engines.compiled.update.Step`.
    """
    x, out = ahead(scratch, row[IN]), ahead(scratch, row[OUT])
    weight, bias = own(s, row[WEIGHT], VALUES), own(s, row[BIAS], VALUES)
    kind = row[KIND]
    if kind == DENSE:
        rows, columns, biased = row[_F], row[_F + 1], row[BIAS] >= 0
        if row[_F + 2]:
            multiply_long(out, weight, x, bias, biased, spare, s.batch, rows, columns)
        else:
            multiply(out, weight, x, bias, biased, -(-s.batch // LANES), rows, columns, columns, 1)
    elif kind == CONVOLUTION:
        forward(out, x, weight, bias, row[BIAS] >= 0, _field(row, 3, s), _field(row, 0, s), _window(row))
    elif kind == POOL:
        pool(out, x, _field(row, 3, s), _field(row, 0, s), _pool(row))
    elif kind == MEAN_POOL:
        pool_mean(out, x, _field(row, 3, s), _field(row, 0, s), _pool(row))
    elif kind == NORM:
        averages, variances = own(s, row[AVERAGE], VALUES), own(s, row[VARIANCE], VALUES)
        statistics, relu = ahead(scratch, row[EXTRA]), row[_F + 3] != 0
        normalise(
            out, x, weight, bias, averages, variances, statistics, _field(row, 0, s), relu, reals[0], reals[1]
        )  # fmt: skip
    elif kind == DROPOUT:
        mask, own_mask = ahead(scratch, row[EXTRA]), ahead(masks, s.batch * row[_F + 3])
        if row[IMAGES]:
            enter(mask, own_mask, _field(row, 0, s))
        else:
            enter_features(mask, own_mask, s.batch, row[_F])
        _multiply(out, x, mask, _vectors(row, s))
    elif kind == FLATTEN:
        flatten(out, x, _field(row, 0, s))
    elif kind == MEAN:
        mean(out, x, _field(row, 0, s))
    elif kind == RELU:
        for vector in range(_vectors(row, s)):
            place = vector * LANES
            store(out, place, LANES, where_positive(load(x, place), load(x, place)))
    elif kind == ADD:
        other = ahead(scratch, row[OTHER])
        for vector in range(_vectors(row, s)):
            place = vector * LANES
            store(out, place, LANES, plus(load(x, place), load(other, place), np.float32(1.0)))


@kernel
def undo(row: Any, scratch: Any, spare: Any, s: Any) -> None:
    """Undo one operation: the input's gradient first, as the parameters' may change the parameters themselves.

    Args:
        row: Of the program.
        scratch: Activations and gradients.
        spare: Scratch for a while.
        s: The :class:`~fedlama.engines.compiled.update.Step`.
    """
    x, out, above = ahead(scratch, row[IN]), ahead(scratch, row[OUT]), ahead(scratch, row[ABOVE])
    below, wanted = ahead(scratch, row[BELOW]), row[WANTED] != 0
    kind = row[KIND]
    if kind == DENSE:
        _undo_dense(row, x, above, below, spare, wanted, s)
    elif kind == CONVOLUTION:
        _undo_convolution(row, x, above, below, spare, wanted, s)
    elif kind == NORM:
        f, weight = _field(row, 0, s), own(s, row[WEIGHT], VALUES)
        statistics, slopes = ahead(scratch, row[EXTRA]), ahead(spare, f.channels)
        undo_normalise(above, x, out, weight, statistics, f, row[_F + 3] != 0, spare, slopes)
        if is_trained(s, row[BIAS]):
            add_gradient(s, row[BIAS], spare)
        if is_trained(s, row[WEIGHT]):
            add_gradient(s, row[WEIGHT], slopes)
    elif kind == ADD:
        if wanted and row[BELOW] != row[ABOVE]:
            _pass_on(below, above, row[ADDS] != 0, _vectors(row, s))
        if row[WANTED_BESIDE]:
            _pass_on(ahead(scratch, row[BESIDE]), above, row[ADDS_BESIDE] != 0, _vectors(row, s))
    elif not wanted:
        return
    elif kind == POOL:
        unpool(below, above, x, out, _field(row, 3, s), _field(row, 0, s), _pool(row))
    elif kind == MEAN_POOL:
        unpool_mean(below, above, _field(row, 3, s), _field(row, 0, s), _pool(row))
    elif kind == FLATTEN:
        unflatten(below, above, _field(row, 0, s))
    elif kind == MEAN:
        spread_mean(below, above, _field(row, 0, s))
    elif kind == DROPOUT:
        _multiply(above, above, ahead(scratch, row[EXTRA]), _vectors(row, s))
    elif kind == RELU:
        for vector in range(_vectors(row, s)):
            place = vector * LANES
            store(above, place, LANES, where_positive(load(out, place), load(above, place)))


@kernel
def _multiply(out: Any, x: Any, mask: Any, vectors: int) -> None:
    for vector in range(vectors):
        place = vector * LANES
        store(out, place, LANES, times(load(x, place), load(mask, place)))


@kernel
def _pass_on(below: Any, above: Any, adds: bool, vectors: int) -> None:
    """Copy a gradient, or add it to what is there."""
    for vector in range(vectors):
        place, value = vector * LANES, load(above, vector * LANES)
        store(below, place, LANES, plus(value, load(below, place), np.float32(1.0)) if adds else value)


@kernel
def _undo_dense(row: Any, x: Any, above: Any, below: Any, spare: Any, wanted: bool, s: Any) -> None:
    rows, columns, blocks = row[_F], row[_F + 1], -(-s.batch // LANES)
    weight = own(s, row[WEIGHT], VALUES)
    add_feature_bias(s, row[BIAS], above, rows)
    if row[_F + 2]:
        undo_long(s, row[WEIGHT], below, above, x, spare, rows, columns, wanted)
        return
    if wanted:
        multiply(below, weight, above, weight, False, blocks, columns, rows, 1, columns)
    if is_trained(s, row[WEIGHT]):
        goal, scale, factor = target(s, row[WEIGHT])
        add_outer(goal, above, x, spare, s.batch, rows, columns, scale, factor)


@kernel
def _undo_convolution(row: Any, x: Any, above: Any, below: Any, spare: Any, wanted: bool, s: Any) -> None:
    inputs, outputs, w = _field(row, 0, s), _field(row, 3, s), _window(row)
    if wanted:
        backward_input(below, above, own(s, row[WEIGHT], VALUES), row[ADDS] != 0, inputs, outputs, w)
    if is_trained(s, row[WEIGHT]):
        goal, scale, factor = target(s, row[WEIGHT])
        add_weight_gradient(goal, above, x, spare, outputs, inputs, w, scale, factor)
    add_image_bias(s, row[BIAS], above, outputs)
