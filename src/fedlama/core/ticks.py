"""The ticks of axes of pictures: both ends of an axis have a label."""

from __future__ import annotations

import math
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator


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
