"""How Winograd's algorithm cuts an image into tiles, what room it takes, and when it pays.

See :mod:`~fedlama.engines.compiled.winograd`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from fedlama.engines.compiled.table import LANES

POINTS = 6
"""Points along a side at which polynomials are multiplied; a tile of the source is as long."""
PAIRS = POINTS**2
ROOM = 2048
"""Channels times columns of a block, about: 36 times as many numbers stay in the cache."""
_ON_ENTRY, _ON_RETURN, _PER_FILTER = 16, 11, 11
"""What a number at a pair of points costs beside its products, in products: of the source, the result, a filter."""
_DIRECT = 1.2
"""What a product of the direct kernels costs, in those of matrix products; like the others measured, with AVX-512."""


class Cut(NamedTuple):
    """How an image of results is cut into tiles, and these into blocks of about equal sizes.

    Attributes:
        results: Pixels of a tile's side, m.
        padding: Rows and columns of zeros before the source.
        high: Rows of tiles.
        wide: Tiles in a row.
        block_high: Rows of tiles in a block.
        block_wide: Tiles in a row of a block.
        stride: What a block's tiles of all samples take, filled up to vectors.
    """

    results: int
    padding: int
    high: int
    wide: int
    block_high: int
    block_wide: int
    stride: int


def cut(height: int, width: int, batch: int, channels: int, size: int, padding: int) -> Cut:
    """Cut an image.

    Args:
        height: Rows of pixels of the results.
        width: Pixels in a row.
        batch: Samples.
        channels: The most that a block's numbers exist for.
        size: A filter's side, 3 or 5.
        padding: Rows and columns of zeros before the source.
    """
    results = POINTS + 1 - size
    high, wide = -(-height // results), -(-width // results)
    columns, row = ROOM // channels, wide * batch
    pieces = min(max((row + columns // 2) // columns, 1), wide)
    rows = max((columns + row // 2) // row, 1) if pieces == 1 else 1
    block_high, block_wide = -(-high // -(-high // rows)), -(-wide // pieces)
    stride = -(-block_high * block_wide * batch // LANES) * LANES
    return Cut(results, padding, high, wide, block_high, block_wide, stride)


def pays(inputs: Sequence[int], outputs: Sequence[int], batch: int, size: int, padding: int) -> bool:
    """Tell whether the algorithm takes a convolution with stride 1 and is expected to be faster than direct sums.

    Args:
        inputs: Channels, height and width.
        outputs: The same.
        batch: The usual batch.
        size: A filter's side.
        padding: Rows and columns of zeros around the inputs.
    """
    if size not in (3, 5) or padding >= size or inputs[0] % LANES or outputs[0] % LANES:
        return False
    tiles = math.prod(-(-side // (POINTS + 1 - size)) for side in outputs[1:])
    columns = -(-tiles * batch // LANES) * LANES
    filters = inputs[0] * outputs[0]
    once = filters + _ON_ENTRY * inputs[0] + _ON_RETURN * outputs[0]
    taps = [_useful_taps(*sides, size, padding) for sides in zip(inputs[1:], outputs[1:], strict=True)]
    return PAIRS * (columns * once + _PER_FILTER * filters) < _DIRECT * batch * filters * math.prod(taps)


def _useful_taps(length: int, results: int, size: int, padding: int) -> int:
    """Count, along a side, the pairs of a result and a tap that meet a pixel."""
    return sum(0 <= result + tap - padding < length for result in range(results) for tap in range(size))


def room(inputs: Sequence[int], outputs: Sequence[int], batch: int, size: int) -> int:
    """Count the elements of scratch that a convolution's three kernels take at most.

    Args:
        inputs: Channels, height and width.
        outputs: The same.
        batch: The largest batch.
        size: A filter's side.
    """
    most = max(inputs[0], outputs[0])
    filters = PAIRS * (inputs[0] * outputs[0] + LANES)
    counts = []
    for channels, result in ((inputs[0], outputs), (outputs[0], inputs), (most, outputs)):
        for samples in range(1, batch + 1):
            c = cut(result[1], result[2], samples, channels, size, 0)
            points = PAIRS * (most * c.stride + LANES)
            strip = c.results * (c.block_wide * c.results * samples + LANES) * LANES
            counts.append(filters + POINTS * line(c, samples) + 2 * points + strip)
    return max(counts) + 4 * LANES**2


def line(c: Cut, batch: int) -> int:
    """Count the elements of a line of a block's source, filled up to vectors.

    Args:
        c: How the image is cut.
        batch: Samples.
    """
    width = (c.block_wide - 1) * c.results + POINTS
    return -(-width * batch // LANES) * LANES + LANES
