"""Winograd's transforms of tiles, sixteen tiles next to each other in the lanes of vectors.

A convolution of n = m + r - 1 numbers with r taps, m results, is a product of polynomials, and those are multiplied
point by point: evaluate both at n points, multiply, interpolate (Winograd 1980; for networks Lavin and Gray,
arXiv 1509.09308). Here n = 6, so 3 taps give m = 4 results and 5 taps m = 2, and in two dimensions 36 products replace
144 or 100. The points 0, +-3/4, +-3/2 and infinity keep the errors small: about twice those of direct sums in float32,
half of those with the usual 0, +-1, +-2 (measured with 32 channels of normal numbers). Opposite points share the even
and the odd half of their sums.

A square of numbers (r, r) is kept as a tile of r * r rows of one vector each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fedlama.kernels.memory import FLOATS, INDEX, Code, TileType, emit
from fedlama.kernels.tiling import PAIRS, POINTS

_A, _B = 0.75, 1.5
_FINITE = (0.0, _A, -_A, _B, -_B)
_SIX, _ALL = TileType(POINTS), TileType(PAIRS)

Numbers = list[list[float]]
Side = Callable[[Code, list[Any], bool], list[Any]]
"""Transforms one side of a square; a flag says whether the last vector is the corner of the square."""


class Square(NamedTuple):
    """Where a square of numbers is in memory, and how much of it exists.

    Attributes:
        start: The index of its first element.
        down: Elements between its rows.
        right: Elements between its columns.
        height: Rows that exist; it may be less or more than the square has.
        width: Columns that exist.
    """

    start: int
    down: int
    right: int
    height: int
    width: int


def _powers(count: int) -> Numbers:
    """Return what evaluates a polynomial of `count` coefficients at every point."""
    return [[point**power for power in range(count)] for point in _FINITE] + [[0.0] * (count - 1) + [1.0]]


def _scaled_powers(count: int) -> Numbers:
    """Return the same with each finite point's row divided by the product of its distances from the other ones."""
    scales = [math.prod(point - other for other in _FINITE if other != point) for point in _FINITE] + [1.0]
    return [[value / scale for value in row] for row, scale in zip(_powers(count), scales, strict=True)]


_DATA: Numbers = [  # the coefficients of the polynomial that vanishes at all finite points but the row's own
    [_A**2 * _B**2, 0.0, -(_A**2) - _B**2, 0.0, 1.0, 0.0],
    [0.0, -_A * _B**2, -(_B**2), _A, 1.0, 0.0],
    [0.0, _A * _B**2, -(_B**2), -_A, 1.0, 0.0],
    [0.0, -_B * _A**2, -(_A**2), _B, 1.0, 0.0],
    [0.0, _B * _A**2, -(_A**2), -_B, 1.0, 0.0],
    [0.0, _A**2 * _B**2, 0.0, -(_A**2) - _B**2, 0.0, 1.0],
]


def _sum(code: Code, factors: Sequence[float], vectors: Sequence[Any], corner: bool = False) -> Any:
    """Add up multiples of vectors, those with the factor 1 first; most products are rounded together with the sum.

    Without a factor 1, one product of the first two is rounded by itself: the one with a negative factor if just one of
    them is negative, else the second. If the last vector is the corner of a square, its product serves a row and a
    column, and is rounded by itself too. Any choice is as good, but it must never change, since results do with it.
    """
    terms = sorted(
        ((factor, vector) for factor, vector in zip(factors, vectors, strict=True) if factor),
        key=lambda term: term[0] != 1.0,
    )
    if not terms:
        return code.numbers(0.0)
    if len(terms) > 1 and terms[0][0] != 1.0 and not terms[0][0] < 0 < terms[1][0]:
        terms[:2] = terms[1], terms[0]
    corner = corner and terms[0][0] != 1.0
    (factor, total), *rest = terms
    if factor != 1.0:
        total = code.builder.fmul(total, code.numbers(factor))
    for factor, vector in rest:
        if corner and vector is vectors[-1]:
            total = code.builder.fadd(total, code.builder.fmul(vector, code.numbers(factor)))
        elif factor == 1.0:
            total = code.builder.fadd(total, vector)
        else:
            total = code.multiply_add_shared(vector, code.numbers(factor), total)
    return total


def _to_points(matrix: Numbers) -> Side:
    """Multiply with a matrix of a row per point: opposite points' rows differ in the signs of odd columns alone."""

    def multiply(code: Code, x: list[Any], corner: bool) -> list[Any]:
        rows = [_sum(code, matrix[0], x)]
        for row in (matrix[1], matrix[3]):
            even, odd = _sum(code, row[::2], x[::2], corner), _sum(code, row[1::2], x[1::2])
            rows += [code.builder.fadd(even, odd), code.builder.fsub(even, odd)]
        return [*rows, _sum(code, matrix[5], x)]

    return multiply


def _from_points(matrix: Numbers) -> Side:
    """Multiply with the transpose of such a matrix."""

    def multiply(code: Code, x: list[Any], _corner: bool) -> list[Any]:
        halves = [  # for even and for odd results
            [x[0], combine(x[1], x[2]), combine(x[3], x[4]), x[5]] for combine in (code.builder.fadd, code.builder.fsub)
        ]
        columns = zip(*(matrix[point] for point in (0, 1, 3, 5)), strict=True)
        return [_sum(code, column, halves[number % 2]) for number, column in enumerate(columns)]

    return multiply


