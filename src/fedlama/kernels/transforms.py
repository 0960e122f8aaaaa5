"""Winograd's transforms of tiles, sixteen tiles side by side in the lanes of vectors.

A convolution of n = m + r - 1 numbers with r taps, m results, is a product of polynomials, and those are multiplied
point by point: evaluate both at n points, multiply, interpolate (Winograd 1980; for networks Lavin and Gray,
arXiv 1509.09308). Here n = 6, so 3 taps give m = 4 results and 5 taps m = 2, and in two dimensions 36 products replace
144 or 100. The points 0, +-3/4, +-3/2 and infinity keep the errors small: about twice those of direct sums in float32,
half of those with the usual 0, +-1, +-2 (measured with 32 channels of normal numbers). Opposite points share the even
and the odd half of their sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fedlama.kernels.table import LANES
from fedlama.kernels.tiling import PAIRS, POINTS
from fedlama.kernels.vectors import (
    FLOATS,
    FUSED,
    VECTOR,
    TileType,
    constants,
    in_every_lane,
    lanes_below,
    numbers,
    read_some,
    tile_of,
    vector_at,
    write_some,
)

_A, _B = 0.75, 1.5
_FINITE = (0.0, _A, -_A, _B, -_B)
_SIX, _ALL = TileType(POINTS), TileType(PAIRS)

Matrix = list[list[float]]
Side = Callable[[Any, list[Any]], list[Any]]


def _powers(count: int) -> Matrix:
    """Return what evaluates a polynomial of so many coefficients at every point."""
    return [[point**power for power in range(count)] for point in _FINITE] + [[0.0] * (count - 1) + [1.0]]


def _scaled_powers(count: int) -> Matrix:
    """Return the same with each finite point's row divided by the product of its distances from the other ones."""
    scales = [math.prod(point - other for other in _FINITE if other != point) for point in _FINITE] + [1.0]
    return [[value / scale for value in row] for row, scale in zip(_powers(count), scales, strict=True)]


_DATA: Matrix = [  # the coefficients of the polynomial that vanishes at all finite points but the row's own
    [_A**2 * _B**2, 0.0, -(_A**2) - _B**2, 0.0, 1.0, 0.0],
    [0.0, -_A * _B**2, -(_B**2), _A, 1.0, 0.0],
    [0.0, _A * _B**2, -(_B**2), -_A, 1.0, 0.0],
    [0.0, -_B * _A**2, -(_A**2), _B, 1.0, 0.0],
    [0.0, _B * _A**2, -(_A**2), -_B, 1.0, 0.0],
    [0.0, _A**2 * _B**2, 0.0, -(_A**2) - _B**2, 0.0, 1.0],
]


def _sum(builder: Any, factors: Sequence[float], vectors: Sequence[Any]) -> Any:
    """Add up multiples of vectors, those with the factor 1 first."""
    terms = sorted(
        ((factor, vector) for factor, vector in zip(factors, vectors, strict=True) if factor),
        key=lambda term: term[0] != 1.0,
    )
    total = None
    for factor, vector in terms:
        product = vector if factor == 1.0 else builder.fmul(vector, numbers(factor), flags=FUSED)
        total = product if total is None else builder.fadd(total, product, flags=FUSED)
    return numbers(0.0) if total is None else total


def _to_points(matrix: Matrix) -> Side:
    """Multiply with a matrix of a row per point: opposite points' rows differ in the signs of odd columns alone."""

    def multiply(builder: Any, x: list[Any]) -> list[Any]:
        rows = [_sum(builder, matrix[0], x)]
        for row in (matrix[1], matrix[3]):
            even, odd = _sum(builder, row[::2], x[::2]), _sum(builder, row[1::2], x[1::2])
            rows += [builder.fadd(even, odd), builder.fsub(even, odd)]
        return [*rows, _sum(builder, matrix[5], x)]

    return multiply


def _from_points(matrix: Matrix) -> Side:
    """Multiply with the transpose of such a matrix."""

    def multiply(builder: Any, x: list[Any]) -> list[Any]:
        halves = [  # for even and for odd results
            [x[0], combine(x[1], x[2]), combine(x[3], x[4]), x[5]] for combine in (builder.fadd, builder.fsub)
        ]
        columns = zip(*(matrix[point] for point in (0, 1, 3, 5)), strict=True)
        return [_sum(builder, column, halves[number % 2]) for number, column in enumerate(columns)]

    return multiply


def _both_sides(builder: Any, side: Side, tile: Any, rows: int) -> list[Any]:
    """Transform the columns of a square tile, then its rows."""
    length = math.isqrt(rows)
    values = [builder.extract_value(tile, number) for number in range(rows)]
    columns = [side(builder, values[column::length]) for column in range(length)]
    done = [side(builder, [column[row] for column in columns]) for row in range(len(columns[0]))]
    return [value for row in done for value in row]


