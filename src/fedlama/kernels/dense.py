"""One client's dense layer: activations (blocks, features, 16)."""

from __future__ import annotations

from typing import Any

from fedlama.kernels.kernel import kernel
from fedlama.kernels.lanes import ROWS, add_scaled, ahead, blend, load, one, spread, store, tall, turn
from fedlama.kernels.table import LANES


@kernel
def multiply(
    out: Any, weight: Any, x: Any, bias: Any, biased: bool, blocks: int, rows: int, columns: int, down: int, right: int
) -> None:
    """out[r] = bias[r] + sum over c of weight[r * down + c * right] x[c], in every block.

    Args:
        out: (blocks, rows, 16).
        weight: A matrix.
        x: (blocks, columns, 16).
        bias: (rows,); not looked at unless `biased`.
        biased: Whether there is a bias.
        blocks: How many vectors a batch takes.
        rows: Output features.
        columns: Input features.
        down: Distance between rows in `weight`.
        right: Distance between columns in `weight`.
    """
    full = rows - rows % ROWS
    for block in range(blocks):
        own, to = ahead(x, block * columns * LANES), ahead(out, block * rows * LANES)
        for row in range(0, full, ROWS):
            _multiply_rows(tall(), to, weight, own, bias, biased, columns, down, right, row)
        for row in range(full, rows):
            _multiply_rows(one(), to, weight, own, bias, biased, columns, down, right, row)


@kernel
def _multiply_rows(
    tile: Any, out: Any, weight: Any, x: Any, bias: Any, biased: bool, columns: int, down: int, right: int, row: int
) -> None:
    """Compute as many output features as the tile is tall."""
    if biased:
        tile = spread(tile, bias, row, 1)
    for column in range(columns):
        tile = add_scaled(tile, weight, row * down + column * right, down, load(x, column * LANES))
    store(out, row * LANES, LANES, tile)


@kernel
def add_outer(
    target: Any, gradient: Any, x: Any, room: Any, batch: int, rows: int, columns: int, scale: float, factor: float
) -> None:
    """target[r, c] = scale target[r, c] + factor (sum over samples of gradient[r] x[c]).

    Args:
        target: (rows, columns).
        gradient: (blocks, rows, 16).
        x: (blocks, columns, 16).
        room: Scratch of (batch rounded up to 16) * (columns rounded up to 16) + 8 * 16 elements.
        batch: Samples; what lies in the lanes beyond them does not matter.
        rows: Output features.
        columns: Input features.
        scale: What the target is multiplied with.
        factor: What the gradient is multiplied with.
    """
    blocks, wide = -(-batch // LANES), -(-columns // LANES) * LANES
    spare = ahead(room, blocks * LANES * wide)
    _turn(room, x, blocks, columns, wide)
    full = rows - rows % ROWS
    for row in range(0, full, ROWS):
        _add_rows(tall(), ROWS, target, gradient, room, spare, batch, rows, columns, wide, row, scale, factor)
    for row in range(full, rows):
        _add_rows(one(), 1, target, gradient, room, spare, batch, rows, columns, wide, row, scale, factor)


@kernel
def _turn(room: Any, x: Any, blocks: int, columns: int, wide: int) -> None:
    """Bring inputs from (blocks, columns, 16) to (blocks x 16, columns filled up)."""
    full = columns - columns % LANES
    for block in range(blocks):
        start, place = block * columns * LANES, block * LANES * wide
        for column in range(0, full, LANES):
            turn(room, place + column, wide, x, start + column * LANES, LANES)
        for lane in range(LANES):
            for column in range(full, columns):
                room[place + lane * wide + column] = x[start + column * LANES + lane]
            for column in range(columns, wide):
                room[place + lane * wide + column] = 0.0


@kernel
def _add_rows(
    zero: Any,
    height: int,
    target: Any,
    gradient: Any,
    turned: Any,
    spare: Any,
    batch: int,
    rows: int,
    columns: int,
    wide: int,
    row: int,
    scale: float,
    factor: float,
) -> None:
    """Treat as many rows of the target as the tile is tall, sixteen columns at a time."""
    for column in range(0, columns, LANES):
        total = zero
        for block in range(-(-batch // LANES)):
            start = (block * rows + row) * LANES
            for lane in range(min(batch - block * LANES, LANES)):
                inputs = load(turned, (block * LANES + lane) * wide + column)
                total = add_scaled(total, gradient, start + lane, LANES, inputs)
        place = row * columns + column
        if column + LANES <= columns:
            blend(target, place, columns, total, scale, factor)
            continue
        store(spare, 0, LANES, total)
        for r in range(height):
            for c in range(columns - column):
                goal = place + r * columns + c
                target[goal] = scale * target[goal] + factor * spare[r * LANES + c]
