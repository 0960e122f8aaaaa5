"""What axes show: an outlier does not squeeze the curves that matter. Pictures and the HTML report use it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fedlama.core.measures import Better

_FAR = 3.0
"""Interquartile ranges beyond the quartiles of a curve: Tukey's far fences."""
_NEAR = 2.0
"""Ranges of the better curves within which another one must come to be shown."""
_GAIN = 2.0
"""How much more room the curves must gain for outliers to be left out."""
_DECADE = 10.0


def limits(curves: Sequence[Sequence[float]], better: Better | None = None) -> tuple[float, float] | None:
    """Return the range of values that a picture shows where it would be squeezed by outliers; None where it is not.

    Outliers are spikes: values beyond the far fences of their own curve, but not at its start. So are whole curves
    that never come near the better half: within twice its range.

    Args:
        curves: The values of each curve; those that are not finite are ignored.
        better: Which values are better; None when it is not known, and then no whole curve is an outlier.

    >>> limits([[2.0, 1.0, 0.5, 0.4], [2.0, 1.2, 0.8, 0.6], [9e4, 9e4, 9e4, 9e4]], "lower")
    (0.4, 2.0)
    >>> limits([[2.0, 1.0, 0.5, 0.4], [2.0, 1.2, 0.8, 0.6]], "lower")
    """
    finite = [[value for value in curve if math.isfinite(value)] for curve in curves]
    cores = [_core(values) for values in finite if values]
    if not cores:
        return None
    ranked = sorted(cores, key=np.median, reverse=better == "higher")
    half = ranked[: (len(ranked) + 1) // 2] if better else ranked
    low, high = min(map(min, half)), max(map(max, half))
    room = _NEAR * (high - low)
    near = [core for core in cores if any(low - room <= value <= high + room for value in core)]
    shown = [value for core in near for value in core]
    every = [value for values in finite for value in values]
    if high == low or max(every) - min(every) <= _GAIN * (max(shown) - min(shown)):
        return None
    return float(min(shown)), float(max(shown))


def front_limits(losses: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the range of losses that the picture of the front shows where outliers would squeeze it; None otherwise.

    Args:
        losses: The losses of each method, all above 0: its mean and those of its seeds.
    """
    inner = limits([[math.log(loss) for loss in each] for each in losses], "lower")
    return None if inner is None else (math.exp(inner[0]), math.exp(inner[1]))


def _core(values: Sequence[float]) -> list[float]:
    """Return the values of a curve without spikes; how it comes from far away is part of it."""
    lower, upper = np.quantile(values, [0.25, 0.75])
    room = _FAR * (upper - lower)
    inside = [lower - room <= value <= upper + room for value in values]
    start = inside.index(True)
    return [value for at, value in enumerate(values) if at < start or inside[at] or room == 0]


def spans_decades(ends: Sequence[float]) -> bool:
    """Return whether positive values span more than a decade, so that an axis is logarithmic.

    Args:
        ends: For MB, the total of each method.

    >>> spans_decades([6.2, 98.7]), spans_decades([24.7, 98.7])
    (True, False)
    """
    return bool(ends) and min(ends) > 0 and max(ends) > _DECADE * min(ends)