def _given(rows: int, result: TileType, side: Side) -> tuple[Any, Callable[..., Any]]:
    """Put together what an intrinsic returns that transforms a square tile, its last argument, into another one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _both_sides(builder, side, arguments[-1], rows)
        return tile_of(builder, result.rows, lambda number: values[number])

    return result, generate


def _zeros(rows: int) -> tuple[Any, Callable[..., Any]]:
    """Put together what an intrinsic returns that makes a tile of zeros."""
    return TileType(rows)(), lambda context, builder, signature, arguments: tile_of(
        builder, rows, lambda number: numbers(0.0)
    )


@intrinsic
def six(typing: Any) -> Any:
    """Return a tile of zeros, a vector for each point."""
    return _zeros(POINTS)


@intrinsic
def thirty_six(typing: Any) -> Any:
    """Return a tile of zeros, a vector for each pair of points."""
    return _zeros(PAIRS)


@intrinsic
def nine(typing: Any) -> Any:
    """Return a square tile of zeros for filters of three by three."""
    return _zeros(9)


@intrinsic
def twenty_five(typing: Any) -> Any:
    """Return a square tile of zeros for filters of five by five."""
    return _zeros(25)


@intrinsic
def data_side(typing: Any, tile: Any) -> Any:
    """Transform six neighbours of the data, in one dimension."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = _to_points(_DATA)(builder, [builder.extract_value(arguments[0], number) for number in range(POINTS)])
        return tile_of(builder, POINTS, lambda number: values[number])

    return _SIX(_SIX), generate


@intrinsic
def filters(typing: Any, tile: Any) -> Any:
    """Evaluate filters, (taps, taps), at all pairs of points."""
    result, generate = _given(tile.rows, _ALL, _to_points(_scaled_powers(math.isqrt(tile.rows))))
    return result(tile), generate


@intrinsic
def slopes(typing: Any, tile: Any) -> Any:
    """Transform the results' gradients, (results, results), to all pairs of points."""
    result, generate = _given(tile.rows, _ALL, _to_points(_powers(math.isqrt(tile.rows))))
    return result(tile), generate


@intrinsic
def pixels(typing: Any, like: Any, tile: Any) -> Any:
    """Interpolate results, a tile of the given one's form, from products at all pairs of points."""
    result, generate = _given(PAIRS, like, _from_points(_powers(math.isqrt(like.rows))))
    return result(like, tile), generate


@intrinsic
def taps(typing: Any, like: Any, tile: Any) -> Any:
    """Gather filters' gradients, a tile of the given one's form, from those at all pairs of points."""
    result, generate = _given(PAIRS, like, _from_points(_scaled_powers(math.isqrt(like.rows))))
    return result(like, tile), generate


@intrinsic
def fetch_within(typing: Any, like: Any, memory: Any, index: Any, stride: Any, first: Any, last: Any) -> Any:
    """Fetch a tile whose rows before `first` and from `last` on are 0, where memory is not looked at."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def row(number: int) -> Any:
            mask = _all_lanes(builder, _inside(builder, number, *arguments[4:]))
            return read_some(builder, vector_at(builder, arguments[1:4], number), mask)

        return tile_of(builder, like.rows, row)

    return like(like, FLOATS, *[types.intp] * 4), generate


@intrinsic
def fetch_square(
    typing: Any, like: Any, memory: Any, index: Any, down: Any, right: Any, height: Any, width: Any
) -> Any:
    """Fetch a square tile, `down` between its rows and `right` between its columns; 0 beyond `height` and `width`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def vector(number: int) -> Any:
            inside, place = _square_place(builder, like.rows, number, *arguments[1:])
            return read_some(builder, place, _all_lanes(builder, inside))

        return tile_of(builder, like.rows, vector)

    return like(like, FLOATS, *[types.intp] * 5), generate


@intrinsic
def deliver(
    typing: Any, memory: Any, index: Any, down: Any, right: Any, height: Any, width: Any, tile: Any, count: Any,
    constant: Any, add: Any,
) -> Any:  # fmt: skip
    """Write a square tile plus a constant, `count` lanes of each vector, up to `height` and `width`.

    With `add` they are added to what is there.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *where, values, count, constant, add = arguments
        counted, more = lanes_below(builder, count, 0), in_every_lane(builder, constant)
        for number in range(tile.rows):
            inside, place = _square_place(builder, tile.rows, number, *where)
            mask = builder.and_(_all_lanes(builder, inside), counted)
            before = read_some(builder, place, builder.and_(mask, _all_lanes(builder, add)))
            value = builder.fadd(builder.fadd(builder.extract_value(values, number), more), before)
            write_some(builder, value, place, mask)
        return context.get_dummy_value()

    given = FLOATS, *[types.intp] * 5, tile, types.intp, types.float32, types.boolean
    return types.void(*given), generate


def _inside(builder: Any, number: int, first: Any, last: Any) -> Any:
    """Tell whether a place is among those from `first` to before `last`."""
    place = first.type(number)
    return builder.and_(builder.icmp_signed("<=", first, place), builder.icmp_signed("<", place, last))


def _all_lanes(builder: Any, condition: Any) -> Any:
    """Return a mask of all lanes or of none."""
    mask = ir.Constant(ir.VectorType(ir.IntType(1), LANES), ir.Undefined)
    first = builder.insert_element(mask, condition, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, mask, constants([0] * LANES))


def _square_place(
    builder: Any, count: int, number: int, memory: Any, index: Any, down: Any, right: Any, height: Any, width: Any
) -> tuple[Any, Any]:
    """Tell whether a vector of a square tile is asked for, and point to it."""
    row, column = divmod(number, math.isqrt(count))
    inside = builder.and_(
        builder.icmp_signed("<", height.type(row), height), builder.icmp_signed("<", width.type(column), width)
    )
    start = builder.add(index, builder.add(builder.mul(down, down.type(row)), builder.mul(right, right.type(column))))
    return inside, builder.bitcast(builder.gep(memory, [start]), VECTOR.as_pointer())
