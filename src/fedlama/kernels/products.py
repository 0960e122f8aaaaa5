"""Differences of low rank: what arrives of a product of two thin matrices, and what is left of the difference.

The rule is that of :mod:`fedlama.choices.codecs.power_sgd`, whose matrix products are PyTorch's, and so are the bits:
products are added up one column of the factors after another, and none is contracted with a sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, CHUNK, fetch_ahead, take_change, write
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import floats, offset


@kernel
def take_row(change: Any, values: Any, reference: Any, residual: Any) -> None:
    """Set the change to v = x - r + e.

    Args:
        change: v, float32 (columns,); overwritten.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
    """
    block = np.empty(BLOCK, np.float32)
    for start in range(0, len(values), BLOCK):
        width = min(BLOCK, len(values) - start)
        take_change(block, values, reference, residual, start, width)
        fetch_ahead(values, residual, start + BLOCK)
        write(offset(floats(change), start), floats(block), width, False)  # it is read again soon


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
