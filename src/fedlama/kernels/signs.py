"""Signs of differences with one scale for each client's tensor; the rule is that of EF-signSGD here.

See :mod:`fedlama.choices.codecs.sign`. The magnitudes of a whole row are added up by halves, in the order of
:func:`fedlama.choices.codecs.packing.tree_sum`, but depth first: so each number is read from memory once for the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedlama.kernels.blocks import BLOCK, CHUNK, fetch_ahead, take_change, write
from fedlama.kernels.kernel import kernel
from fedlama.kernels.tiles import floats, offset

UNIT = 2048
"""Numbers that are added up in one go, at most; a row is halved until its parts are that short."""


@kernel
def send_signs(received: Any, left: Any, values: Any, reference: Any, residual: Any, past_caches: bool) -> None:
    """Round v = x - r + e of one client to plus or minus its mean magnitude: r + q, and the new e = v - q.

    Args:
        received: r + q, float32 (columns,); overwritten.
        left: v - q, float32 (columns,), overwritten; or empty where it is not wanted.
        values: x, float32 (columns,).
        reference: r, float32 (columns,).
        residual: e, float32 (columns,), or empty for zero.
        past_caches: Whether results are written past the caches.
    """
    scale = _sum_of_magnitudes(values, reference, residual) / np.float32(len(values))
    change, work = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for start in range(0, len(values), BLOCK):
        width = min(BLOCK, len(values) - start)
        take_change(change, values, reference, residual, start, width)
        fetch_ahead(values, residual, start + BLOCK)
        for first in range(0, width, CHUNK):
            count, v, r = (
                min(CHUNK, width - first),
                offset(floats(change), first),
                offset(floats(reference), start + first),
            )
            for column in range(count):  # work (128) <- reference (128) + q (128)
                q = scale if v[column] >= 0.0 else -scale
                v[column] -= q
                work[column] = r[column] + q
            if len(left) > 0:
                write(offset(floats(left), start + first), v, count, past_caches)
            write(offset(floats(received), start + first), floats(work), count, past_caches)


@kernel
def _sum_of_magnitudes(values: Any, reference: Any, residual: Any) -> Any:
    """Return the sum of |x - r + e|.

    Halving a row L times leaves numbers of which each is a sum over 2^L parts of the row. The parts are visited so that
    two sums of the same level are next to each other on a stack when both are complete.
    """
    lengths, levels = np.empty(64, np.int64), 0
    lengths[0] = len(values)
    while lengths[levels] > UNIT:
        lengths[levels + 1] = (lengths[levels] + 1) // 2
        levels += 1
    width, depth = lengths[levels], 0
    stack = np.empty((levels + 1, width), np.float32)
    for part in range(1 << levels):
        start, count = 0, width
        for level in range(levels, 0, -1):  # an odd length lacks the last number of its second half
            start += lengths[level] if (part >> (level - 1)) & 1 else 0
            count = min(count, lengths[level - 1] - start)
        _magnitudes(stack[depth], values, reference, residual, start, max(count, 0))
        depth += 1
        while (part & 1) == 1:
            depth -= 1
            for column in range(width):  # stack (width) <- stack (width) + stack (width)
                stack[depth - 1, column] += stack[depth, column]
            part >>= 1
    while width > 1:
        half = (width + 1) // 2
        for column in range(width - half):  # stack (half) <- stack (half) + stack (half)
            stack[0, column] += stack[0, column + half]
        width = half
    return stack[0, 0]


@kernel
def _magnitudes(out: Any, values: Any, reference: Any, residual: Any, start: int, count: int) -> None:
    """Write |x - r + e| of some columns, and 0 for the others."""
    take_change(out, values, reference, residual, start, count)
    for column in range(count):  # out (width) <- |out| (width)
        out[column] = abs(out[column])
