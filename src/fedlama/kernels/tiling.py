"""When Winograd's algorithm pays, and how much scratch it takes.

See :mod:`~fedlama.kernels.winograd`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedlama.kernels.modes import MODES
from fedlama.kernels.table import LANES

POINTS = 6
"""Points along a side at which polynomials are multiplied; a tile of the source is as long."""
PAIRS = POINTS**2
_ROOM = 2048
_FEW = 64
_ON_ENTRY, _ON_RETURN, _PER_FILTER = 16, 11, 11
"""What a number at a pair of points costs beside its products, in products: of the source, the result, a filter."""
_DIRECT = 1.2
"""What a product of the direct kernels costs, in those of matrix products; measured with AVX-512, as the others are."""


def wanted(channels: int) -> int:
    """Return about how many columns (tiles times samples) a block should have.

    With few channels the numbers at all pairs of points stay in the cache, 36 for each channel and column. With many
    channels those at one pair do, and there should be enough columns for each filter that is read from memory.

    Args:
        channels: The larger number of channels that a block's numbers are stored for.
    """
    return _ROOM // channels if channels <= _FEW else 128


def at_a_time(channels: int, outputs: int) -> int:
    """Return for how many outputs a block's products are made before results are made of them.

    Args:
        channels: Of the source.
        outputs: Channels of the result.
    """
    return 8 if channels <= _FEW else outputs


def pays(inputs: Sequence[int], outputs: Sequence[int], batch: int, size: int, padding: int) -> bool:
    """Return whether the algorithm can do a convolution with stride 1 and is expected to be faster than direct sums.

    Args:
        inputs: Channels, height and width.
        outputs: The same.
        batch: The usual batch.
        size: A filter's side.
        padding: Rows and columns of zeros around the inputs.
    """
    if "direct" in MODES or size not in (3, 5) or padding >= size or inputs[0] % LANES or outputs[0] % LANES:
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
    """Return how many elements of scratch a convolution's three kernels use at most.

    Args:
        inputs: Channels, height and width.
        outputs: The same.
        batch: The largest batch.
        size: A filter's side.
    """
    most, results = max(inputs[0], outputs[0]), POINTS + 1 - size
    columns = max(2 * wanted(inputs[0]), 2 * wanted(outputs[0]), batch) + LANES  # of a block, see `portion`
    filters, points = PAIRS * (inputs[0] * outputs[0] + LANES), PAIRS * (most * columns + LANES)
    lines = POINTS * (results * columns + POINTS * batch + 2 * LANES)
    strip = results * (results * columns + LANES) * LANES
    return filters + lines + 2 * points + strip + 4 * LANES**2
