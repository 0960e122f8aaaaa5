"""One client's dense layer at every position of its sequences: activations (blocks, features, 16).

A block is a position of sixteen samples, so a layer meets many blocks: 80 for 16 samples of 80 characters. Two things
differ from :mod:`~fedlama.kernels.dense`, which serves one or two. The weights are brought into the order in which a
tile reads them, once for all blocks, and the tile leaves registers for its factors on processors with vectors of 32
bytes too. And the gradient of the weights is summed over a few positions at a time, whose numbers stay in the cache.
Every sum has the same order for tiles of any height.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES, TOGETHER
from fedlama.kernels.tiles import (
    add_scaled,
    broadcast,
    load,
    load_some,
    load_tile,
    offset,
    rows_of,
    store,
    store_some,
    transpose,
)
from fedlama.kernels.update import is_trained, target_of
from fedlama.kernels.vectors import full, plus, times, total


def _height() -> int:
    """Return the rows of a tile: 12 registers of sums where a vector of sixteen takes two, 16 where it takes one."""
    try:
        return 16 if binding.get_host_cpu_features().get("avx512f") else 6
    except RuntimeError:  # llvmlite does not know the features of this processor
        return 6


HEIGHT = _height()
_STEP = TOGETHER * LANES * LANES
"""Elements of sixteen inputs of the positions that are transposed together."""


@kernel
def multiply_positions(zeros: Any, out: Any, matrix: Any, x: Any, affine: Any, room: Any, blocks: int) -> None:
    """out[r] = bias[r] + sum over c of matrix[r, c] x[c], in every block.

    Args:
        zeros: Tile, (rows at a time, 1, 16).
        out: (blocks, rows, 16).
        matrix: A :class:`~fedlama.kernels.operands.Matrix`, (rows, columns), with as many rows as the tile or more.
        x: (blocks, columns, 16).
        affine: A :class:`~fedlama.kernels.operands.Affine`, whose bias is added.
        room: Scratch of (rows + 16) * columns elements.
        blocks: Positions, of sixteen samples each.
    """
    height = rows_of(zeros)
    _pack_matrix(room, matrix, height)
    for block in range(blocks):
        inputs, outputs = offset(x, block * matrix.columns * LANES), offset(out, block * matrix.rows * LANES)
        for begin in range(0, matrix.rows, height):
            row, panel = min(begin, matrix.rows - height), offset(room, begin * matrix.columns)
            sums = zeros
            if affine.biased:
                sums = broadcast(zeros, affine.bias, row, 1)
            for column in range(matrix.columns):  # sums (height, 16) += panel (height, 1) * inputs (1, 16)
                sums = add_scaled(sums, panel, column * height, 1, load(inputs, column * LANES))
            store(outputs, row * LANES, LANES, sums)


@kernel
def _pack_matrix(out: Any, matrix: Any, height: int) -> None:
    """Bring a matrix into (panels, columns, height); the last panel may hold rows of the one before it again."""
    for begin in range(0, matrix.rows, height):
        row, panel = min(begin, matrix.rows - height), offset(out, begin * matrix.columns)
        for column in range(matrix.columns):  # panel (columns, height) <- matrix (height, columns)
            start = row * matrix.down + column * matrix.right
            for r in range(height):
                panel[column * height + r] = matrix.memory[start + r * matrix.down]


class Slopes(NamedTuple):
    """Sizes of the gradient of a dense layer's weights.

    Attributes:
        rows: Output features.
        columns: Input features.
        wide: Input features, filled up to vectors.
        positions: Of a sequence.
        batch: Samples.
    """

    rows: int
    columns: int
    wide: int
    positions: int
    batch: int


@kernel
def add_position_slopes(zeros: Any, target: Any, gradient: Any, x: Any, room: Any, sizes: Any) -> None:
    """target[r, c] = scale target[r, c] + factor (sum over samples and positions of gradient[r] x[c]).

    Args:
        zeros: Tile, (rows at a time, 1, 16).
        target: A :class:`~fedlama.kernels.operands.Target`, (rows, columns).
        gradient: (blocks, rows, 16).
        x: (blocks, columns, 16).
        room: Scratch of (rows + 80) * wide elements.
        sizes: The :class:`Slopes`; lanes without a sample are left out.
    """
    height = rows_of(zeros)
    sums = -(-sizes.rows // height) * height * sizes.wide
    packed = offset(room, sums)
    for element in range(sums):
        room[element] = 0.0
    for first in range(0, sizes.batch, LANES):
        here, start = min(sizes.batch - first, LANES), first // LANES * sizes.positions
        for position in range(0, sizes.positions, TOGETHER):
            count, block = min(sizes.positions - position, TOGETHER), start + position
            _pack_inputs(packed, offset(x, block * sizes.columns * LANES), count, sizes)
            _add_products(zeros, room, offset(gradient, block * sizes.rows * LANES), packed, count, here, sizes)
    _add_sums(zeros, target, room, sizes)


@kernel
def _pack_inputs(out: Any, x: Any, count: int, sizes: Any) -> None:
    """Bring the inputs of some blocks from (blocks, columns, 16) to (wide / 16, blocks * 16, 16), filled with zeros."""
    whole = sizes.columns - sizes.columns % LANES
    for block in range(count):
        source, goal = block * sizes.columns * LANES, block * LANES * LANES
        for column in range(0, whole, LANES):  # out (16 samples, 16 columns) <- x (16 columns, 16 samples)
            transpose(out, goal + column // LANES * _STEP, LANES, x, source + column * LANES, LANES)
        if whole < sizes.columns:
            last = goal + whole // LANES * _STEP
            for lane in range(LANES):
                for column in range(LANES):  # out (16 samples, 16 columns) <- x (up to 16 columns, 16 samples)
                    inside = whole + column < sizes.columns
                    number = x[source + (whole + column) * LANES + lane] if inside else np.float32(0.0)
                    out[last + lane * LANES + column] = number


@kernel
def _add_products(zeros: Any, sums: Any, gradient: Any, packed: Any, count: int, here: int, sizes: Any) -> None:
    """Add the products of some positions of up to sixteen samples.

    Args:
        zeros: Tile, (height, 1, 16).
        sums: (panels, wide / 16, height, 16).
        gradient: (blocks, rows, 16).
        packed: (wide / 16, 4 blocks * 16, 16).
        count: Blocks, one for each position.
        here: Samples.
        sizes: The :class:`Slopes`.
    """
    height = rows_of(zeros)
    for begin in range(0, sizes.rows, height):
        row, panel = min(begin, sizes.rows - height), offset(sums, begin * sizes.wide)
        for column in range(0, sizes.wide, LANES):
            products = load_tile(zeros, panel, column * height, LANES)
            inputs = offset(packed, column // LANES * _STEP)
            for block in range(count):
                above = offset(gradient, (block * sizes.rows + row) * LANES)
                for lane in range(here):  # products (height, 16) += above (height, 1) * inputs (1, 16)
                    vector = load(inputs, (block * LANES + lane) * LANES)
                    products = add_scaled(products, above, lane, LANES, vector)
            store(panel, column * height, LANES, products)


@kernel
def _add_sums(zeros: Any, target: Any, sums: Any, sizes: Any) -> None:
    """Add the complete sums, (panels, wide / 16, height, 16), to the target, (rows, columns)."""
    height, kept = rows_of(zeros), full(target.scale)
    for begin in range(0, sizes.rows, height):
        row = min(begin, sizes.rows - height)
        for column in range(0, sizes.columns, LANES):
            start, here = begin * sizes.wide + column * height, min(sizes.columns - column, LANES)
            for r in range(begin - row, height):  # target (up to 16) of a row <- sums (16)
                goal = (row + r) * sizes.columns + column
                before = times(load_some(target.memory, goal, here), kept)
                after = plus(before, load(sums, start + r * LANES), target.factor)
                store_some(target.memory, goal, LANES, after, here)


@kernel
def add_position_bias(s: Any, number: int, gradient: Any, features: int, positions: int) -> None:
    """Add a bias' gradient to its target: the sum of (blocks, features, 16) over all but the features.

    Args:
        s: The :class:`~fedlama.kernels.update.Step`, with spare scratch of (features, 16); lanes without a sample have
            a gradient of 0.
        number: The bias' position in the table of parameters.
        gradient: (blocks, features, 16).
        features: Output features.
        positions: Of a sequence.
    """
    if not is_trained(s, number):
        return
    for feature in range(features):
        store(s.spare, feature * LANES, LANES, full(np.float32(0.0)))
    for block in range(-(-s.batch // LANES) * positions):
        above = offset(gradient, block * features * LANES)
        for start in range(0, features * LANES, LANES):  # spare (features, 16) += above (features, 16)
            store(s.spare, start, LANES, plus(load(s.spare, start), load(above, start), np.float32(1.0)))
    target = target_of(s, number)
    for feature in range(features):
        sum_ = total(load(s.spare, feature * LANES))
        target.memory[feature] = target.scale * target.memory[feature] + target.factor * sum_
