"""Weights in 8 bits with one scale for each row of a matrix; the rule and the bits are those of `eight-bit-rows`.

See :mod:`fedlama.choices.codecs.eight_bit_rows`. A row is in the cache when it is rounded, unless it is very long.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, CHUNK, clamped, fetch_ahead, write
from fedlama.kernels.kernel import kernel
from fedlama.kernels.table import LANES
from fedlama.kernels.tiles import floats, load, load_some, offset
from fedlama.kernels.vectors import full, larger_magnitude, largest_lane

_CODES = np.float32(127.0)
_INFINITE = 0x7F800000


@kernel
def round_by_rows(out: Any, values: Any, rows: int, past_caches: bool) -> None:
    """Round every row of a matrix to multiples of a step, up to 127 of them.

    Args:
        out: float32 (rows * columns,); overwritten.
        values: float32 (rows * columns,).
        rows: How many rows.
        past_caches: Whether results are written past the caches.
    """
    work, nothing = np.empty(CHUNK, np.float32), values[:0]
    columns = len(values) // rows
    for row in range(rows):
        first = row * columns
        step = _shortened(_largest_magnitude(offset(floats(values), first), columns) / _CODES)
        divisor = step if step > 0.0 else np.float32(1.0)
        for start in range(first, first + columns, CHUNK):
            width = min(CHUNK, first + columns - start)
            x = offset(floats(values), start)
            if (start - first) % BLOCK == 0:
                fetch_ahead(values, nothing, start + columns)  # of the next row
            for column in range(width):  # work (128) <- values (128)
                code = clamped(np.rint(np.divide(x[column], divisor)), -_CODES, _CODES)
                work[column] = (code + np.float32(0.0)) * step  # a code of -0 is sent as 0
            write(offset(floats(out), start), floats(work), width, past_caches)


@kernel
def _largest_magnitude(x: Any, columns: int) -> Any:
    """Return the largest of |x|; NaN where there is one."""
    whole, rest = columns - columns % LANES, columns % LANES
    largest = full(np.float32(0.0))
    for column in range(0, whole, LANES):  # largest (16) <- x (16)
        largest = larger_magnitude(largest, load(x, column))
    if rest > 0:
        largest = larger_magnitude(largest, load_some(x, whole, rest))
    return largest_lane(largest)


@kernel
def _shortened(step: Any) -> Any:
    """Round a step to 17 significant bits, to even."""
    rounded = np.empty(1, np.float32)
    rounded[0] = step
    bits = rounded.view(np.int32)
    if bits[0] < _INFINITE:
        bits[0] = (bits[0] + 63 + ((bits[0] >> 7) & 1)) & ~127
    return rounded[0]
