"""The door for codecs: what arrives of one client's numbers, and which of them are sent.

Arrays come in, are checked, and go to the compiled loops of :mod:`~fedlama.kernels.rounding`,
:mod:`~fedlama.kernels.chances`, :mod:`~fedlama.kernels.signs`, :mod:`~fedlama.kernels.narrowing` and
:mod:`~fedlama.kernels.selection`. Nothing here starts a thread: a caller hands clients, and columns where they are
independent, to threads of its own. Python's lock is released in the meantime.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels.arrays import check_array

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


class Rounded(NamedTuple):
    """Where rounded differences of one client are written.

    Attributes:
        received: float32, (columns,): what arrives.
        left: float32, (columns,): what rounding left out; empty where it is not wanted.
        steps: float32, (ceil(columns / 512),): the step of each block.
        codes: uint8, (columns,): the codes; empty where they are not wanted.
    """

    received: Floats
    left: Floats
    steps: Floats
    codes: NDArray[np.uint8]


def round_differences(
    out: Rounded, values: Floats, reference: Floats, residual: Floats, bits: int, *, past_caches: bool = False
) -> None:
    """Round the difference of one client's values from a reference to a few bits, in blocks of 512.

    Args:
        out: Where the results go; overwritten. It may be columns of larger arrays that begin at a whole block.
        values: x, float32, (columns,).
        reference: r, float32, (columns,).
        residual: e, float32, (columns,), which is added to the difference; empty for zero.
        bits: 1, 2, 4 or 8.
        past_caches: Whether `out.received` and `out.left` are written past the caches, as is right for large arrays.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, or there is no rule for these bits.
    """
    from fedlama.kernels.blocks import BLOCK  # needs Numba
    from fedlama.kernels.rounding import round_row

    columns = _check_change(values, reference, residual)
    check_array("out.received", out.received, np.float32, (columns,))
    check_array("out.left", out.left, np.float32, (columns if len(out.left) else 0,))
    check_array("out.steps", out.steps, np.float32, (-(-columns // BLOCK),))
    check_array("out.codes", out.codes, np.uint8, (columns if len(out.codes) else 0,))
    if bits not in (1, 2, 4, 8):
        raise ValueError(f"bits is {bits}, expected 1, 2, 4 or 8")
    round_row(out, values, reference, residual, bits, past_caches)


def round_floats(out: Floats, values: Floats, *, to_half: bool, past_caches: bool = False) -> None:
    """Round numbers to float16 or bfloat16 and widen them again.

    Args:
        out: float32, (columns,); overwritten.
        values: float32, (columns,).
        to_half: Whether to float16; to bfloat16 otherwise.
        past_caches: As for :func:`round_differences`.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes differ, or an array is not contiguous.
    """
    from fedlama.kernels.narrowing import narrow_row  # needs Numba

    check_array("values", values, np.float32, (None,))
    check_array("out", out, np.float32, values.shape)
    narrow_row(out, values, to_half, past_caches)


class Chance(NamedTuple):
    """How numbers are rounded up or down at random.

    Attributes:
        bits: 4 or 8.
        by_norm: Whether the highest code stands for a block's norm instead of its largest magnitude.
        key: What a client's random numbers belong to; see :func:`fedlama.core.randomness.keyed_halves`.
        first: The number of the first of the given columns in the client's row, a multiple of 512.
    """

    bits: int
    by_norm: bool
    key: int
    first: int = 0


def round_stochastically(
    received: Floats, values: Floats, reference: Floats, chance: Chance, *, past_caches: bool = False
) -> None:
    """Round the difference of one client's values from a reference up or down at random, in blocks of 512.

    Args:
        received: What arrives, float32, (columns,); overwritten.
        values: x, float32, (columns,).
        reference: r, float32, (columns,).
        chance: The rule and the address of the random numbers.
        past_caches: As for :func:`round_differences`.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, there is no rule for these bits, or
            the columns do not begin at a whole block.
    """
    from fedlama.kernels.blocks import BLOCK  # needs Numba
    from fedlama.kernels.chances import round_at_random

    columns = _check_change(values, reference, values[:0])
    check_array("received", received, np.float32, (columns,))
    if chance.bits not in (4, 8):
        raise ValueError(f"bits is {chance.bits}, expected 4 or 8")
    if chance.first < 0 or chance.first % BLOCK:
        raise ValueError(f"first is {chance.first}, expected a multiple of {BLOCK}")
    key = np.uint64(chance.key)
    round_at_random(received, values, reference, chance.first, key, chance.bits, chance.by_norm, past_caches)


def round_to_signs(
    received: Floats, left: Floats, values: Floats, reference: Floats, residual: Floats, *, past_caches: bool = False
) -> None:
    """Round the difference of one client's values from a reference to plus or minus its mean magnitude.

    Args:
        received: What arrives, float32, (columns,); overwritten.
        left: What rounding left out, float32, (columns,), overwritten; empty where it is not wanted.
        values: x, float32, (columns,), all of a client's tensor.
        reference: r, float32, (columns,).
        residual: e, float32, (columns,), which is added to the difference; empty for zero.
        past_caches: As for :func:`round_differences`.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, an array is not contiguous, or there are no columns.
    """
    from fedlama.kernels.signs import send_signs  # needs Numba

    columns = _check_change(values, reference, residual)
    check_array("received", received, np.float32, (columns,))
    check_array("left", left, np.float32, (columns if len(left) else 0,))
    if not columns:
        raise ValueError("values is empty, expected a column or more")
    send_signs(received, left, values, reference, residual, past_caches)


def keep_differences(
    received: Floats, left: Floats, values: Floats, reference: Floats, residual: Floats, *, past_caches: bool = False
) -> None:
    """Compute the difference of one client's values from a reference as if none of it was sent.

    Args:
        received: The reference, float32, (columns,); overwritten.
        left: The difference, float32, (columns,); overwritten.
        values: x, float32, (columns,).
        reference: r, float32, (columns,).
        residual: e, float32, (columns,), which is added to the difference; empty for zero.
        past_caches: Whether `received` is written past the caches.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    from fedlama.kernels.selection import keep_changes  # needs Numba

    columns = _check_change(values, reference, residual)
    check_array("received", received, np.float32, (columns,))
    check_array("left", left, np.float32, (columns,))
    keep_changes(received, left, values, reference, residual, past_caches)


