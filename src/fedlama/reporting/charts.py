"""Picture files: the primary metric over steps, rounds and MB, and the layers' intervals over time."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedlama.analysis.statistics import interval
from fedlama.core.figures import AXES, method_colours
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import Result, measure_of
from fedlama.core.ticks import set_ends
from fedlama.reporting.files import save_figure
from fedlama.reporting.limits import limits, spans_decades

_MARKERS = "osD^vPX*"
_WIDE = 34
"""Characters of a title beside which no second one fits."""


@dataclass(frozen=True)
class Curve:
    """The primary metric over one axis, one point per evaluation.

    Attributes:
        x: Local steps, rounds or MB.
        y: The metric; accuracy in percent.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Target:
    """The MB until a value of the primary metric, which are marked in the picture over MB.

    Attributes:
        value: The value; an accuracy is in [0, 1].
        megabytes: Mean MB over the seeds that reached it, by title; methods that did not are left out.
    """

    value: float
    megabytes: Mapping[str, float]


def metric_charts(
    results: Mapping[str, Sequence[Result]],
    folder: Path,
    *,
    colours: Mapping[str, str] | None = None,
    target: Target | None = None,
) -> list[Path]:
    """Draw the primary metric over local steps, rounds and MB.

    Several seeds are drawn as thin lines, and their mean with its interval. Values that would squeeze the curves are
    marked at the edge, and MB are on a logarithmic axis where the methods' totals span more than a decade.

    Args:
        results: Finished runs, one per seed, by title in the order of the legend.
        folder: Folder for the pictures; it must exist.
        colours: The colour of each method; by default in the order of the results.
        target: What is marked in the picture over MB.

    Returns:
        The PNG files, such as ``accuracy_steps.png``, each with an SVG and a PDF beside it; none when nothing was
        evaluated.
    """
    every = [result for runs in results.values() for result in runs]
    measure = measure_of(record for result in every for record in result.rounds)
    if measure is None:
        return []
    pictures = []
    for axis, name in zip(AXES, metric_chart_names(every), strict=True):
        curves = {title: [_curves(result, measure)[axis] for result in runs] for title, runs in results.items()}
        drawn = _Drawn(curves, measure, colours or method_colours(results), target if axis == "megabytes" else None)
        pictures.append(_picture(drawn, axis, folder / name))
    return pictures


def metric_chart_names(results: Iterable[Result]) -> list[str]:
    """Return the files that :func:`metric_charts` writes; none when nothing was evaluated.

    Args:
        results: Finished runs.
    """
    measure = measure_of(record for result in results for record in result.rounds)
    if measure is None:
        return []
    return [f"{re.sub(r'[^A-Za-z0-9.-]', '_', measure.name)}_{axis}.png" for axis in AXES]


