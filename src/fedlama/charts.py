"""Picture files: accuracy against rounds and against MB, and the layers' intervals over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from fedlama.callbacks.progress import MEGABYTE
from fedlama.records import Result

# Okabe and Ito's palette: distinct for every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


def accuracy_charts(results: Mapping[str, Result], folder: Path) -> list[Path]:
    """Draw accuracy against local steps and against MB.

    Args:
        results: Title to finished run, in the order of the legend.
        folder: Where the pictures go; it must exist.

    Returns:
        The files written; none when nothing was evaluated.
    """
    curves = {title: _curve(result) for title, result in results.items()}
    if not any(steps for steps, _, _ in curves.values()):
        return []
    return [
        _lines({t: (c[0], c[2]) for t, c in curves.items()}, "local steps per client", folder / "accuracy_steps.png"),
        _lines({t: (_rounds(results[t]), c[2]) for t, c in curves.items()}, "rounds", folder / "accuracy_rounds.png"),
        _lines({t: (c[1], c[2]) for t, c in curves.items()}, "MB up and down", folder / "accuracy_megabytes.png"),
    ]


def interval_chart(result: Result, path: Path) -> Path:
    """Draw when each layer travelled and at which interval, layer by round.

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
    travelled = [
        (record.round_index, row)
        for record in result.rounds
        for row, name in enumerate(names)
        if record.layers[name].synchronised
    ]
    if len(travelled) <= 4000:
        axes.plot(*zip(*travelled, strict=True), ".", color="black", markersize=2)
    axes.set_yticks(range(len(names)), names, fontsize=7 if len(names) <= 60 else 4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round" + (" (a dot: the layer was synchronised)" if len(travelled) <= 4000 else ""))
    axes.set_title(f"{result.method}: aggregation interval of each layer", fontsize=10)
    patches = [
        Patch(color=c, label=f"every {i} rounds" if i > 1 else "every round")
        for i, c in zip(intervals, colours, strict=True)
    ]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8)
    figure.savefig(path, dpi=110)
    return path


def _lines(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str, path: Path) -> Path:
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for index, (title, (x, y)) in enumerate(curves.items()):
        colour, marker = _COLOURS[index % 7], _MARKERS[index % 7]
        axes.plot(x, y, label=title, color=colour, marker=marker, markersize=4, linewidth=1.5)
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy of the global model (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=130)
    return path


def _curve(result: Result) -> tuple[list[float], list[float], list[float]]:
    """Return local steps, cumulative MB and accuracy in percent at every evaluation."""
    steps, megabytes, accuracy = [], [], []
    total = 0
    for record in result.rounds:
        total += record.bytes_up + record.bytes_down
        if record.score:
            steps.append(float(record.local_steps))
            megabytes.append(total / MEGABYTE)
            accuracy.append(100 * record.score.accuracy)
    return steps, megabytes, accuracy


def _rounds(result: Result) -> list[float]:
    return [record.round_index + 1.0 for record in result.rounds if record.score]


def _shade(index: int, count: int) -> tuple[float, float, float]:
    """Return a blue that darkens with the interval."""
    share = index / max(count - 1, 1)
    return (0.87 - 0.62 * share, 0.92 - 0.47 * share, 0.97 - 0.27 * share)
