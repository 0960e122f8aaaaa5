"""Picture files: the primary metric over steps, rounds and MB, loss against MB, the layers' intervals over time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, Locator, LogLocator, MaxNLocator, NullLocator

from fedlama.analysis.front import Point
from fedlama.analysis.statistics import interval
from fedlama.core.figures import AXES
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import Result, measure_of

# The palette of Okabe and Ito: its colours are distinct for every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_WIDE = 40
"""Characters of a title beside which no second one fits."""
_SEARCHED = 20
"""Lines up to which a free corner is searched for the legend; with more that is slow, and there hardly is one."""


@dataclass(frozen=True)
class Curve:
    """The primary metric over one axis, one point per evaluation.

    Attributes:
        x: Local steps, rounds or MB.
        y: The metric; accuracy in percent.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]


def metric_charts(results: Mapping[str, Sequence[Result]], folder: Path) -> list[Path]:
    """Draw the primary metric over local steps, rounds and MB.

    Several seeds are drawn as thin lines, and their mean with its interval.

    Args:
        results: Finished runs, one per seed, by title in the order of the legend.
        folder: Folder for the pictures; it must exist.

    Returns:
        The files written, such as ``accuracy_steps.png``; none when nothing was evaluated.
    """
    every = [result for runs in results.values() for result in runs]
    measure = measure_of(record for result in every for record in result.rounds)
    if measure is None:
        return []
    pictures = []
    for axis, name in zip(AXES, metric_chart_names(every), strict=True):
        curves = {title: [_curves(result, measure)[axis] for result in runs] for title, runs in results.items()}
        pictures.append(_picture(curves, measure, AXES[axis], folder / name))
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


