"""The picture of the front: the test loss of methods at the end of their runs against the MB that they sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fedlama.analysis.front import Point
from fedlama.core.figures import AXES, method_colours
from fedlama.core.ledger import MEGABYTE
from fedlama.core.ticks import set_ends
from fedlama.reporting.files import save_figure
from fedlama.reporting.limits import front_limits

_WIDE = 40
"""Characters of a title beside which no second one fits."""


def front_chart(points: Sequence[Point], path: Path, colours: Mapping[str, str] | None = None) -> Path:
    """Draw the test loss of methods at the end of their runs against MB, both on logarithmic axes.

    A line joins the methods of the front: those that no other one beats in both. Small dots are the seeds. A method
    whose loss is far from all others is drawn at the edge.

    Args:
        points: The methods.
        path: The picture file.
        colours: The colour of each method; by default in the order of the points.

    Returns:
        The same path.
    """
    colours = colours or method_colours(point.title for point in points)
    columns = 1 if any(len(point.title) > _WIDE for point in points) else 2
    figure = Figure(figsize=(7, 4.4 + 0.2 * len(points) / columns), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    ends = [run for point in points for run in (point.mean, *point.runs.values())]
    outside = _set_limits(axes, points, [run.bytes_sent / MEGABYTE for run in ends])
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
        _draw(axes, index, point, colours[point.title])
    count = max(len(point.runs) for point in points)
    axes.set_xlabel(AXES["megabytes"])
    axes.set_ylabel("test loss at the end")
    words = ["down and to the left is better"]
    words += [f"geometric means over {count} seeds, small: each seed"] if count > 1 else []
    words += ["triangle: beyond the picture"] if outside else []
    axes.set_title(fill("; ".join(words), 80), fontsize=9)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=columns)
    return save_figure(figure, path, 130)


def _set_limits(axes: Axes, points: Sequence[Point], megabytes: Sequence[float]) -> bool:
    """Set both axes, and return whether a method is beyond them."""
    losses = [[run.loss for run in (point.mean, *point.runs.values())] for point in points]
    every = [loss for each in losses for loss in each]
    set_ends(axes, "x", (min(megabytes), max(megabytes)), log=True)
    set_ends(axes, "y", front_limits(losses) or (min(every), max(every)), log=True)
    return any(point.mean.loss > axes.get_ylim()[1] for point in points)


def _draw(axes: Axes, index: int, point: Point, colour: str) -> None:
    """Draw a method as a disc with its number, or at the edge as a triangle with its loss, and its seeds as dots."""
    sent, loss, top = point.mean.bytes_sent / MEGABYTE, point.mean.loss, axes.get_ylim()[1]
    if len(point.runs) > 1:
        x, y = zip(*point.runs.values(), strict=True)
        axes.plot([each / MEGABYTE for each in x], y, ".", color=colour, markersize=4, alpha=0.7)
    label = f"{index + 1}  {point.title}" + (f": {loss:.3g}" if loss > top else "")
    marker = "^" if loss > top else "o"
    axes.plot(
        sent, min(loss, top), marker, color=colour, markersize=12, linestyle="", label=label, clip_on=False, zorder=3
    )
    axes.annotate(
        str(index + 1),
        (sent, min(loss, top)),
        color="white",
        fontsize=8,
        fontweight="bold",
        ha="center",
        va="center_baseline",
        zorder=4,
        annotation_clip=False,
    )
