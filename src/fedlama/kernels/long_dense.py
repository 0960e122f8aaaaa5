"""One client's dense layer whose weights outgrow the cache: every weight is read once forward and once backward.

Vectors run over the inputs, so a batch of any size wastes no lanes. The backward pass makes the input's gradient, the
weights' gradient and the solver's step of a block of weights while it is in the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES, TRAINED, VALUES, VELOCITIES
from fedlama.kernels.tiles import (
    add_mixture,
    add_rows,
    add_scaled,
    client_view,
    column_of,
    load,
    load_tile,
    offset,
    parameter_field,
    prefetch,
    row_sums,
    rows_of,
    store,
    tile,
    transpose,
)
from fedlama.kernels.update import reference_view
from fedlama.kernels.vectors import plus

_ROWS = 4
"""Rows of weights at a time, and vectors of inputs: a tile of 4 x 4 vectors."""
_WIDE = _ROWS * LANES


@kernel
def multiply_long(out: Any, affine: Any, x: Any, room: Any, batch: int, rows: int, columns: int) -> None:
    """out[r] = bias[r] + sum over c of weight[r, c] x[c].

    Args:
        out: (blocks, rows, 16).
        affine: The :class:`~fedlama.kernels.operands.Affine`: weight (rows, columns) with at least four rows, and
            columns a multiple of 16; bias (rows,).
        x: (blocks, columns, 16).
        room: Scratch of blocks * 16 * (columns + 64) + 256 elements.
        batch: Samples.
        rows: Output features.
        columns: Input features.
    """
    blocks = -(-batch // LANES)
    partial = offset(room, blocks * LANES * columns)  # (samples, 4 rows, 16), summed over lanes at last
    sums = offset(partial, blocks * LANES * _ROWS * LANES)  # (4 samples, 4 rows)
    _pack(room, x, batch, columns)
    for begin in range(0, rows, _ROWS):
        row = min(begin, rows - _ROWS)  # the last rows may be done twice
        for sample in range(batch):
            store(partial, sample * _ROWS * LANES, LANES, tile(_ROWS, 1))
        whole = columns - columns % _WIDE
        for column in range(0, whole, _WIDE):
            _add_partial(tile(_ROWS, _ROWS), partial, affine.weight, room, batch, row, columns, column)
        for column in range(whole, columns, LANES):
            _add_partial(tile(_ROWS, 1), partial, affine.weight, room, batch, row, columns, column)
        for first in range(0, batch, _ROWS):  # sums (4 samples * 4 rows) <- partial (4 samples * 4 rows, 16)
            row_sums(sums, load_tile(tile(LANES, 1), partial, first * _ROWS * LANES, LANES))
            for sample in range(first, min(first + _ROWS, batch)):
                goal = (sample // LANES * rows + row) * LANES + sample % LANES
                for r in range(_ROWS):
                    sum_ = sums[(sample - first) * _ROWS + r]
                    out[goal + r * LANES] = sum_ + affine.bias[row + r] if affine.biased else sum_


@kernel
def _pack(out: Any, x: Any, batch: int, columns: int) -> None:
    """Bring (blocks, columns, 16) into (columns / 16, batch, 16): what meets the same weights is next to each other."""
    for column in range(0, columns, LANES):
        for block in range(-(-batch // LANES)):  # out (16 samples, 16 columns) <- x (16 columns, 16 samples)
            # samples that do not exist are overwritten by the next columns
            goal = column * batch + block * LANES * LANES
            transpose(out, goal, LANES, x, (block * columns + column) * LANES, LANES)


@kernel
def _add_partial(like: Any, partial: Any, weight: Any, x: Any, batch: int, row: int, columns: int, column: int) -> None:
    """Add the products of a tile of weights, held in registers, with all samples.

    Args:
        like: Tile of the weights' form, (4 rows, vectors, 16).
        partial: (samples, 4 rows, 16).
        weight: (rows, columns).
        x: (columns / 16, batch, 16).
        batch: Samples.
        row: The weights' first row.
        columns: Input features.
        column: The weights' first column.
    """
    for lane in range(0, _ROWS * _WIDE, LANES):  # ask for the next rows, in the order in which they are stored
        prefetch(weight, (row + _ROWS) * columns + _ROWS * column + lane)
    weights = load_tile(like, weight, row * columns + column, columns)
    for sample in range(batch):  # partial (4 rows, 16) of a sample += weights (4 rows, vectors, 16) * x (vectors, 16)
        inputs = load_tile(column_of(like), x, column * batch + sample * LANES, batch * LANES)
        sums = load_tile(tile(_ROWS, 1), partial, sample * _ROWS * LANES, LANES)
        store(partial, sample * _ROWS * LANES, LANES, add_rows(sums, weights, inputs))


class _Undo(NamedTuple):
    """What the backward pass of a block of rows needs.

    Attributes:
        number: The weights' position in the table of parameters.
        summed: The input's gradient so far, memory, (columns / 16, batch, 16).
        inputs: Memory, (columns / 16, batch, 16).
        spare: Scratch of 256 elements, and of (samples, rows at a time).
        rows: Output features.
        columns: Input features.
        wanted: Whether the input's gradient is.
    """

    number: int
    summed: Any
    inputs: Any
    spare: Any
    rows: int
    columns: int
    wanted: bool


@kernel
def undo_long(s: Any, number: int, below: Any, gradient: Any, x: Any, rows: int, columns: int, wanted: bool) -> None:
    """Make the input's gradient, if wanted, and take the whole step of the weights, if they are trained.

    Args:
        s: The :class:`~fedlama.kernels.update.Step`, with scratch of blocks * 16 * (2 * columns + 16) + 1024 elements.
        number: The weights' position in the table of parameters.
        below: Gets the gradient of x, (blocks, columns, 16).
        gradient: (blocks, rows, 16).
        x: (blocks, columns, 16), columns a multiple of 16.
        rows: Output features.
        columns: Input features.
        wanted: Whether the input's gradient is.
    """
    blocks = -(-s.batch // LANES)
    summed = offset(s.spare, blocks * LANES * columns)
    u = _Undo(number, summed, s.spare, offset(summed, blocks * LANES * columns), rows, columns, wanted)
    _pack(u.inputs, x, s.batch, columns)
    if wanted:
        for element in range(blocks * LANES * columns):
            summed[element] = 0.0
    full_rows = rows - rows % LANES
    for row in range(0, full_rows, LANES):
        _undo_rows(tile(LANES, 1), s, u, gradient, row)
    for row in range(full_rows, rows):
        _undo_rows(tile(1, 1), s, u, gradient, row)
    if wanted:
        for block in range(blocks):
            for column in range(0, columns, LANES):  # below (16 columns, 16 samples) <- summed (16 samples, 16 columns)
                goal = (block * columns + column) * LANES
                transpose(below, goal, LANES, summed, column * s.batch + block * LANES * LANES, LANES)


@kernel
def _undo_rows(zeros: Any, s: Any, u: Any, gradient: Any, row: int) -> None:
    """Treat as many rows as the tile has, sixteen columns at a time."""
    height = rows_of(zeros)
    trained = parameter_field(s, u.number, TRAINED) != 0
    weight = offset(client_view(s, u.number, VALUES), row * u.columns)  # (rows at a time, columns)
    velocity = offset(client_view(s, u.number, VELOCITIES), row * u.columns)
    reference = offset(reference_view(s, u.number), row * u.columns)
    above = offset(u.spare, LANES * LANES)  # this block's gradients, (samples, rows at a time)
    for sample in range(s.batch):
        for r in range(height):
            above[sample * height + r] = gradient[(sample // LANES * u.rows + row + r) * LANES + sample % LANES]
    for column in range(0, u.columns, LANES):
        packed = column * s.batch
        if trained and height == LANES:  # ask for the next rows, in the order in which they are stored
            for lane in range(0, LANES * height, LANES):
                prefetch(weight, height * (u.columns + column) + lane)
                if s.momentum > 0.0:
                    prefetch(velocity, height * (u.columns + column) + lane)
        if u.wanted:
            weights = load_tile(zeros, weight, column, u.columns)  # (rows at a time, 16)
            for sample in range(s.batch):  # summed (16) of a sample += above (1, rows) * weights (rows, 16)
                kept = load(u.summed, packed + sample * LANES)
                mixed = add_mixture(kept, above, sample * height, 1, weights)
                store(u.summed, packed + sample * LANES, LANES, mixed)
        if trained:
            slopes = zeros
            for sample in range(s.batch):  # slopes (rows, 16) += above (rows, 1) * inputs (1, 16) of a sample
                slopes = add_scaled(slopes, above, sample * height, 1, load(u.inputs, packed + sample * LANES))
            store(u.spare, 0, LANES, slopes)
            tensor = weight, velocity, reference
            for r in range(height):
                slope = load(u.spare, r * LANES)
                _update_vector(s, s.decays[u.number], tensor, r * u.columns + column, slope)


@kernel
def _update_vector(s: Any, decay: Any, tensor: Any, start: int, slope: Any) -> None:
    """Take the solver's step of sixteen weights: v <- m v + g + w x + mu (x - u), x <- x - eta v.

    Args:
        s: The :class:`~fedlama.kernels.update.Step`.
        decay: The parameter's weight decay w.
        tensor: Weights, velocities and reference, (rows at a time, columns) each.
        start: The first weight.
        slope: Its gradient g and those of the next fifteen.
    """
    weight, velocity, reference = tensor
    value = load(weight, start)
    if decay > 0.0:
        slope = plus(slope, value, decay)
    if s.proximal > 0.0:
        slope = plus(slope, plus(value, load(reference, start), np.float32(-1.0)), s.proximal)
    if s.momentum > 0.0:
        if not s.fresh:
            slope = plus(slope, load(velocity, start), s.momentum)
        store(velocity, start, LANES, slope)
    store(weight, start, LANES, plus(value, slope, -s.rate))
