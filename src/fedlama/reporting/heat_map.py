"""The picture of a sweep: the primary metric of every combination, as a heat map over two keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fedlama.analysis.sweep import Cell, Sweep
from fedlama.reporting.files import picture_files, save_figure
from fedlama.reporting.front_chart import front_chart

_WORDS = 24
"""Characters of a value on an axis; a longer one is cut."""


def draw_sweep(sweep: Sweep, folder: Path) -> list[Path]:
    """Draw a sweep: a heat map over its last two keys, one panel for each value of the keys before, and the front.

    Args:
        sweep: A finished sweep.
        folder: Where its ``sweep.json`` is.

    Returns:
        The PNG files, each with an SVG and a PDF beside it: ``sweep.png``, and ``sweep_front.png`` where there are
        several combinations with a test loss.
    """
    pictures = []
    for name in ("sweep.png", "sweep_front.png"):  # those of an earlier sweep in the same folder
        for file in picture_files(folder / name):
            file.unlink(missing_ok=True)
    if sweep.measure is not None:
        pictures.append(save_figure(heat_map(sweep), folder / "sweep.png", 130))
    points = sweep.points
    return [*pictures, *([front_chart(points, folder / "sweep_front.png")] if len(points) > 1 else [])]


def heat_map(sweep: Sweep) -> Figure:
    """Return the heat map of a sweep's primary metric: means over the seeds, written into the cells.

    Args:
        sweep: A finished sweep with an evaluation.
    """
    rows = sweep.axes[-2] if len(sweep.axes) > 1 else None
    columns = sweep.axes[-1]
    panels: dict[tuple[str, ...], list[Cell]] = {}
    for cell in sweep.cells:
        panels.setdefault(tuple(cell.values[axis.key] for axis in sweep.axes[:-2]), []).append(cell)
    height = 1 if rows is None else len(rows.values)
    size = (2.6 + 1.0 * len(columns.values), len(panels) * (1.6 + 0.55 * height))
    figure = Figure(figsize=(max(size[0], 4.5), size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    means = [cell.metric.mean for cell in sweep.cells if cell.metric is not None]
    limits = (min(means), max(means)) if means else (0.0, 1.0)
    for index, (outer, cells) in enumerate(panels.items()):
        axes = figure.add_subplot(len(panels), 1, index + 1)
        grid = np.array([np.nan if cell.metric is None else cell.metric.mean for cell in cells])
        image = grid.reshape(height, len(columns.values))
        axes.imshow(image, aspect="auto", cmap="cividis", vmin=limits[0], vmax=limits[1])
        _write_values(axes, image, limits)
        axes.set_xticks(range(len(columns.values)), _short(columns.values))
        axes.set_xlabel(columns.key)
        axes.set_yticks(range(height), [""] if rows is None else _short(rows.values))
        axes.set_ylabel("" if rows is None else rows.key)
        axes.set_title(_title(sweep, outer), fontsize=10)
    return figure


def _title(sweep: Sweep, outer: Sequence[str]) -> str:
    """Return what a panel shows: the metric, and the values of the keys that are on no axis."""
    named = [f"{axis.key}={value}" for axis, value in zip(sweep.axes[:-2], outer, strict=True)]
    label = sweep.measure.label if sweep.measure else ""
    seeds = f", mean of {len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else ""
    return "; ".join([f"test {label}{seeds}", *named])


def _write_values(axes: Axes, image: NDArray[np.float64], limits: tuple[float, float]) -> None:
    """Write each cell's value, in black on light and in white on dark colours; a cell that diverged says so."""
    middle = (limits[0] + limits[1]) / 2
    for (row, column), value in np.ndenumerate(image):
        text = "diverged" if np.isnan(value) else f"{value:.4g}"
        colour = "black" if np.isnan(value) or value > middle else "white"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)


def _short(values: Sequence[str]) -> list[str]:
    return [value if len(value) <= _WORDS else f"{value[: _WORDS - 3]}..." for value in values]
