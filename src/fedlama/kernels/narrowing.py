"""Numbers rounded to 16 bits and widened again, in one pass over the memory.

PyTorch takes two, and memory for the narrow numbers between them. The rounding is that of IEEE 754, to even, by whole
numbers, so that it needs no instruction that some processors lack.
"""

from __future__ import annotations

from typing import Any

from numba.extending import intrinsic

from fedlama.kernels.kernel import kernel
from fedlama.kernels.memory import ONE_VECTOR, SHORTS, VECTOR, Code, emit
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import address_of, floats, load, load_some, store, store_some, stream

_SIGN, _INFINITY = -(1 << 31), 0x7F800000
_LEAST_NORMAL, _OVERFLOW = 0x38800000, 0x477FF000
"""Bits of 2^-14, from which on float16 has all its digits, and of 65,520, from which on it is infinite."""


@kernel
def narrow_row(out: Any, values: Any, to_half: bool, past_caches: bool) -> None:
    """Round numbers to float16 or bfloat16 and back.

    Args:
        out: float32 (columns,); overwritten.
        values: float32 (columns,).
        to_half: Whether to float16; to bfloat16 otherwise.
        past_caches: Whether results are written past the caches, as large arrays should be.
    """
    source, goal = floats(values), floats(out)
    whole = len(values) - len(values) % LANES
    streamed = past_caches and address_of(goal) % (4 * LANES) == 0
    for column in range(0, whole, LANES):  # out (16) <- values (16)
        vector = load(source, column)
        rounded = as_half(vector) if to_half else as_brain(vector)
        if streamed:
            stream(goal, column, rounded)
        else:
            store(goal, column, 0, rounded)
    if whole < len(values):
        rest = len(values) - whole
        vector = load_some(source, whole, rest)
        store_some(goal, whole, 0, as_half(vector) if to_half else as_brain(vector), rest)


@intrinsic
def as_half(typing: Any, vector: Any) -> Any:
    """Return numbers rounded to float16: 11 significant bits, or multiples of 2^-24; infinite from 65,520 on."""

    def generate(code: Code, vector: Any) -> Any:
        builder = code.builder
        bits, sign, size = _parts(code, vector)
        normal = _rounded(code, size, 13)
        normal = builder.select(builder.icmp_unsigned(">=", size, _all(code, _OVERFLOW)), _all(code, _INFINITY), normal)
        # Adding and subtracting 1/2 leaves multiples of its last digit, 2^-24.
        raised = builder.fadd(builder.bitcast(size, VECTOR), code.numbers(0.5))
        small = builder.bitcast(builder.fadd(raised, code.numbers(-0.5)), SHORTS)
        rounded = builder.select(builder.icmp_unsigned("<", size, _all(code, _LEAST_NORMAL)), small, normal)
        return _put_together(code, bits, sign, size, rounded)

    return emit(generate, ONE_VECTOR, ONE_VECTOR)


@intrinsic
def as_brain(typing: Any, vector: Any) -> Any:
    """Return numbers rounded to bfloat16: 8 significant bits."""

    def generate(code: Code, vector: Any) -> Any:
        bits, sign, size = _parts(code, vector)
        return _put_together(code, bits, sign, size, _rounded(code, size, 16))

    return emit(generate, ONE_VECTOR, ONE_VECTOR)


def _all(code: Code, number: int) -> Any:
    """Return a vector with a whole number in every lane."""
    return code.constants([number] * LANES)


def _parts(code: Code, vector: Any) -> tuple[Any, Any, Any]:
    """Return the bits of a vector, of its signs and of its magnitudes."""
    bits = code.builder.bitcast(code.vector(vector), SHORTS)
    sign = code.builder.and_(bits, _all(code, _SIGN))
    return bits, sign, code.builder.xor(bits, sign)


def _rounded(code: Code, size: Any, dropped: int) -> Any:
    """Return magnitudes without their last bits, rounded to even."""
    builder = code.builder
    last = builder.and_(builder.lshr(size, _all(code, dropped)), _all(code, 1))
    raised = builder.add(size, builder.add(last, _all(code, (1 << (dropped - 1)) - 1)))
    return builder.and_(raised, _all(code, -(1 << dropped)))


def _put_together(code: Code, bits: Any, sign: Any, size: Any, rounded: Any) -> Any:
    """Return signs and rounded magnitudes; what is no number stays what it is."""
    builder = code.builder
    usual = builder.or_(rounded, sign)
    no_number = builder.icmp_unsigned(">", size, _all(code, _INFINITY))
    return code.tile([builder.bitcast(builder.select(no_number, bits, usual), VECTOR)])
