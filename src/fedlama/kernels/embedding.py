"""One client's tokens and positions: rows of tables into activations (blocks, features, 16), and gradients back.

Tokens are whole numbers, kept as float32, (blocks, 16): a block is a position of sixteen samples. Lanes without a
sample have the token 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import load, offset, store, transpose
from fedlama.kernels.vectors import full, plus, total


class Embedding(NamedTuple):
    """A table of rows for tokens, or for positions.

    Attributes:
        rows: How many.
        features: Numbers in a row.
        positions: Of a sequence.
        batch: Samples.
    """

    rows: int
    features: int
    positions: int
    batch: int


@kernel
def embed(out: Any, tokens: Any, weight: Any, room: Any, sizes: Any) -> None:
    """Copy the row of each token.

    Args:
        out: (blocks, features, 16).
        tokens: (blocks, 16); each names a row of the table.
        weight: (rows, features).
        room: Scratch of 16 * (features + 16) elements.
        sizes: The :class:`Embedding`.
    """
    features, whole = sizes.features, sizes.features - sizes.features % LANES
    for block in range(-(-sizes.batch // LANES) * sizes.positions):
        goal = block * features * LANES
        for lane in range(LANES):
            source = offset(weight, np.int64(tokens[block * LANES + lane]) * features)
            for feature in range(features):  # room (16 samples, features) <- source (features)
                room[lane * features + feature] = source[feature]
        for feature in range(0, whole, LANES):  # out (16 features, 16 samples) <- room (16 samples, 16 features)
            transpose(out, goal + feature * LANES, LANES, room, feature, features)
        for feature in range(whole, features):
            for lane in range(LANES):
                out[goal + feature * LANES + lane] = room[lane * features + feature]


@kernel
def add_token_rows(sums: Any, gradient: Any, tokens: Any, sizes: Any) -> None:
    """Sum the gradients of each token's row.

    Args:
        sums: Gets the table's gradient, (rows, features); scratch of 16 * (features + 16) elements after it.
        gradient: (blocks, features, 16).
        tokens: (blocks, 16).
        sizes: The :class:`Embedding`; lanes without a sample are left out.
    """
    features, whole = sizes.features, sizes.features - sizes.features % LANES
    room = offset(sums, sizes.rows * features)
    for element in range(sizes.rows * features):
        sums[element] = 0.0
    for block in range(-(-sizes.batch // LANES) * sizes.positions):
        source = block * features * LANES
        for feature in range(0, whole, LANES):  # room (16 samples, 16 features) <- gradient (16 features, 16 samples)
            transpose(room, feature, features, gradient, source + feature * LANES, LANES)
        for feature in range(whole, features):
            for lane in range(LANES):
                room[lane * features + feature] = gradient[source + feature * LANES + lane]
        for lane in range(min(sizes.batch - block // sizes.positions * LANES, LANES)):
            row = offset(sums, np.int64(tokens[block * LANES + lane]) * features)
            for feature in range(features):  # row (features) of a token += room (features)
                row[feature] += room[lane * features + feature]


@kernel
def add_positions(out: Any, x: Any, weight: Any, sizes: Any) -> None:
    """Add the row of each position.

    Args:
        out: (blocks, features, 16); may be `x`.
        x: (blocks, features, 16).
        weight: (rows, features), with as many rows as positions or more.
        sizes: The :class:`Embedding`.
    """
    for block in range(-(-sizes.batch // LANES) * sizes.positions):
        row, start = offset(weight, block % sizes.positions * sizes.features), block * sizes.features * LANES
        for feature in range(sizes.features):  # out (features, 16) <- x (features, 16) + row (features)
            at = start + feature * LANES
            store(out, at, LANES, plus(load(x, at), full(row[feature]), np.float32(1.0)))


@kernel
def add_position_rows(sums: Any, gradient: Any, sizes: Any) -> None:
    """Sum the gradients of each position's row.

    Args:
        sums: Gets the table's gradient, (rows, features); rows without a position get 0.
        gradient: (blocks, features, 16); 0 in lanes without a sample.
        sizes: The :class:`Embedding`.
    """
    for element in range(sizes.rows * sizes.features):
        sums[element] = 0.0
    for block in range(-(-sizes.batch // LANES) * sizes.positions):
        row, start = offset(sums, block % sizes.positions * sizes.features), block * sizes.features * LANES
        for feature in range(sizes.features):  # row (features) += gradient (features, 16)
            row[feature] += total(load(gradient, start + feature * LANES))