def _both_sides(code: Code, side: Side, tile: Any, count: int) -> Any:
    """Transform the columns of a square tile, then its rows."""
    length = math.isqrt(count)
    values = [code.vector(tile, number) for number in range(count)]
    last = length - 1
    columns = [side(code, values[column::length], column == last) for column in range(length)]
    rows = list(zip(*columns, strict=True))
    done = [side(code, list(row), number == len(rows) - 1) for number, row in enumerate(rows)]
    return code.tile([value for row in done for value in row])


@intrinsic
def data_side(typing: Any, tile: Any) -> Any:
    """Transform six neighbours of the data, in one dimension."""
    side = _to_points(_DATA)

    def generate(code: Code, vectors: Any) -> Any:
        return code.tile(side(code, [code.vector(vectors, number) for number in range(POINTS)], False))

    return emit(generate, _SIX, _SIX)


@intrinsic
def filters(typing: Any, tile: Any) -> Any:
    """Evaluate filters, (taps, taps), at all pairs of points."""
    side = _to_points(_scaled_powers(math.isqrt(tile.rows)))
    return emit(lambda code, vectors: _both_sides(code, side, vectors, tile.rows), _ALL, tile)


@intrinsic
def slopes(typing: Any, tile: Any) -> Any:
    """Transform the results' gradients, (results, results), to all pairs of points."""
    side = _to_points(_powers(math.isqrt(tile.rows)))
    return emit(lambda code, vectors: _both_sides(code, side, vectors, tile.rows), _ALL, tile)


@intrinsic
def pixels(typing: Any, like: Any, tile: Any) -> Any:
    """Interpolate results, a tile of the given one's form, from products at all pairs of points."""
    side = _from_points(_powers(math.isqrt(like.rows)))
    return emit(lambda code, _, vectors: _both_sides(code, side, vectors, PAIRS), like, like, tile)


@intrinsic
def taps(typing: Any, like: Any, tile: Any) -> Any:
    """Gather filters' gradients, a tile of the given one's form, from those at all pairs of points."""
    side = _from_points(_scaled_powers(math.isqrt(like.rows)))
    return emit(lambda code, _, vectors: _both_sides(code, side, vectors, PAIRS), like, like, tile)


@intrinsic
def load_within(typing: Any, like: Any, memory: Any, index: Any, stride: Any, first: Any, last: Any) -> Any:
    """Load a tile whose rows before `first` and from `last` on are 0, where memory is not accessed."""

    def generate(code: Code, _: Any, value: Any, at: Any, stride: Any, first: Any, last: Any) -> Any:
        rows = []
        for number in range(like.rows):
            row = ir.Constant(INDEX, number)
            inside = code.builder.and_(
                code.builder.icmp_signed("<=", first, row), code.builder.icmp_signed("<", row, last)
            )
            rows.append(code.read_some(value, code.row(at, stride, number), code.all_lanes(inside)))
        return code.tile(rows)

    return emit(generate, like, like, FLOATS, *[types.intp] * 4)


@intrinsic
def load_square(typing: Any, like: Any, memory: Any, square: Any) -> Any:
    """Load a square tile of the given one's form, 0 where the square does not exist."""

    def generate(code: Code, _: Any, value: Any, square: Any) -> Any:
        places = [_place_in(code, like.rows, number, square) for number in range(like.rows)]
        return code.tile([code.read_some(value, index, code.all_lanes(exists)) for exists, index in places])

    return emit(generate, like, like, FLOATS, square)


@intrinsic
def store_square(typing: Any, memory: Any, square: Any, tile: Any, count: Any, constant: Any, add: Any) -> Any:
    """Write a square tile plus a constant, `count` lanes of each vector, where the square exists.

    With `add` they are added to what is there.
    """

    def generate(code: Code, value: Any, square: Any, vectors: Any, count: Any, constant: Any, add: Any) -> None:
        counted, more = code.lanes_below(count), code.in_every_lane(constant)
        code.pointer(value)  # before the branches, as both use it

        def write(adds: bool) -> None:
            for number in range(tile.rows):
                exists, index = _place_in(code, tile.rows, number, square)
                mask = code.both(code.all_lanes(exists), counted)
                before = code.read_some(value, index, mask) if adds else code.numbers(0.0)
                sum_ = code.builder.fadd(code.builder.fadd(code.vector(vectors, number), more), before)
                code.write_some(sum_, value, index, mask)

        # A branch, rather than a read whose mask `add` empties: such a read still waits for memory that is not cached.
        with code.builder.if_else(add) as (adding, setting):
            with adding:
                write(True)
            with setting:
                write(False)

    return emit(generate, types.void, FLOATS, square, tile, types.intp, types.float32, types.boolean)


def _place_in(code: Code, count: int, number: int, square: Any) -> tuple[Any, Any]:
    """Return whether a vector of a :class:`Square` exists, and its index."""
    row, column = divmod(number, math.isqrt(count))
    start, down, right, height, width = (code.builder.extract_value(square, field) for field in range(5))
    exists = code.builder.and_(
        code.builder.icmp_signed("<", ir.Constant(INDEX, row), height),
        code.builder.icmp_signed("<", ir.Constant(INDEX, column), width),
    )
    below = code.builder.mul(down, ir.Constant(INDEX, row))
    across = code.builder.mul(right, ir.Constant(INDEX, column))
    return exists, code.builder.add(start, code.builder.add(below, across))
