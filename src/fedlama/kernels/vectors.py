"""Arithmetic on single vectors of sixteen float32 numbers, lane by lane."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fedlama.kernels.memory import (
    FLOATS,
    INDEX,
    ONE_VECTOR,
    SHORT,
    SHORTS,
    VECTOR,
    Code,
    TileType,
    emit,
)
from fedlama.kernels.table import LANES


@intrinsic
def full(typing: Any, value: Any) -> Any:
    """Return a vector with a number in every lane."""
    return emit(lambda code, number: code.tile([code.in_every_lane(number)]), ONE_VECTOR, types.float32)


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """Return the sum over the lanes."""

    def generate(code: Code, vector: Any) -> Any:
        left = code.vector(vector)
        width = LANES
        while width > 1:  # fold the upper half onto the lower
            width //= 2
            left = code.builder.fadd(left, code.mix(left, left, [(lane + width) % LANES for lane in range(LANES)]))
        return code.builder.extract_element(left, ir.Constant(SHORT, 0))

    return emit(generate, types.float32, ONE_VECTOR)


@intrinsic
def larger(typing: Any, left: Any, right: Any) -> Any:
    """Return the larger of two vectors; not-a-number wins."""

    def generate(code: Code, left: Any, right: Any) -> Any:
        a, b = code.vector(left), code.vector(right)
        keep = code.builder.and_(code.builder.fcmp_unordered(">=", a, b), code.builder.fcmp_ordered("ord", b, b))
        return code.tile([code.builder.select(keep, a, b)])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def where_equal(typing: Any, left: Any, right: Any, value: Any) -> Any:
    """Return the value in the lanes in which left equals right, and 0 elsewhere."""

    def generate(code: Code, left: Any, right: Any, value: Any) -> Any:
        equal = code.builder.fcmp_ordered("==", code.vector(left), code.vector(right))
        return code.tile([code.builder.select(equal, code.vector(value), code.numbers(0.0))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def where_positive(typing: Any, test: Any, value: Any) -> Any:
    """Return the value in the lanes in which the test is above 0, and 0 elsewhere; not-a-number counts as above."""

    def generate(code: Code, test: Any, value: Any) -> Any:
        above = code.builder.fcmp_unordered(">", code.vector(test), code.numbers(0.0))
        return code.tile([code.builder.select(above, code.vector(value), code.numbers(0.0))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def plus(typing: Any, left: Any, right: Any, factor: Any) -> Any:
    """Return left + factor * right, rounded after the multiplication and after the addition."""

    def generate(code: Code, left: Any, right: Any, factor: Any) -> Any:
        scaled = code.builder.fmul(code.vector(right), code.in_every_lane(factor))
        return code.tile([code.builder.fadd(code.vector(left), scaled)])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR, types.float32)


@intrinsic
def add_product(typing: Any, total: Any, left: Any, right: Any) -> Any:
    """Return total + left * right, rounded once where the processor can."""

    def generate(code: Code, total: Any, left: Any, right: Any) -> Any:
        return code.tile([code.multiply_add(code.vector(left), code.vector(right), code.vector(total))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def times(typing: Any, left: Any, right: Any) -> Any:
    """Return the product of two vectors."""

    def generate(code: Code, left: Any, right: Any) -> Any:
        return code.tile([code.builder.fmul(code.vector(left), code.vector(right))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def divide(typing: Any, left: Any, right: Any) -> Any:
    """Return the quotient of two vectors."""

    def generate(code: Code, left: Any, right: Any) -> Any:
        return code.tile([code.builder.fdiv(code.vector(left), code.vector(right))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def square_root(typing: Any, x: Any) -> Any:
    """Return the square root of each lane."""

    def generate(code: Code, x: Any) -> Any:
        return code.tile([code.call("llvm.sqrt.v16f32", VECTOR, code.vector(x))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def exponential(typing: Any, x: Any) -> Any:
    """Return e to the power of each lane, for numbers up to 0; below -87 it is that of -87.

    x = n ln 2 + r with n whole and |r| up to (ln 2) / 2; e to the r is its Taylor polynomial of degree 7, whose
    remainder is below 6e-9, and the power of two is put together from its bits. Not-a-number stays what it is.
    """

    def generate(code: Code, vector: Any) -> Any:
        return code.tile([_exponential(code, code.vector(vector))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR)


def _exponential(code: Code, x: Any) -> Any:
    builder, numbers = code.builder, code.numbers
    x = builder.select(builder.fcmp_ordered("<", x, numbers(-87.0)), numbers(-87.0), x)
    near = builder.fadd(builder.fmul(x, numbers(1.4426950408889634)), numbers(-0.5))
    # LLVM's own conversion that knows not-a-number, fptosi.sat, takes the lanes of a vector one by one.
    whole = builder.fptosi(builder.select(builder.fcmp_ordered("ord", x, x), near, numbers(0.0)), SHORTS)
    n = builder.sitofp(whole, VECTOR)
    # ln 2 in two parts: the first has few bits, so its multiples are exact.
    rest = builder.fadd(x, builder.fmul(n, numbers(-0.693359375)))
    rest = builder.fadd(rest, builder.fmul(n, numbers(2.12194440e-4)))
    power = numbers(1 / 5040)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0):
        power = code.multiply_add(power, rest, numbers(coefficient))
    bits = builder.shl(builder.add(whole, code.constants([127] * LANES)), code.constants([23] * LANES))
    return builder.fmul(power, builder.bitcast(bits, VECTOR))


@intrinsic
def gelu(typing: Any, x: Any) -> Any:
    """Return x times the probability P(x) that a standard normal number is below x, and the derivative: (2, 1, 16).

    With t = 2 / (1 + c |x|) - 1, the probability beyond |x| is exp(-x^2 / 2) times a polynomial of t, which was fitted
    by least squares to relative errors below 6e-9 for |x| up to 13. The derivative is
    P(x) + x exp(-x^2 / 2) / sqrt(2 pi).
    """

    def generate(code: Code, vector: Any) -> Any:
        builder, numbers, x = code.builder, code.numbers, code.vector(vector)
        size = code.call("llvm.fabs.v16f32", VECTOR, x)
        t = builder.fdiv(numbers(2.0), code.multiply_add(size, numbers(_TAIL_SCALE), numbers(1.0)))
        t = builder.fadd(t, numbers(-1.0))
        power = _exponential(code, builder.fmul(builder.fmul(x, x), numbers(-0.5)))
        tail = numbers(_TAIL[0])
        for coefficient in _TAIL[1:]:
            tail = code.multiply_add(tail, t, numbers(coefficient))
        tail = builder.fmul(tail, power)
        below = builder.select(builder.fcmp_ordered("<", x, numbers(0.0)), tail, builder.fsub(numbers(1.0), tail))
        slope = code.multiply_add(x, builder.fmul(power, numbers(1 / math.sqrt(2 * math.pi))), below)
        return code.tile([builder.fmul(x, below), slope])

    return emit(generate, TileType(2), ONE_VECTOR)


_TAIL_SCALE = 0.26
_TAIL = (
    6.622923265986458e-05,
    -6.965565958694242e-05,
    -0.0006700130517719449,
    -0.0003090864911201585,
    0.006214955015831608,
    0.027441958553852758,
    0.0691008001704391,
    0.12513311297583052,
    0.17529156340390986,
    0.09780013855669163,
)
"""The polynomial of :func:`gelu`, the highest power first."""


@intrinsic
def sum_of(typing: Any, left: Any, right: Any) -> Any:
    """Return left + right."""

    def generate(code: Code, left: Any, right: Any) -> Any:
        return code.tile([code.builder.fadd(code.vector(left), code.vector(right))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def difference_of(typing: Any, left: Any, right: Any) -> Any:
    """Return left - right."""

    def generate(code: Code, left: Any, right: Any) -> Any:
        return code.tile([code.builder.fsub(code.vector(left), code.vector(right))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def where_below(typing: Any, ranks: Any, limit: Any, value: Any) -> Any:
    """Return the value in the lanes in which the bits of ranks, as int32, are below the limit, and 0 elsewhere."""

    def generate(code: Code, ranks: Any, limit: Any, value: Any) -> Any:
        bits = code.builder.bitcast(code.vector(ranks), SHORTS)
        below = code.builder.icmp_signed("<", bits, code.in_every_lane(limit, SHORTS))
        return code.tile([code.builder.select(below, code.vector(value), code.numbers(0.0))])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, types.int32, ONE_VECTOR)


@intrinsic
def lanes_from(typing: Any, vector: Any, bound: Any) -> Any:
    """Return a bit for each lane whose magnitude is not below `bound`, or which is not a number."""

    def generate(code: Code, vector: Any, bound: Any) -> Any:
        size = code.call("llvm.fabs.v16f32", VECTOR, code.vector(vector))
        lanes = code.builder.fcmp_unordered(">=", size, code.in_every_lane(bound))
        return code.builder.zext(code.builder.bitcast(lanes, ir.IntType(LANES)), INDEX)

    return emit(generate, types.int64, ONE_VECTOR, types.float32)


@intrinsic
def lanes_within(typing: Any, memory: Any, index: Any, low: Any, high: Any) -> Any:
    """Return a bit for each number of memory[index : index + 16] whose bits, as int32, are from `low` to `high`."""

    def generate(code: Code, value: Any, at: Any, low: Any, high: Any) -> Any:
        bits = code.builder.bitcast(code.read(value, at), SHORTS)
        above = code.builder.icmp_signed(">=", bits, code.in_every_lane(low, SHORTS))
        lanes = code.builder.and_(above, code.builder.icmp_signed("<=", bits, code.in_every_lane(high, SHORTS)))
        return code.builder.zext(code.builder.bitcast(lanes, ir.IntType(LANES)), INDEX)

    return emit(generate, types.int64, FLOATS, types.intp, types.int32, types.int32)


@intrinsic
def first_lane(typing: Any, lanes: Any) -> Any:
    """Return the number of the lowest of sixteen bits that is 1; 0 if there is none."""

    def generate(code: Code, lanes: Any) -> Any:
        zeros = code.call("llvm.cttz.i64", INDEX, lanes, ir.Constant(ir.IntType(1), 0))
        return code.builder.and_(zeros, ir.Constant(INDEX, LANES - 1))

    return emit(generate, types.int64, types.int64)


@intrinsic
def larger_magnitude(typing: Any, magnitudes: Any, vector: Any) -> Any:
    """Return the larger of magnitudes and those of a vector; not-a-number is larger than infinity."""

    def generate(code: Code, magnitudes: Any, vector: Any) -> Any:
        size = code.call("llvm.fabs.v16f32", VECTOR, code.vector(vector))
        return code.tile([_larger_bits(code, code.vector(magnitudes), size)])

    return emit(generate, ONE_VECTOR, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def largest_lane(typing: Any, magnitudes: Any) -> Any:
    """Return the largest lane of magnitudes."""

    def generate(code: Code, magnitudes: Any) -> Any:
        left = code.vector(magnitudes)
        width = LANES
        while width > 1:  # fold the upper half onto the lower
            width //= 2
            left = _larger_bits(code, left, code.mix(left, left, [(lane + width) % LANES for lane in range(LANES)]))
        return code.builder.extract_element(left, ir.Constant(SHORT, 0))

    return emit(generate, types.float32, ONE_VECTOR)


def _larger_bits(code: Code, left: Any, right: Any) -> Any:
    """Return the larger magnitudes, compared by their bits: the order of the numbers, and then what is not a number."""
    a, b = (code.builder.bitcast(vector, SHORTS) for vector in (left, right))
    return code.builder.bitcast(code.builder.select(code.builder.icmp_signed(">", a, b), a, b), VECTOR)
