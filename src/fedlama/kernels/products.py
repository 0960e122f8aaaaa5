"""Differences of low rank: their products with thin matrices, what arrives of a product of two, and what is left.

The rule and the order of all sums are those of :mod:`fedlama.choices.codecs.power_sgd` and
:mod:`fedlama.choices.codecs.fixed_order`, and so are the bits: no product is contracted with a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, CHUNK, fetch_ahead, take_change, write
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import floats, offset

SUMS = 64
"""Sums over columns that are added up side by side."""
GROUPS = 32
"""Groups of rows that are added up on their own."""


@kernel
def take_rows(change: Any, product: Any, values: Any, reference: Any, residual: Any, basis: Any) -> None:
    """Set the change to v = x - r + e, a matrix, and the product to that of v and a thin matrix.

    Args:
        change: v, float32 (height * width,); overwritten.
        product: float32 (rank, height), transposed; overwritten.
        values: x, float32 (height * width,).
        reference: r, float32 (height * width,).
        residual: e, float32 (height * width,), or empty for zero.
        basis: float32 (rank, width), transposed.
    """
    (rank, width), height = basis.shape, product.shape[1]
    block, lanes = np.empty(BLOCK, np.float32), np.empty(rank * SUMS, np.float32)
    for row in range(height):
        for lane in range(rank * SUMS):  # lanes (rank, 64)
            lanes[lane] = np.float32(0.0)
        for first in range(0, width, BLOCK):
            start, count = row * width + first, min(BLOCK, width - first)
            take_change(block, values, reference, residual, start, count)
            fetch_ahead(values, residual, start + BLOCK)
            write(offset(floats(change), start), floats(block), count, False)  # it is read again soon
            for k in range(rank):
                sums, others = offset(floats(lanes), k * SUMS), offset(floats(basis), k * width + first)
                for column in range(0, count, SUMS):
                    _add_products(
                        sums, offset(floats(block), column), offset(others, column), min(SUMS, count - column)
                    )
        for k in range(rank):
            product[k, row] = _folded(offset(floats(lanes), k * SUMS))


@kernel
def _add_products(sums: Any, left: Any, right: Any, count: int) -> None:
    """Add the products of up to 64 pairs of numbers to their sums."""
    if count == SUMS:
        for lane in range(SUMS):  # sums (64) <- left (64), right (64)
            sums[lane] = sums[lane] + left[lane] * right[lane]
    else:
        for lane in range(count):
            sums[lane] = sums[lane] + left[lane] * right[lane]


@kernel
def _folded(sums: Any) -> Any:
    """Return the total of 64 sums, halves added to halves; they are overwritten."""
    half = SUMS // 2
    while half > 0:
        for lane in range(half):  # sums (half) <- sums (2 * half)
            sums[lane] = sums[lane] + sums[lane + half]
        half //= 2
    return sums[0]


@kernel
def sum_rows(out: Any, matrix: Any, left: Any) -> None:
    """Compute the product of a transposed matrix and a thin one.

    Args:
        out: float32 (rank, width), transposed; overwritten.
        matrix: float32 (height * width,).
        left: float32 (rank, height), transposed.
    """
    (rank, width), height = out.shape, left.shape[1]
    size, group = -(-height // GROUPS), np.empty(rank * width, np.float32)
    sums, totals = floats(group), floats(out)
    for column in range(rank * width):  # out (rank, width)
        totals[column] = np.float32(0.0)
    for first in range(0, height, size):
        for column in range(rank * width):  # group (rank, width)
            sums[column] = np.float32(0.0)
        end, row = min(first + size, height), first
        while row < end:
            rows = 4 if row + 4 <= end else 1  # four rows at a time, so that sums are read and written less often
            for start in range(0, width, BLOCK):
                count, source = min(BLOCK, width - start), offset(floats(matrix), row * width + start)
                for k in range(rank):
                    _add_rows(offset(sums, k * width + start), source, width, left[k, row : row + rows], count)
            row += rows
        for column in range(rank * width):  # out (rank, width) <- group (rank, width)
            totals[column] = totals[column] + sums[column]


@kernel
def _add_rows(sums: Any, source: Any, width: int, factors: Any, count: int) -> None:
    """Add one row or four to sums, one after another, each times its factor.

    Args:
        sums: float32 (count,).
        source: The first row, the others `width` numbers apart.
        width: Columns of the matrix.
        factors: float32 (1,) or (4,).
        count: Columns that are added.
    """
    if len(factors) == 4:
        a, b, c, d = factors[0], factors[1], factors[2], factors[3]
        second, third, fourth = offset(source, width), offset(source, 2 * width), offset(source, 3 * width)
        for column in range(count):  # sums (512) <- source (4, 512)
            total = sums[column] + source[column] * a
            total = total + second[column] * b
            total = total + third[column] * c
            sums[column] = total + fourth[column] * d
    else:
        for column in range(count):  # sums (512) <- source (512)
            sums[column] = sums[column] + source[column] * factors[0]


@kernel
def send_product(
    received: Any, left: Any, reference: Any, columns_left: Any, columns_right: Any, past_caches: bool
) -> None:
    """Send q, the sum over k of the outer products of columns k of two factors: r + q arrives, and v - q is left.

    Args:
        received: r + q, float32 (height * width,); overwritten.
        left: v, float32 (height * width,); v - q is written.
        reference: r, float32 (height * width,).
        columns_left: float32 (rank, height).
        columns_right: float32 (rank, width).
        past_caches: Whether `received` is written past the caches.
    """
    rank, height = columns_left.shape
    width = columns_right.shape[1]
    product, arrived, right = np.empty(CHUNK, np.float32), np.empty(CHUNK, np.float32), floats(columns_right)
    for row in range(height):
        for first in range(0, width, CHUNK):
            start, count = row * width + first, min(CHUNK, width - first)
            v, r = offset(floats(left), start), offset(floats(reference), start)
            for k in range(rank):
                factor, others = columns_left[k, row], offset(right, k * width + first)
                if k == 0:
                    for column in range(count):  # product (128) <- columns_right (128)
                        product[column] = factor * others[column]
                else:
                    for column in range(count):  # product (128) <- columns_right (128)
                        product[column] = product[column] + factor * others[column]
            for column in range(count):  # left, arrived (128) <- product (128)
                v[column] -= product[column]
                arrived[column] = r[column] + product[column]
            write(offset(floats(received), start), floats(arrived), count, past_caches)
