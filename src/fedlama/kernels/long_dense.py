"""One client's dense layer whose weights outgrow the cache: every weight is fetched once forward and once backward.

Vectors run over the inputs, so a batch of any size wastes no lanes. The backward pass makes the input's gradient, the
weights' gradient and the solver's step of a block of weights while it is at hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import (
    add_mixture,
    add_rows,
    add_scaled,
    ahead,
    ahead_of_need,
    fetch,
    floats,
    load,
    one,
    patch,
    plus,
    quarter,
    square,
    store,
    sums,
    turn,
)
from fedlama.kernels.table import ANCHOR, LANES, TRAINED, VALUES, VELOCITIES
from fedlama.kernels.update import about, own

_ROWS = 4
_WIDE = 4 * LANES


@kernel
def multiply_long(
    out: Any, weight: Any, x: Any, bias: Any, biased: bool, room: Any, batch: int, rows: int, columns: int
) -> None:
    """out[r] = bias[r] + sum over c of weight[r, c] x[c].

    Args:
        out: (blocks, rows, 16).
        weight: (rows, columns), at least four rows, and columns a multiple of 16.
        x: (blocks, columns, 16).
        bias: (rows,); not looked at unless `biased`.
        biased: Whether there is a bias.
        room: Scratch of blocks * 16 * (columns + 64) + 256 elements.
        batch: Samples.
        rows: Output features.
        columns: Input features.
    """
    blocks = -(-batch // LANES)
    partial = ahead(room, blocks * LANES * columns)  # a vector per sample and row, summed at last
    found = ahead(partial, blocks * LANES * _ROWS * LANES)
    _pack(room, x, batch, columns)
    for begin in range(0, rows, _ROWS):
        row = min(begin, rows - _ROWS)  # the last rows may be done twice
        for sample in range(batch):
            store(partial, sample * _ROWS * LANES, LANES, quarter())
        whole = columns - columns % _WIDE
        for column in range(0, whole, _WIDE):
            _add_partial(patch(), quarter(), partial, weight, room, batch, row, columns, column)
        for column in range(whole, columns, LANES):
            _add_partial(quarter(), one(), partial, weight, room, batch, row, columns, column)
        for first in range(0, batch, _ROWS):  # four samples' four rows
            sums(found, fetch(square(), partial, first * _ROWS * LANES, LANES))
            for sample in range(first, min(first + _ROWS, batch)):
                place = (sample // LANES * rows + row) * LANES + sample % LANES
                for r in range(_ROWS):
                    own_sum = found[(sample - first) * _ROWS + r]
                    out[place + r * LANES] = own_sum + bias[row + r] if biased else own_sum


@kernel
def _pack(room: Any, x: Any, batch: int, columns: int) -> None:
    """Bring (blocks, columns, 16) into (columns / 16, batch, 16): what meets the same weights lies together."""
    for column in range(0, columns, LANES):
        for block in range(-(-batch // LANES)):  # samples that are not there are overwritten by the next columns
            turn(room, column * batch + block * LANES * LANES, LANES, x, (block * columns + column) * LANES, LANES)


@kernel
def _add_partial(
    like: Any, column_like: Any, partial: Any, weight: Any, x: Any, batch: int, row: int, columns: int, column: int
) -> None:
    """Add the products of some weights, held in registers, with all samples."""
    for lane in range(0, _ROWS * _WIDE, LANES):  # ask for the next rows, in the order in which they lie
        ahead_of_need(weight, (row + _ROWS) * columns + _ROWS * column + lane)
    weights = fetch(like, weight, row * columns + column, columns)
    for sample in range(batch):
        inputs = fetch(column_like, x, column * batch + sample * LANES, batch * LANES)
        own_sums = fetch(quarter(), partial, sample * _ROWS * LANES, LANES)
        store(partial, sample * _ROWS * LANES, LANES, add_rows(own_sums, weights, inputs))


@kernel
def undo_long(
    s: Any, number: int, below: Any, gradient: Any, x: Any, room: Any, rows: int, columns: int, wanted: bool
) -> None:
    """Make the input's gradient, if wanted, and take the whole step of the weights, if they are trained.

    Args:
        s: The :class:`~fedlama.kernels.update.Step`.
        number: The weights' number.
        below: Gets the gradient of x, (blocks, columns, 16).
        gradient: (blocks, rows, 16).
        x: (blocks, columns, 16), columns a multiple of 16.
        room: Scratch of blocks * 16 * (2 * columns + 16) + 1024 elements.
        rows: Output features.
        columns: Input features.
        wanted: Whether the input's gradient is.
    """
    blocks = -(-s.batch // LANES)
    summed = ahead(room, blocks * LANES * columns)
    spare = ahead(summed, blocks * LANES * columns)
    _pack(room, x, s.batch, columns)
    if wanted:
        for place in range(blocks * LANES * columns):
            summed[place] = 0.0
    full_rows = rows - rows % LANES
    for row in range(0, full_rows, LANES):
        _undo_rows(square(), LANES, s, number, summed, gradient, room, spare, rows, columns, row, wanted)
    for row in range(full_rows, rows):
        _undo_rows(one(), 1, s, number, summed, gradient, room, spare, rows, columns, row, wanted)
    if wanted:
        for block in range(blocks):
            for column in range(0, columns, LANES):
                place = (block * columns + column) * LANES
                turn(below, place, LANES, summed, column * s.batch + block * LANES * LANES, LANES)


@kernel
def _undo_rows(
    zero: Any, height: int, s: Any, number: int, summed: Any, gradient: Any, x: Any, spare: Any, rows: int,
    columns: int, row: int, wanted: bool,
) -> None:  # fmt: skip
    """Treat as many rows as the tile is high."""
    trained = about(s, number, TRAINED) != 0
    weight = ahead(own(s, number, VALUES), row * columns)
    velocity = ahead(own(s, number, VELOCITIES), row * columns)
    anchor = ahead(floats(about(s, number, ANCHOR)), row * columns)
    above = ahead(spare, LANES * LANES)  # this block's gradients, (samples, height)
    for sample in range(s.batch):
        for r in range(height):
            above[sample * height + r] = gradient[(sample // LANES * rows + row + r) * LANES + sample % LANES]
    for column in range(0, columns, LANES):
        packed = column * s.batch
        if trained and height == LANES:  # ask for the next rows, in the order in which they lie
            for lane in range(0, LANES * height, LANES):
                ahead_of_need(weight, height * (columns + column) + lane)
                if s.momentum > 0.0:
                    ahead_of_need(velocity, height * (columns + column) + lane)
        if wanted:
            weights = fetch(zero, weight, column, columns)
            for sample in range(s.batch):
                kept = load(summed, packed + sample * LANES)
                store(summed, packed + sample * LANES, LANES, add_mixture(kept, above, sample * height, 1, weights))
        if trained:
            slopes = zero
            for sample in range(s.batch):
                slopes = add_scaled(slopes, above, sample * height, 1, load(x, packed + sample * LANES))
            store(spare, 0, LANES, slopes)
            for r in range(height):
                _move_vector(
                    s, s.decays[number], weight, velocity, anchor, r * columns + column, load(spare, r * LANES)
                )


@kernel
def _move_vector(s: Any, decay: Any, weight: Any, velocity: Any, anchor: Any, place: int, slope: Any) -> None:
    """Take the solver's step of sixteen weights: v <- m v + g + w x + mu (x - u), x <- x - eta v."""
    value = load(weight, place)
    if decay > 0.0:
        slope = plus(slope, value, decay)
    if s.pull > 0.0:
        slope = plus(slope, plus(value, load(anchor, place), np.float32(-1.0)), s.pull)
    if s.momentum > 0.0:
        if not s.fresh:
            slope = plus(slope, load(velocity, place), s.momentum)
        store(velocity, place, LANES, slope)
    store(weight, place, LANES, plus(value, slope, -s.rate))
