"""The door for codecs that round: what arrives of one client's numbers.

Arrays come in, are checked, and go to the compiled loops of :mod:`~fedlama.kernels.rounding`,
:mod:`~fedlama.kernels.chances`, :mod:`~fedlama.kernels.signs`, :mod:`~fedlama.kernels.narrowing`,
:mod:`~fedlama.kernels.scales` and :mod:`~fedlama.kernels.products`. Nothing here starts a thread: a caller hands
clients, and columns where they are independent, to threads of its own. Python's lock is released in the meantime.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedlama.kernels.arrays import check_array, check_change

Floats = NDArray[np.float32]


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

    columns = check_change(values, reference, residual)
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

    columns = check_change(values, reference, values[:0])
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

    columns = check_change(values, reference, residual)
    check_array("received", received, np.float32, (columns,))
    check_array("left", left, np.float32, (columns if len(left) else 0,))
    if not columns:
        raise ValueError("values is empty, expected a column or more")
    send_signs(received, left, values, reference, residual, past_caches)


def round_rows(out: Floats, values: Floats, rows: int, *, past_caches: bool = False) -> None:
    """Round weights to 8 bits with one scale for each row, and widen them again.

    Args:
        out: float32, (rows * columns,); overwritten.
        values: float32, (rows * columns,).
        rows: How many rows.
        past_caches: As for :func:`round_differences`.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes differ, an array is not contiguous, or the numbers do not fill whole rows.
    """
    from fedlama.kernels.scales import round_by_rows  # needs Numba

    check_array("values", values, np.float32, (None,))
    check_array("out", out, np.float32, values.shape)
    if rows < 1 or len(values) % rows:
        raise ValueError(f"rows is {rows}, expected a divisor of the {len(values)} numbers of values")
    round_by_rows(out, values, rows, past_caches)


def take_product(
    change: Floats, product: Floats, values: Floats, reference: Floats, residual: Floats, basis: Floats
) -> None:
    """Compute the difference of one client's values from a reference, and its product with a thin matrix.

    Args:
        change: The difference, float32, (height * width,); overwritten.
        product: Transposed, float32, (rank, height); overwritten.
        values: x, float32, (height * width,).
        reference: r, float32, (height * width,).
        residual: e, float32, (height * width,), which is added to the difference; empty for zero.
        basis: The thin matrix, transposed, float32, (rank, width).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    from fedlama.kernels.products import take_rows  # needs Numba

    columns = check_change(values, reference, residual)
    check_array("change", change, np.float32, (columns,))
    _check_sides(columns, ("product", product), ("basis", basis))
    take_rows(change, product, values, reference, residual, basis)


def multiply_transposed(out: Floats, matrix: Floats, left: Floats) -> None:
    """Compute the product of a transposed matrix and a thin one.

    Args:
        out: Transposed, float32, (rank, width); overwritten.
        matrix: float32, (height * width,).
        left: The thin matrix, transposed, float32, (rank, height).

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    from fedlama.kernels.products import sum_rows  # needs Numba

    check_array("matrix", matrix, np.float32, (None,))
    _check_sides(len(matrix), ("left", left), ("out", out))
    sum_rows(out, matrix, left)


def _check_sides(columns: int, *thin: tuple[str, Floats]) -> None:
    """Check two thin matrices, (rank, height) and (rank, width), of a matrix of height * width numbers."""
    (first, left), (second, right) = thin
    check_array(first, left, np.float32, (None, None))
    check_array(second, right, np.float32, (len(left), None))
    if not len(left):
        raise ValueError(f"{first} has rank 0, expected 1 or more")
    if left.shape[1] * right.shape[1] != columns:
        sides = f"{left.shape[1]} x {right.shape[1]}"
        raise ValueError(f"{first} and {second} are of a matrix of {sides} numbers, expected {columns} in all")


def put_product(
    received: Floats,
    left: Floats,
    reference: Floats,
    factors: tuple[NDArray[np.float32], NDArray[np.float32]],
    *,
    past_caches: bool = False,
) -> None:
    """Send the product of two factors for a difference, of which nothing was sent yet.

    Args:
        received: The reference plus the product, float32, (height * width,); overwritten.
        left: The difference, float32, (height * width,); the product is subtracted.
        reference: float32, (height * width,).
        factors: Both transposed, float32: (rank, height) and (rank, width).
        past_caches: As for :func:`round_differences`.

    Raises:
        TypeError: An array has another dtype.
        ValueError: The shapes do not fit together, or an array is not contiguous.
    """
    from fedlama.kernels.products import send_product  # needs Numba

    first, second = factors
    check_array("reference", reference, np.float32, (None,))
    for name, array in (("received", received), ("left", left)):
        check_array(name, array, np.float32, reference.shape)
    _check_sides(len(reference), ("factors[0]", first), ("factors[1]", second))
    send_product(received, left, reference, first, second, past_caches)
