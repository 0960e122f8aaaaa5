"""One client's causal self-attention: queries, keys and values (blocks, 3 * width, 16), a block being a position.

A vector holds a feature of sixteen samples, so scores and mixtures are sums of products lane by lane, without sums over
lanes. One head of sixteen samples is treated at a time: its features are copied next to each other, and every product
of matrices is made by one function, which keeps six sums in registers, as many as 16 registers of 32 bytes allow. Only
weights of positions that are seen are computed. They are kept for the backward pass, (heads, positions, span, 16), with
two zeros after the last one of a row, because a tile of three positions goes as far as its last one sees.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import add_products, load, offset, rows_of, runtime, store
from fedlama.kernels.vectors import add_product, divide, exponential, full, larger, plus, times


class Heads(NamedTuple):
    """Sizes of an attention.

    Attributes:
        positions: Of a sequence.
        width: Features of a position.
        heads: How many.
        features: Of a head; even.
        stride: Elements from one position of a head to the next, where its features are next to each other. An odd
            number of vectors, so that a feature of all positions is spread over the sets of the cache.
        span: Vectors in a row of weights; see :func:`fedlama.kernels.table.attention_span`.
    """

    positions: int
    width: int
    heads: int
    features: int
    stride: int
    span: int


class Strided(NamedTuple):
    """A matrix of vectors: element [i, k] is memory[i * down + k * along : ... + 16].

    Attributes:
        memory: Where its elements are.
        down: Elements from a row to the next.
        along: Elements from a column to the next.
    """

    memory: Any
    down: int
    along: int


@kernel
def attend(zeros: Any, out: Any, weights: Any, x: Any, room: Any, h: Any) -> None:
    """Mix the values that each position sees, by the softmax of its scores, for sixteen samples.

    Args:
        zeros: Tile, (positions at a time, 1, 16).
        out: (positions, width, 16).
        weights: Gets the softmax, (heads, positions, span, 16).
        x: (positions, 3 * width, 16): queries, keys, values.
        room: Scratch of (3, positions + 1, stride) elements.
        h: The :class:`Heads`.
    """
    part = (h.positions + 1) * h.stride
    query, key, value = room, offset(room, part), offset(room, 2 * part)
    for head in range(h.heads):
        start = head * h.features
        shares = offset(weights, head * h.positions * h.span * LANES)
        _pack(query, x, h, 3 * h.width, start, 1.0 / math.sqrt(h.features))
        _pack(key, x, h, 3 * h.width, h.width + start, 1.0)
        _pack(value, x, h, 3 * h.width, 2 * h.width + start, 1.0)
        for begin in range(0, h.positions, rows_of(zeros)):
            t = min(begin, h.positions - rows_of(zeros))
            _compare(zeros, shares, query, key, h, t)
            for r in range(rows_of(zeros)):
                _softmax(offset(shares, (t + r) * h.span * LANES), t + r + 1)
            mixed = offset(out, (t * h.width + start) * LANES)
            _mix(zeros, mixed, h.width * LANES, shares, value, h, t)


@kernel
def undo_attend(zeros: Any, below: Any, gradient: Any, weights: Any, x: Any, room: Any, h: Any) -> None:
    """Make the gradients of queries, keys and values.

    Args:
        zeros: As for :func:`attend`.
        below: Gets the gradient of x, (positions, 3 * width, 16).
        gradient: (positions, width, 16).
        weights: As :func:`attend` wrote them.
        x: (positions, 3 * width, 16).
        room: Scratch of (4, positions + 1, stride) and (positions, span, 16) elements.
        h: The :class:`Heads`.
    """
    part, wide = (h.positions + 1) * h.stride, 3 * h.width
    query, key, value, above = room, offset(room, part), offset(room, 2 * part), offset(room, 3 * part)
    slopes = offset(room, 4 * part)  # the gradient of the scores, (positions, span, 16)
    for head in range(h.heads):
        start = head * h.features
        shares = offset(weights, head * h.positions * h.span * LANES)
        _pack(query, x, h, wide, start, 1.0 / math.sqrt(h.features))
        _pack(key, x, h, wide, h.width + start, 1.0 / math.sqrt(h.features))
        _pack(value, x, h, wide, 2 * h.width + start, 1.0)
        _pack(above, gradient, h, h.width, start, 1.0)
        for begin in range(0, h.positions, rows_of(zeros)):
            t = min(begin, h.positions - rows_of(zeros))
            _compare(zeros, slopes, above, value, h, t)
            for r in range(rows_of(zeros)):
                row = (t + r) * h.span * LANES
                _undo_softmax(offset(slopes, row), offset(shares, row), t + r + 1)
            _mix(zeros, offset(below, (t * wide + start) * LANES), wide * LANES, slopes, key, h, t)
        for begin in range(0, h.positions, rows_of(zeros)):
            t = min(begin, h.positions - rows_of(zeros))
            goal = offset(below, (t * wide + start) * LANES)
            _gather(zeros, offset(goal, h.width * LANES), slopes, query, h, t)
            _gather(zeros, offset(goal, 2 * h.width * LANES), shares, above, h, t)


@kernel
def _pack(out: Any, x: Any, h: Any, wide: int, start: int, scale: float) -> None:
    """Bring a head's features next to each other, and scale them."""
    factor = full(np.float32(scale))
    for t in range(h.positions):
        for feature in range(h.features):  # out (positions, features, 16) <- x (positions, wide, 16)
            vector = load(x, (t * wide + start + feature) * LANES)
            store(out, t * h.stride + feature * LANES, LANES, times(vector, factor))


