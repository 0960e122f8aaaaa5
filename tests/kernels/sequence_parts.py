"""Single kernels of sequences, to be called from tests with NumPy arrays; importing this asks for Numba."""

# ruff: noqa: ANN401 - what Numba compiles has no types in Python's sense

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels.attention import Heads, attend, undo_attend
from fedlama.kernels.embedding import Embedding, add_position_rows, add_positions, add_token_rows, embed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.layer_norm import LayerNorm, normalise_features, undo_normalise_features
from fedlama.kernels.loss import cross_entropy
from fedlama.kernels.operands import Affine, Matrix, Target
from fedlama.kernels.sequences import Slopes, add_position_slopes, multiply_positions
from fedlama.kernels.table import SEEN, TOGETHER, attention_span
from fedlama.kernels.tiles import floats, integers, load, store, tile, vector_of
from fedlama.kernels.vectors import gelu
from tests.kernels.parts import SLACK, Floats


def blocks_of(x: Floats, fill: float = 0.0) -> Floats:
    """Bring (batch, positions, features) into the kernels' layout, with numbers after them that must not be used."""
    batch, positions, features = x.shape
    lanes = np.full((-(-batch // 16) * 16, positions, features), fill, np.float32)
    lanes[:batch] = x
    lanes = lanes.reshape(-1, 16, positions, features).transpose(0, 2, 3, 1)  # (blocks, positions, features, 16)
    return np.concatenate([lanes.reshape(-1), np.full(SLACK, np.nan, np.float32)])


def samples_of(memory: Floats, batch: int, positions: int) -> Floats:
    """Undo :func:`blocks_of`; nothing after the numbers may have been written."""
    assert np.isnan(memory[-SLACK:]).all()
    lanes = memory[:-SLACK].reshape(-(-batch // 16), positions, -1, 16)
    return np.ascontiguousarray(lanes.transpose(0, 3, 1, 2).reshape(-1, *lanes.shape[1:3])[:batch])


def empty(batch: int, positions: int, features: int) -> Floats:
    """Return memory for (batch, positions, features) that no kernel has written."""
    return blocks_of(np.full((batch, positions, features), np.nan, np.float32), np.nan)


@kernel
def _multiply(out: Any, matrix: Any, x: Any, bias: Any, room: Any, blocks: int, tall: bool) -> None:
    memory, rows, columns, down, right = matrix
    given = Matrix(floats(memory), rows, columns, down, right)
    affine = Affine(floats(memory), floats(bias), len(bias) > 0)
    if tall:
        multiply_positions(tile(16, 1), floats(out), given, floats(x), affine, floats(room), blocks)
    else:
        multiply_positions(tile(6, 1), floats(out), given, floats(x), affine, floats(room), blocks)


@kernel
def _slopes(target: Any, gradient: Any, x: Any, room: Any, sizes: Any, tall: bool) -> None:
    goal = Target(floats(target[0]), target[1], target[2])
    if tall:
        add_position_slopes(tile(16, 1), goal, floats(gradient), floats(x), floats(room), sizes)
    else:
        add_position_slopes(tile(6, 1), goal, floats(gradient), floats(x), floats(room), sizes)


class PositionDense:
    """A dense layer at positions, on inputs (batch, positions, columns).

    Args:
        x: Inputs.
        weight: (rows, columns).
        tall: Whether tiles have sixteen rows.
    """

    def __init__(self, x: Floats, weight: Floats, tall: bool) -> None:
        self.batch, self.positions, self.columns = x.shape
        self.rows, self.weight, self.tall = len(weight), weight.reshape(-1), tall
        self.x, self.blocks = blocks_of(x, np.nan), -(-self.batch // 16) * self.positions
        wide, more = -(-self.columns // 16) * 16, (TOGETHER + 1) * 16
        room = max((self.columns + more) * self.rows, (self.rows + more) * wide)
        self.room = np.full(room, np.nan, np.float32)

    def forward(self, bias: Floats) -> Floats:
        """Return the outputs."""
        out = empty(self.batch, self.positions, self.rows)
        matrix = self.weight, self.rows, self.columns, self.columns, 1
        _multiply(out, matrix, self.x, bias, self.room, self.blocks, self.tall)
        return samples_of(out, self.batch, self.positions)

    def backward(self, gradient: Floats) -> Floats:
        """Return the input's gradient."""
        below = empty(self.batch, self.positions, self.columns)
        matrix = self.weight, self.columns, self.rows, 1, self.columns
        nothing = np.empty(0, np.float32)
        _multiply(below, matrix, blocks_of(gradient), nothing, self.room, self.blocks, self.tall)
        return samples_of(below, self.batch, self.positions)

    def weights(self, gradient: Floats, before: Floats, scale: float, factor: float) -> Floats:
        """Return scale times what was there before plus factor times the weights' gradient."""
        target = before.reshape(-1).copy(), np.float64(scale), np.float32(factor)
        sizes = Slopes(self.rows, self.columns, -(-self.columns // 16) * 16, self.positions, self.batch)
        _slopes(target, blocks_of(gradient), self.x, self.room, sizes, self.tall)
        return target[0].reshape(before.shape)


@kernel
def _normalise(out: Any, x: Any, weight: Any, bias: Any, statistics: Any, sizes: Any) -> None:
    features, blocks, epsilon = sizes
    norm = LayerNorm(floats(weight), floats(bias), floats(statistics), features, blocks, epsilon)
    normalise_features(floats(out), floats(x), norm)


@kernel
def _undo_normalise(below: Any, gradient: Any, x: Any, weight: Any, statistics: Any, sizes: Any, add: bool) -> Any:
    features, blocks, epsilon = sizes
    norm = LayerNorm(floats(weight), floats(weight), floats(statistics), features, blocks, epsilon)
    sums = np.full(34 * features, np.nan, np.float32)
    undo_normalise_features(floats(below), floats(gradient), floats(x), norm, floats(sums), True, add)
    return sums[: 2 * features]


class Normalisation:
    """A layer normalisation of inputs (batch, positions, features).

    Args:
        x: Inputs.
        weight: (features,).
    """

    def __init__(self, x: Floats, weight: Floats) -> None:
        self.batch, self.positions, self.features = x.shape
        self.x, self.weight, blocks = blocks_of(x, 0.5), weight, -(-self.batch // 16) * self.positions
        self.statistics = np.full(32 * blocks, np.nan, np.float32)
        self.sizes = self.features, blocks, np.float32(1e-5)

    def forward(self, bias: Floats) -> Floats:
        """Return the outputs."""
        out = empty(self.batch, self.positions, self.features)
        _normalise(out, self.x, self.weight, bias, self.statistics, self.sizes)
        return samples_of(out, self.batch, self.positions)

    def backward(self, gradient: Floats, before: Floats | None = None) -> tuple[Floats, Floats, Floats]:
        """Return the gradients of inputs, weight and bias; the first is added to what was there before, if given."""
        below = empty(*gradient.shape) if before is None else blocks_of(before)
        given = below, blocks_of(gradient), self.x, self.weight, self.statistics, self.sizes
        sums = _undo_normalise(*given, before is not None)
        return samples_of(below, self.batch, self.positions), sums[self.features :], sums[: self.features]


@kernel
def _gelus(out: Any, slopes: Any, x: Any) -> None:
    for start in range(0, len(x), 16):
        both = gelu(load(floats(x), start))
        store(floats(out), start, 16, vector_of(both, 0))
        store(floats(slopes), start, 16, vector_of(both, 1))


def gelus(x: Floats) -> tuple[Floats, Floats]:
    """Return the GELU of each number and its derivative; a multiple of sixteen of them."""
    out, slopes = np.empty_like(x), np.empty_like(x)
    _gelus(out, slopes, x)
    return out, slopes


@kernel
def _embed(out: Any, tokens: Any, table: Any, positions: Any, room: Any, sizes: Any) -> None:
    embed(floats(out), floats(tokens), floats(table), floats(room), sizes[0])
    add_positions(floats(out), floats(out), floats(positions), sizes[1])


@kernel
def _undo_embed(rows: Any, positions: Any, gradient: Any, tokens: Any, sizes: Any) -> None:
    add_token_rows(floats(rows), floats(gradient), floats(tokens), sizes[0])
    add_position_rows(floats(positions), floats(gradient), sizes[1])


class Tokens:
    """Rows of two tables for tokens (batch, positions): one for each token, one for each position.

    Args:
        tokens: int64.
        table: (rows, features).
        positions: (positions or more, features).
    """

    def __init__(self, tokens: NDArray[np.int64], table: Floats, positions: Floats) -> None:
        (self.batch, self.length), self.table, self.positions = tokens.shape, table, positions
        self.tokens = blocks_of(tokens[:, :, None].astype(np.float32))
        self.sizes = tuple(Embedding(*given.shape, self.length, self.batch) for given in (table, positions))

    def forward(self) -> Floats:
        """Return the sums of both rows."""
        features = self.table.shape[1]
        out, room = empty(self.batch, self.length, features), np.full(16 * (features + 16), np.nan, np.float32)
        _embed(out, self.tokens, self.table.reshape(-1), self.positions.reshape(-1), room, self.sizes)
        return samples_of(out, self.batch, self.length)

    def backward(self, gradient: Floats) -> tuple[Floats, Floats]:
        """Return the gradients of both tables."""
        features = self.table.shape[1]
        rows = np.full(self.table.size + 16 * (features + 16), np.nan, np.float32)
        others = np.full(self.positions.size, np.nan, np.float32)
        _undo_embed(rows, others, blocks_of(gradient), self.tokens, self.sizes)
        return rows[: self.table.size].reshape(self.table.shape), others.reshape(self.positions.shape)


@kernel
def _attend(out: Any, weights: Any, x: Any, room: Any, h: Any) -> None:
    attend(tile(SEEN, 1), floats(out), floats(weights), floats(x), floats(room), h)


@kernel
def _undo_attend(below: Any, gradient: Any, weights: Any, x: Any, room: Any, h: Any) -> None:
    undo_attend(tile(SEEN, 1), floats(below), floats(gradient), floats(weights), floats(x), floats(room), h)


class Attention:
    """Causal self-attention of up to sixteen samples, (batch, positions, 3 * width): queries, keys, values.

    Args:
        x: Inputs.
        heads: How many.
    """

    def __init__(self, x: Floats, heads: int) -> None:
        self.batch, positions, wide = x.shape
        features, span = wide // 3 // heads, attention_span(positions)
        self.heads = Heads(positions, wide // 3, heads, features, (features | 1) * 16, span)
        self.x, self.weights = blocks_of(x, 0.5), np.full(heads * positions * span * 16, np.nan, np.float32)
        self.room = np.full(4 * (positions + 1) * self.heads.stride + positions * span * 16, np.nan, np.float32)

    def forward(self) -> Floats:
        """Return the outputs, (batch, positions, width)."""
        out = empty(self.batch, self.heads.positions, self.heads.width)
        _attend(out, self.weights, self.x, self.room, self.heads)
        return samples_of(out, self.batch, self.heads.positions)

    def backward(self, gradient: Floats) -> Floats:
        """Return the input's gradient; after :meth:`forward`."""
        below = empty(self.batch, self.heads.positions, 3 * self.heads.width)
        self.room[:] = np.nan
        _undo_attend(below, blocks_of(gradient), self.weights, self.x, self.room, self.heads)
        return samples_of(below, self.batch, self.heads.positions)


@kernel
def _cross_entropy(logits: Any, y: Any, batch: int, positions: int, classes: int) -> float:
    room = np.empty(32, np.float32)
    return cross_entropy(floats(logits), integers(y), floats(room), batch, positions, classes)


def position_loss(logits: Floats, y: NDArray[np.int64]) -> tuple[float, Floats]:
    """Return the mean cross-entropy of logits (batch, positions, classes), and their gradient."""
    batch, positions, classes = logits.shape
    memory = blocks_of(logits, 0.5)
    loss = _cross_entropy(memory, y.reshape(-1), batch, positions, classes)
    lanes = memory[:-SLACK].reshape(-(-batch // 16), -1, 16)
    assert (lanes[-1, :, (batch - 1) % 16 + 1 :] == 0).all()  # lanes without a sample
    return loss, samples_of(memory, batch, positions)
