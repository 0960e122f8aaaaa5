"""The limits of axes: an outlier does not squeeze the curves that matter, and both ends of an axis have a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

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


def whole_ticks(low: float, high: float, *, log: bool = False) -> list[float]:
    """Return ticks of an axis, the first and the last of which are its ends: at or beyond the values.

    Args:
        low: The least value; above 0 on a logarithmic axis.
        high: The largest value.
        log: Whether the axis is logarithmic.

    >>> whole_ticks(6.2, 98.7, log=True)
    [5.0, 10.0, 20.0, 50.0, 100.0]
    >>> whole_ticks(13.0, 97.0)
    [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]
    """
    if high - low <= 1e-9 * abs(high):
        low, high = (low / 1.2, high * 1.2) if log else (low - abs(low or 1) / 20, high + abs(high or 1) / 20)
    if not log or high < 3 * low:  # on a short one, those of a linear axis are closer
        ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low, high)
        return [float(f"{tick:.12g}") for tick in ticks if tick > 0 or not log]
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = (1, 2, 5) if high < 1e4 * low else (1,)
    ticks = [float(f"{factor}e{decade}") for decade in decades for factor in fine]
    before = [tick for tick in ticks if tick <= low * (1 + 1e-9)]
    after = [tick for tick in ticks if tick >= high * (1 - 1e-9)]
    return [tick for tick in ticks if before[-1] <= tick <= after[0]]


def set_ends(axes: Axes, name: Literal["x", "y"], values: tuple[float, float], *, log: bool = False) -> None:
    """Let an axis of a figure begin and end with a labelled tick.

    Args:
        axes: The axes of the figure.
        name: Which of the two.
        values: The least and the largest value to show.
        log: Whether the axis becomes logarithmic.
    """
    ticks = whole_ticks(*values, log=log)
    axes.set(**{f"{name}scale": "log" if log else "linear", f"{name}lim": (ticks[0], ticks[-1])})
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
