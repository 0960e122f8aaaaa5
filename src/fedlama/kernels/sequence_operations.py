"""The operations on sequences, and on features that they share with :mod:`~fedlama.kernels.operations`.

The activations of a sequence are (blocks, features, 16): a block is a position of sixteen samples, and the positions of
the first sixteen samples come before those of the next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fedlama.kernels import table
from fedlama.kernels.attention import Heads, attend, undo_attend
from fedlama.kernels.embedding import Embedding, add_position_rows, add_positions, add_token_rows, embed
from fedlama.kernels.kernel import kernel
from fedlama.kernels.layer_norm import LayerNorm, normalise_features, undo_normalise_features
from fedlama.kernels.operands import Affine, Matrix
from fedlama.kernels.sequences import HEIGHT, Slopes, add_position_bias, add_position_slopes, multiply_positions
from fedlama.kernels.table import (
    ABOVE,
    ADDS,
    BELOW,
    BIAS,
    EXTRA,
    FIRST_SIZE,
    IN,
    LANES,
    OUT,
    SEEN,
    VALUES,
    WANTED,
    WEIGHT,
)
from fedlama.kernels.tiles import client_view, load, offset, region, runtime, store, tile, vector_of
from fedlama.kernels.update import add_gradient, add_norm_gradients, is_trained, step_of, target_of
from fedlama.kernels.vectors import gelu, times


def _sequence_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    rows, columns = row[FIRST_SIZE], row[FIRST_SIZE + 1]
    affine = Affine(client_view(s, row[WEIGHT], VALUES), client_view(s, row[BIAS], VALUES), row[BIAS] >= 0)
    matrix, blocks = Matrix(affine.weight, rows, columns, columns, 1), row[FIRST_SIZE + 2] * -(-s.batch // LANES)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    multiply_positions(tile(HEIGHT, 1), out, matrix, x, affine, s.spare, blocks)


def _undo_sequence_dense(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    rows, columns, positions = row[FIRST_SIZE], row[FIRST_SIZE + 1], row[FIRST_SIZE + 2]
    above, weight = region(s.scratch, row, ABOVE), client_view(s, row[WEIGHT], VALUES)
    if row[WANTED]:
        matrix, affine = Matrix(weight, columns, rows, 1, columns), Affine(weight, weight, runtime(False))
        below, blocks = region(s.scratch, row, BELOW), positions * -(-s.batch // LANES)
        multiply_positions(tile(HEIGHT, 1), below, matrix, above, affine, s.spare, blocks)
    if is_trained(s, row[WEIGHT]):
        sizes = Slopes(rows, columns, -(-columns // LANES) * LANES, positions, s.batch)
        x = region(s.scratch, row, IN)
        add_position_slopes(tile(HEIGHT, 1), target_of(s, row[WEIGHT]), above, x, s.spare, sizes)
    add_position_bias(s, row[BIAS], above, rows, positions)


@kernel
def _layer_norm_of(s: Any, row: Any, constants: Any) -> Any:
    return LayerNorm(
        client_view(s, row[WEIGHT], VALUES),
        client_view(s, row[BIAS], VALUES),
        region(s.scratch, row, EXTRA),
        row[FIRST_SIZE],
        row[FIRST_SIZE + 1] * -(-s.batch // LANES),
        constants[1],
    )


def _layer_norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    normalise_features(out, x, _layer_norm_of(s, row, constants))


def _undo_layer_norm(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, above, below = region(s.scratch, row, IN), region(s.scratch, row, ABOVE), region(s.scratch, row, BELOW)
    norm = _layer_norm_of(s, row, constants)
    undo_normalise_features(below, above, x, norm, s.spare, row[WANTED] != 0, row[ADDS] != 0)
    add_norm_gradients(s, row, norm.features)


def _gelu(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    for vector in range(row[FIRST_SIZE] * -(-s.batch // LANES)):  # out, x (vectors, 16) <- x (vectors, 16)
        both = gelu(load(x, vector * LANES))
        store(out, vector * LANES, LANES, vector_of(both, 0))
        store(x, vector * LANES, LANES, vector_of(both, 1))  # the derivative, for the backward pass


def _undo_gelu(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    slopes, above = region(s.scratch, row, IN), region(s.scratch, row, ABOVE)
    for vector in range(row[FIRST_SIZE] * -(-s.batch // LANES)):  # above (vectors, 16) *= slopes (vectors, 16)
        at = vector * LANES
        store(above, at, LANES, times(load(above, at), load(slopes, at)))


@kernel
def _table_of(row: Any, s: Any) -> Any:
    return Embedding(row[FIRST_SIZE], row[FIRST_SIZE + 1], row[FIRST_SIZE + 2], s.batch)


def _embedding(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    tokens, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    embed(out, tokens, client_view(s, row[WEIGHT], VALUES), s.spare, _table_of(row, s))


def _undo_embedding(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if is_trained(s, row[WEIGHT]):
        add_token_rows(s.spare, region(s.scratch, row, ABOVE), region(s.scratch, row, IN), _table_of(row, s))
        add_gradient(s, row[WEIGHT], s.spare)


def _add_positions(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    x, out = region(s.scratch, row, IN), region(s.scratch, row, OUT)
    add_positions(out, x, client_view(s, row[WEIGHT], VALUES), _table_of(row, s))


def _undo_add_positions(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s = step_of(context, settings)
    if is_trained(s, row[WEIGHT]):
        add_position_rows(s.spare, region(s.scratch, row, ABOVE), _table_of(row, s))
        add_gradient(s, row[WEIGHT], s.spare)


@kernel
def _heads_of(row: Any) -> Any:
    positions, width, heads = row[FIRST_SIZE], row[FIRST_SIZE + 1], row[FIRST_SIZE + 2]
    return Heads(positions, width, heads, width // heads, row[FIRST_SIZE + 3], row[FIRST_SIZE + 4])


def _attention(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s, h = step_of(context, settings), _heads_of(row)
    for block in range(-(-s.batch // LANES)):
        x = offset(region(s.scratch, row, IN), block * h.positions * 3 * h.width * LANES)
        out = offset(region(s.scratch, row, OUT), block * h.positions * h.width * LANES)
        weights = offset(region(s.scratch, row, EXTRA), block * h.heads * h.positions * h.span * LANES)
        attend(tile(SEEN, 1), out, weights, x, s.spare, h)


def _undo_attention(row: Any, constants: Any, context: Any, settings: Any) -> None:
    s, h = step_of(context, settings), _heads_of(row)
    for block in range(-(-s.batch // LANES)):
        start = block * h.positions * h.width * LANES
        x, below = offset(region(s.scratch, row, IN), 3 * start), offset(region(s.scratch, row, BELOW), 3 * start)
        above = offset(region(s.scratch, row, ABOVE), start)
        weights = offset(region(s.scratch, row, EXTRA), block * h.heads * h.positions * h.span * LANES)
        undo_attend(tile(SEEN, 1), below, above, weights, x, s.spare, h)


SEQUENCE_OPERATIONS: dict[int, tuple[Callable[..., None], Callable[..., None]]] = {
    table.SEQUENCE_DENSE: (_sequence_dense, _undo_sequence_dense),
    table.LAYER_NORM: (_layer_norm, _undo_layer_norm),
    table.GELU: (_gelu, _undo_gelu),
    table.EMBEDDING: (_embedding, _undo_embedding),
    table.ADD_POSITIONS: (_add_positions, _undo_add_positions),
    table.ATTENTION: (_attention, _undo_attention),
}
"""The forward and the backward function of each kind of operation."""