def interval_chart(title: str, result: Result, path: Path) -> Path:
    """Draw when each layer was synchronised and at which interval, layer by round.

    Args:
        title: The method.
        result: A finished run.
        path: The picture file.

    Returns:
        The same path.
    """
    names = list(result.rounds[0].layers)
    grid = np.array([[record.layers[name].interval for record in result.rounds] for name in names])
    intervals = sorted(int(value) for value in np.unique(grid))
    colours = [_shade(index, len(intervals)) for index in range(len(intervals))]
    figure = Figure(figsize=(9, 1.6 + 0.22 * min(len(names), 60)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(
        np.searchsorted(intervals, grid),
        aspect="auto",
        interpolation="nearest",
        cmap=ListedColormap(colours),
        vmin=-0.5,
        vmax=len(intervals) - 0.5,
    )
    synchronised = [
        (record.round_index, row)
        for record in result.rounds
        for row, name in enumerate(names)
        if record.layers[name].synchronised
    ]
    if len(synchronised) <= 4000:
        axes.plot(*zip(*synchronised, strict=True), ".", color="black", markersize=2)
    axes.set_yticks(range(len(names)), names, fontsize=7 if len(names) <= 60 else 4)
    axes.set_xticks(*_round_ticks(len(result.rounds)))
    axes.set_xlabel("round" + (" (a dot: the layer was synchronised)" if len(synchronised) <= 4000 else ""))
    axes.set_title(f"{title}: aggregation interval of each layer", fontsize=10)
    patches = [
        Patch(color=c, label=f"every {i} rounds" if i > 1 else "every round")
        for i, c in zip(intervals, colours, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    return save_figure(figure, path, 110)


def mean_curve(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Return the mean over seeds at each evaluation, and both ends of its 95 % interval.

    Args:
        curves: One per seed; they are averaged up to the end of the one that stopped first.

    Returns:
        The mean, the lower end and the upper end; with one seed all three are the mean.
    """
    x = tuple(interval(values).mean for values in zip(*(curve.x for curve in curves), strict=False))
    intervals = [interval(values) for values in zip(*(curve.y for curve in curves), strict=False)]
    mean = tuple(point.mean for point in intervals)
    half = [point.half or 0.0 for point in intervals]
    low, high = (tuple(m + sign * h for m, h in zip(mean, half, strict=True)) for sign in (-1, 1))
    return Curve(x, mean), Curve(x, low), Curve(x, high)


@dataclass(frozen=True)
class _Drawn:
    """What a picture of the metric shows: the curves by title, one for each seed."""

    curves: Mapping[str, Sequence[Curve]]
    measure: Measure
    colours: Mapping[str, str]
    target: Target | None

    def label(self, title: str) -> str:
        """Return a method's entry in the legend."""
        if self.target is None:
            return title
        sent = self.target.megabytes.get(title)
        words = self.measure.target_text(self.target.value)
        return f"{title}: {words} not reached" if sent is None else f"{title}: {sent:.2f} MB to {words}"

    def ends(self) -> tuple[list[float], tuple[float, float], bool]:
        """Return the methods' totals on the horizontal axis, the values to show, and whether some are beyond them."""
        seeds = [curve for each in self.curves.values() for curve in each]
        inner = limits([curve.y for curve in seeds], self.measure.direction)
        values = [value for curve in seeds for value in curve.y if math.isfinite(value)] or [0.0]
        return [curve.x[-1] for curve in seeds if curve.x], inner or (min(values), max(values)), inner is not None

    def height_of_target(self, axes: Axes) -> float | None:
        """Return where the target is on the vertical axis; None where there is none, or it is not in the picture."""
        height = None if self.target is None else self.measure.shown(self.target.value)
        bottom, top = axes.get_ylim()
        return height if height is not None and bottom <= height <= top else None


def _picture(drawn: _Drawn, axis: str, path: Path) -> Path:
    wide = any(len(drawn.label(title)) > _WIDE for title in drawn.curves)
    columns = 1 if wide or len(drawn.curves) == 1 else 2
    figure = Figure(figsize=(7, 4 + 0.22 * math.ceil(len(drawn.curves) / columns)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    totals, values, cut = drawn.ends()
    log = axis == "megabytes" and spans_decades(totals)
    starts = [curve.x[0] for seeds in drawn.curves.values() for curve in seeds if curve.x]
    set_ends(axes, "x", (min(starts) if log else 0.0, max(totals)), log=log)
    set_ends(axes, "y", values)
    for index, title in enumerate(drawn.curves):
        _draw_method(axes, drawn, title, index)
    axes.set_xlabel(AXES[axis])
    axes.set_ylabel(f"test {drawn.measure.name} of the global model{' (%)' if drawn.measure.is_percent else ''}")
    count = max(map(len, drawn.curves.values()))
    words = [f"mean and 95 % interval over {count} seeds; thin: each seed"] if count > 1 else []
    words += ["triangle: beyond the picture"] if cut else []
    height = drawn.height_of_target(axes)
    if height is not None:
        axes.axhline(height, color="#525252", linewidth=1, linestyle=":", zorder=1)
        words += ["diamond: MB to the target"]
    axes.set_title(fill("; ".join(words), 80), fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=columns)
    return save_figure(figure, path, 130)


def _draw_method(axes: Axes, drawn: _Drawn, title: str, index: int) -> None:
    """Draw a method's mean with its interval, its seeds, its values beyond the picture, and its MB to the target."""
    seeds, colour = drawn.curves[title], drawn.colours[title]
    mean, low, high = mean_curve(seeds)
    marker = _MARKERS[index % len(_MARKERS)]
    axes.plot(mean.x, mean.y, label=drawn.label(title), color=colour, marker=marker, markersize=4, linewidth=1.5)
    if len(seeds) > 1:
        for curve in seeds:
            axes.plot(curve.x, curve.y, color=colour, linewidth=0.5, alpha=0.7)
        axes.fill_between(low.x, low.y, high.y, color=colour, alpha=0.12, linewidth=0)
    bottom, top = axes.get_ylim()
    for edge, shape, beyond in ((bottom, "v", lambda y: y < bottom), (top, "^", lambda y: not y <= top)):
        at = [x for x, y in zip(mean.x, mean.y, strict=True) if beyond(y)]
        if at:
            axes.plot(at, [edge] * len(at), shape, color=colour, markersize=6, clip_on=False, zorder=3)
    height, sent = drawn.height_of_target(axes), drawn.target.megabytes.get(title) if drawn.target else None
    if height is not None and sent is not None:
        axes.plot(
            [sent], [height], "D", color=colour, markersize=8, markerfacecolor="white", markeredgewidth=1.5, zorder=4
        )


def _curves(result: Result, measure: Measure) -> dict[str, Curve]:
    """Return the metric against local steps, rounds and cumulative MB at every evaluation that has it."""
    axes: dict[str, list[float]] = {name: [] for name in AXES}
    values = []
    total = 0
    for record in result.rounds:
        total += record.bytes_up + record.bytes_down
        if record.score and record.score.primary == measure.name:
            axes["steps"].append(float(record.local_steps))
            axes["rounds"].append(record.round_index + 1.0)
            axes["megabytes"].append(total / MEGABYTE)
            values.append(measure.shown(record.score.value))
    return {name: Curve(tuple(x), tuple(values)) for name, x in axes.items()}


def _round_ticks(rounds: int) -> tuple[list[int], list[str]]:
    """Return positions and labels of ticks over rounds: the first, the last, and round numbers between them."""
    inner = [int(tick) for tick in MaxNLocator(8, integer=True).tick_values(1, rounds)]
    numbers = [1, *(tick for tick in inner if 1 + rounds / 12 < tick < rounds - rounds / 12), rounds]
    return [number - 1 for number in dict.fromkeys(numbers)], [str(number) for number in dict.fromkeys(numbers)]


def _shade(index: int, count: int) -> tuple[float, float, float]:
    """Return a blue that is darker for a longer interval."""
    share = index / max(count - 1, 1)
    return (0.87 - 0.62 * share, 0.92 - 0.47 * share, 0.97 - 0.27 * share)