def positions_of_largest(values: Floats, count: int) -> Integers:
    """Return the positions of the largest magnitudes, int64, (count,), ascending; of equal ones the first.

    What is no number counts as infinite, and infinity as the largest finite number.

    Args:
        values: float32, (columns,).
        count: How many.

    Raises:
        TypeError: `values` has another dtype.
        ValueError: It is not contiguous, or has fewer numbers.
    """
    from fedlama.kernels.selection import largest_positions  # needs Numba

    check_array("values", values, np.float32, (None,))
    if not 1 <= count <= len(values):
        raise ValueError(f"count is {count}, expected 1 to {len(values)}")
    positions: Integers = largest_positions(values, count)
    return positions


def positions_of_least_hashes(elements: int, count: int, key: int) -> Integers:
    """Return the positions whose hashes are the smallest ones, int64, (count,), ascending.

    No two hashes of a key are equal. A bound that most hashes exceed leaves few to choose from.

    Args:
        elements: How many positions there are.
        count: How many are wanted.
        key: What the hashes belong to; four of the numbers of :func:`fedlama.core.randomness.keyed_halves` make one.

    Raises:
        ValueError: There are fewer positions.
    """
    from fedlama.kernels.selection import small_hashes  # needs Numba

    if not 1 <= count <= elements:
        raise ValueError(f"count is {count}, expected 1 to {elements}")
    expected = float(count)
    while True:  # the first bound is too low once in a billion times
        expected = min(expected + 6.0 * expected**0.5 + 6.0, float(elements))
        limit = min(int(expected / elements * 2.0**64), 2**64 - 1)
        capacity = min(int(expected + 6.0 * expected**0.5 + 6.0), elements)
        columns, hashes = np.empty(capacity, np.int64), np.empty(capacity, np.uint64)
        taken = small_hashes(columns, hashes, elements, np.uint64(key), np.uint64(limit))
        if count <= taken <= capacity:
            columns, hashes = columns[:taken], hashes[:taken]
            chosen: Integers = columns[hashes <= np.partition(hashes, count - 1)[count - 1]]
            return chosen


def _check_change(values: Floats, reference: Floats, residual: Floats) -> int:
    """Check the arrays of a difference; return how many columns they have."""
    check_array("values", values, np.float32, (None,))
    columns = len(values)
    check_array("reference", reference, np.float32, (columns,))
    check_array("residual", residual, np.float32, (columns if len(residual) else 0,))
    return columns
