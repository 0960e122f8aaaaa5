"""One client's dense layer: activations (blocks, features, 16), a block being sixteen samples."""

from __future__ import annotations

from typing import Any, NamedTuple

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import (
    ROWS,
    VECTORS,
    add_scaled,
    blend,
    broadcast,
    lanes_of,
    load,
    load_row,
    offset,
    rows_of,
    store,
    tile,
    transpose,
)


@kernel
def multiply(out: Any, matrix: Any, x: Any, bias: Any, biased: bool, blocks: int) -> None:
    """out[r] = bias[r] + sum over c of matrix[r, c] x[c], in every block.

    Args:
        out: (blocks, rows, 16).
        matrix: A :class:`~fedlama.kernels.operands.Matrix`, (rows, columns).
        x: (blocks, columns, 16).
        bias: (rows,); not accessed unless `biased`.
        biased: Whether there is a bias.
        blocks: Vectors that a batch takes.
    """
    for block in range(blocks):
        inputs, outputs = offset(x, block * matrix.columns * LANES), offset(out, block * matrix.rows * LANES)
        if matrix.rows < ROWS:
            for row in range(matrix.rows):
                _multiply_rows(tile(1, 1), outputs, matrix, inputs, bias, biased, row)
            continue
        for begin in range(0, matrix.rows, ROWS):
            # The last tile may compute rows again that the one before has done: single rows would wait for each sum.
            row = min(begin, matrix.rows - ROWS)
            _multiply_rows(tile(ROWS, 1), outputs, matrix, inputs, bias, biased, row)


@kernel
def _multiply_rows(sums: Any, out: Any, matrix: Any, x: Any, bias: Any, biased: bool, row: int) -> None:
    """Compute as many output features as the tile has rows."""
    if biased:
        sums = broadcast(sums, bias, row, 1)
    for column in range(matrix.columns):  # sums (rows, 16) += matrix (rows, 1) * x (1, 16)
        start = row * matrix.down + column * matrix.right
        sums = add_scaled(sums, matrix.memory, start, matrix.down, load(x, column * LANES))
    store(out, row * LANES, LANES, sums)


class Outer(NamedTuple):
    """Sizes of an outer product.

    Attributes:
        batch: Samples.
        rows: Output features.
        columns: Input features.
        wide: Input features, filled up to vectors.
    """

    batch: int
    rows: int
    columns: int
    wide: int


@kernel
def add_outer(
    target: Any, gradient: Any, x: Any, by_sample: bool, room: Any, batch: int, rows: int, columns: int
) -> None:
    """target[r, c] = scale target[r, c] + factor (sum over samples of gradient[r] x[c]).

    Args:
        target: A :class:`~fedlama.kernels.operands.Target`, (rows, columns).
        gradient: (blocks, rows, 16).
        x: (blocks, columns, 16), or (batch, columns) where columns are a multiple of 16; 16 elements more can be read.
        by_sample: Whether it is the latter, which is what the product reads: nothing has to be transposed.
        room: Scratch of (batch rounded up to 16) * (columns rounded up to 16) + 8 * 32 elements.
        batch: Samples; what is in the lanes beyond them does not matter.
        rows: Output features.
        columns: Input features.
    """
    blocks, wide = -(-batch // LANES), -(-columns // LANES) * LANES
    sizes, spare = Outer(batch, rows, columns, wide), offset(room, blocks * LANES * wide)
    inputs = x if by_sample else room
    if not by_sample:
        _transpose_inputs(room, x, blocks, columns, wide)
    if rows < ROWS:
        for row in range(rows):
            _add_rows(tile(1, VECTORS), target, gradient, inputs, spare, sizes, row, row)
        return
    for begin in range(0, rows, ROWS):
        _add_rows(tile(ROWS, VECTORS), target, gradient, inputs, spare, sizes, min(begin, rows - ROWS), begin)


@kernel
def _transpose_inputs(out: Any, x: Any, blocks: int, columns: int, wide: int) -> None:
    """Bring inputs from (blocks, columns, 16) to (blocks * 16, wide), columns filled up with zeros."""
    full = columns - columns % LANES
    for block in range(blocks):
        source, goal = block * columns * LANES, block * LANES * wide
        for column in range(0, full, LANES):  # out (16 samples, 16 columns) <- x (16 columns, 16 samples)
            transpose(out, goal + column, wide, x, source + column * LANES, LANES)
        for lane in range(LANES):
            for column in range(full, columns):
                out[goal + lane * wide + column] = x[source + column * LANES + lane]
            for column in range(columns, wide):
                out[goal + lane * wide + column] = 0.0


@kernel
def _add_rows(
    zeros: Any, target: Any, gradient: Any, inputs: Any, spare: Any, sizes: Any, row: int, begin: int
) -> None:
    """Treat as many rows of the target as the tile has, and as many columns at a time.

    Args:
        zeros: Tile, (rows at a time, vectors, 16).
        target: As for :func:`add_outer`.
        gradient: (blocks, rows, 16).
        inputs: (blocks * 16, wide).
        spare: Scratch of a tile.
        sizes: The :class:`Outer`.
        row: The first row of the tile.
        begin: The first row to add to: those before it were done with an earlier tile.
    """
    width = lanes_of(zeros)
    for column in range(0, sizes.columns, width):
        total = zeros
        for block in range(-(-sizes.batch // LANES)):
            start = (block * sizes.rows + row) * LANES
            for lane in range(min(sizes.batch - block * LANES, LANES)):  # total (rows, width) += (rows, 1) * (1, width)
                x = load_row(zeros, inputs, (block * LANES + lane) * sizes.wide + column)
                total = add_scaled(total, gradient, start + lane, LANES, x)
        goal, here = row * sizes.columns + column, min(sizes.columns - column, width)
        if here == width and begin == row:
            blend(target.memory, goal, sizes.columns, total, target.scale, target.factor)
            continue
        store(spare, 0, width, total)
        for r in range(begin - row, rows_of(zeros)):
            start, whole = goal + r * sizes.columns, here - here % LANES
            for c in range(0, whole, LANES):
                blend(target.memory, start + c, 0, load(spare, r * width + c), target.scale, target.factor)
            for c in range(whole, here):
                added = target.factor * spare[r * width + c]
                target.memory[start + c] = target.scale * target.memory[start + c] + added