@kernel
def _products(zeros: Any, left: Any, right: Any, begin: int, end: int) -> tuple[Any, Any]:
    """Return the sums over k of left[0, k] right[r, k] and of left[1, k] right[r, k], a tile (rows, 1, 16) each.

    Args:
        zeros: Tile, (rows, 1, 16).
        left: :class:`Strided`, (2, columns).
        right: :class:`Strided`, (rows, columns).
        begin: The first k.
        end: The k after the last one.
    """
    first, second = zeros, zeros
    for k in range(begin, end):  # first, second (rows, 16) += right (rows, 16) * left (16) each
        at = k * right.along
        first = add_products(first, right.memory, at, right.down, load(left.memory, k * left.along))
        second = add_products(second, right.memory, at, right.down, load(left.memory, left.down + k * left.along))
    return first, second


@kernel
def _compare(zeros: Any, out: Any, left: Any, right: Any, h: Any, t: int) -> None:
    """out[t + r, s] = sum over features of left[t + r] right[s], for all s up to the tile's last position.

    Args:
        zeros: Tile, (rows, 1, 16).
        out: (positions, span, 16); what is written after a row's last position does not matter.
        left: (positions, stride).
        right: (positions + 1, stride).
        h: The :class:`Heads`.
        t: The tile's first position.
    """
    row, across = Strided(offset(left, t * h.stride), h.stride, LANES), h.span * LANES
    for s in range(0, t + rows_of(zeros), 2):
        first, second = _products(
            zeros, Strided(offset(right, s * h.stride), h.stride, LANES), row, runtime(0), h.features
        )
        store(out, t * across + s * LANES, across, first)
        store(out, t * across + (s + 1) * LANES, across, second)


@kernel
def _mix(zeros: Any, out: Any, across: int, shares: Any, x: Any, h: Any, t: int) -> None:
    """out[r, f] = sum over s of shares[t + r, s] x[s, f].

    Args:
        zeros: Tile, (rows, 1, 16).
        out: Where the head's features at the tile's first position begin.
        across: Elements from one position there to the next.
        shares: (positions, span, 16), 0 after a row's last position.
        x: (positions, stride).
        h: The :class:`Heads`.
        t: The tile's first position.
    """
    rows = Strided(offset(shares, t * h.span * LANES), h.span * LANES, LANES)
    for feature in range(0, h.features, 2):
        columns = Strided(offset(x, feature * LANES), LANES, h.stride)
        first, second = _products(zeros, columns, rows, runtime(0), t + rows_of(zeros))
        store(out, feature * LANES, across, first)
        store(out, (feature + 1) * LANES, across, second)


@kernel
def _gather(zeros: Any, out: Any, shares: Any, x: Any, h: Any, s: int) -> None:
    """out[r, f] = sum over t from s on of shares[t, s + r] x[t, f].

    Args:
        zeros: Tile, (rows, 1, 16).
        out: Where the head's features at the tile's first position begin, (positions, 3 * width, 16).
        shares: (positions, span, 16), 0 after a row's last position.
        x: (positions, stride).
        h: The :class:`Heads`.
        s: The tile's first position.
    """
    rows, across = Strided(offset(shares, s * LANES), LANES, h.span * LANES), 3 * h.width * LANES
    for feature in range(0, h.features, 2):
        columns = Strided(offset(x, feature * LANES), LANES, h.stride)
        first, second = _products(zeros, columns, rows, s, h.positions)
        store(out, feature * LANES, across, first)
        store(out, (feature + 1) * LANES, across, second)


@kernel
def _softmax(scores: Any, count: int) -> None:
    """Replace the first `count` scores, (count, 16), by their softmax, and write two zeros after them."""
    largest, sum_ = load(scores, 0), full(np.float32(0.0))
    for s in range(1, count):  # largest (16 samples) <- scores (count, 16 samples)
        largest = larger(largest, load(scores, s * LANES))
    for s in range(count):  # scores (count, 16 samples) <- exponentials; sum (16 samples) is their sum
        power = exponential(plus(load(scores, s * LANES), largest, np.float32(-1.0)))
        sum_ = plus(sum_, power, np.float32(1.0))
        store(scores, s * LANES, LANES, power)
    share = divide(full(np.float32(1.0)), sum_)
    for s in range(count):
        store(scores, s * LANES, LANES, times(load(scores, s * LANES), share))
    store(scores, count * LANES, LANES, full(np.float32(0.0)))
    store(scores, (count + 1) * LANES, LANES, full(np.float32(0.0)))


@kernel
def _undo_softmax(slopes: Any, shares: Any, count: int) -> None:
    """Replace the gradients g of a row's weights w by those of its scores, w (g - sum(w g)), and write two zeros."""
    sum_ = full(np.float32(0.0))
    for s in range(count):  # sum (16 samples) += slopes, shares (count, 16 samples)
        sum_ = add_product(sum_, load(slopes, s * LANES), load(shares, s * LANES))
    for s in range(count):
        apart = plus(load(slopes, s * LANES), sum_, np.float32(-1.0))
        store(slopes, s * LANES, LANES, times(apart, load(shares, s * LANES)))
    store(slopes, count * LANES, LANES, full(np.float32(0.0)))
    store(slopes, (count + 1) * LANES, LANES, full(np.float32(0.0)))