def interval_chart(result: Result, path: Path) -> Path:
    """Draw when each layer was synchronised and at which interval, layer by round.

    Args:
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round" + (" (a dot: the layer was synchronised)" if len(synchronised) <= 4000 else ""))
    axes.set_title(f"{result.method}: aggregation interval of each layer", fontsize=10)
    patches = [
        Patch(color=c, label=f"every {i} rounds" if i > 1 else "every round")
        for i, c in zip(intervals, colours, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    return save_figure(figure, path, 110)


def front_chart(points: Sequence[Point], path: Path) -> Path:
    """Draw the test loss of methods at the end of their runs against MB, both on logarithmic axes.

    A line joins the methods of the front: those that no other one beats in both. Small dots are the seeds.

    Args:
        points: The methods.
        path: The picture file.

    Returns:
        The same path.
    """
    columns = 1 if any(len(point.title) > _WIDE for point in points) else 2
    figure = Figure(figsize=(7, 4.4 + 0.2 * len(points) / columns), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xscale="log", yscale="log")
    front = sorted(point.mean for point in points if point.on_front)
    axes.plot(
        [each.bytes_sent / MEGABYTE for each in front],
        [each.loss for each in front],
        color="black",
        linewidth=1,
        linestyle="--",
        label="front: no method has less of both",
        zorder=1,
    )
    for index, point in enumerate(points):
        colour, marker = _COLOURS[index % 7], _MARKERS[(index + index // 7) % 7]
        if len(point.runs) > 1:
            sent, losses = zip(*point.runs.values(), strict=True)
            axes.plot([each / MEGABYTE for each in sent], losses, ".", color=colour, markersize=3, alpha=0.6)
        at = (point.mean.bytes_sent / MEGABYTE, point.mean.loss)
        axes.plot(*at, marker, color=colour, markersize=8, linestyle="", label=f"{index + 1}  {point.title}")
        axes.annotate(str(index + 1), at, xytext=(6, 5), textcoords="offset points", fontsize=9)
    count = max(len(point.runs) for point in points)
    axes.set_xlabel(AXES["megabytes"])
    axes.set_ylabel("test loss at the end")
    means = f"; geometric means over {count} seeds, small: each seed" if count > 1 else ""
    axes.set_title(f"down and to the left is better{means}", fontsize=10)
    everything = [result for point in points for result in (point.mean, *point.runs.values())]
    x_limits = _limits([each.bytes_sent / MEGABYTE for each in everything])
    y_limits = _limits([each.loss for each in everything])
    axes.set(xlim=x_limits, ylim=y_limits)
    for axis, (low, high) in ((axes.xaxis, x_limits), (axes.yaxis, y_limits)):
        axis.set_major_locator(_ticks(low, high))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=columns)
    return save_figure(figure, path, 130)


def mean_curve(curves: Sequence[Curve]) -> tuple[Curve, Curve, Curve]:
    """Return the mean over seeds at each evaluation, and both ends of its 95 % interval.

    Args:
        curves: One per seed, all with the same number of evaluations.

    Returns:
        The mean, the lower end and the upper end; with one seed all three are the mean.
    """
    x = tuple(interval(values).mean for values in zip(*(curve.x for curve in curves), strict=True))
    intervals = [interval(values) for values in zip(*(curve.y for curve in curves), strict=True)]
    mean = tuple(point.mean for point in intervals)
    half = [point.half or 0.0 for point in intervals]
    low, high = (tuple(m + sign * h for m, h in zip(mean, half, strict=True)) for sign in (-1, 1))
    return Curve(x, mean), Curve(x, low), Curve(x, high)


def _picture(curves: Mapping[str, Sequence[Curve]], measure: Measure, label: str, path: Path) -> Path:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    bands = []
    for index, (title, seeds) in enumerate(curves.items()):
        colour, marker = _COLOURS[index % 7], _MARKERS[index % 7]
        mean, low, high = mean_curve(seeds)
        axes.plot(mean.x, mean.y, label=title, color=colour, marker=marker, markersize=4, linewidth=1.5)
        if len(seeds) > 1:
            for curve in seeds:
                axes.plot(curve.x, curve.y, color=colour, linewidth=0.5, alpha=0.7)
            bands.append((low, high, colour))
    limits = axes.get_ylim()  # taken from the curves: the interval of a few seeds may be far wider than the picture
    for low, high, colour in bands:
        axes.fill_between(low.x, low.y, high.y, color=colour, alpha=0.12, linewidth=0)
    axes.set_ylim(limits)
    axes.set_xlabel(label)
    axes.set_ylabel(f"test {measure.name} of the global model{' (%)' if measure.is_percent else ''}")
    if bands:
        count = max(map(len, curves.values()))
        axes.set_title(f"mean and 95 % interval over {count} seeds; thin: each seed", fontsize=10)
    axes.grid(alpha=0.3)
    lines = sum(map(len, curves.values()))
    axes.legend(fontsize=9, loc="best" if lines <= _SEARCHED else "lower right")
    return save_figure(figure, path, 130)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return limits of a logarithmic axis with room for a number beside the last point.

    They are apart also where all values are equal: all methods may have sent the same bytes.
    """
    low, high = min(values), max(values)
    room = max((high / low) ** 0.09, 1.1)
    return low / room, high * room


def _ticks(low: float, high: float) -> Locator:
    """Return what places ticks on a logarithmic axis; on a short one those of a linear axis, which are closer."""
    return LogLocator(subs=(1.0, 2.0, 5.0)) if high > 10 * low else MaxNLocator(6)


def save_figure(figure: Figure, path: Path, dpi: int) -> Path:
    """Write a picture so that it is either whole or does not exist.

    Args:
        figure: The picture.
        path: The PNG file.
        dpi: Pixels per inch.

    Returns:
        The same path.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        figure.savefig(partial, dpi=dpi, format="png")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


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


def _shade(index: int, count: int) -> tuple[float, float, float]:
    """Return a blue that is darker for a longer interval."""
    share = index / max(count - 1, 1)
    return (0.87 - 0.62 * share, 0.92 - 0.47 * share, 0.97 - 0.27 * share)
