"""The tables and the figure of :mod:`benchmarks.methods`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.methods_list import BASES, METHODS, PERSONAL, PERSONAL_SETTINGS, SETTINGS

Row = dict[str, Any]
FIGURE_RANGE = {"writers": (70.0, 95.0), "fashion": (60.0, 83.0)}
"""Accuracies that the figure shows, in percent."""


def all_methods(rows: Sequence[Row]) -> str:
    """Return the table of all methods, one column group for each data set."""
    lines = [
        "| | method | MNIST by writer, % | MB up + down | Fashion-MNIST, % | MB up + down |",
        "|---|---|---|---|---|---|",
    ]
    for number, name in enumerate(METHODS, 1):
        cells = [cell for setting in SETTINGS for cell in (_accuracy(rows, setting, name), _bytes(rows, setting, name))]
        lines.append(f"| {number} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def combinations(rows: Sequence[Row]) -> str:
    """Return the table of FedLAMA and 4 bits, each with other methods, on Fashion-MNIST."""
    columns = {"FedAvg": "", "FedLAMA": ", FedLAMA", "4 bits": ", 4 bits", "both": ", FedLAMA, 4 bits"}
    titles = {"SGD": "FedAvg"} | {name: name for name in BASES}
    plain = {"": "FedAvg", ", FedLAMA": "FedLAMA", ", 4 bits": "4 bits", ", FedLAMA, 4 bits": "FedLAMA, 4 bits"}
    lines = [f"| with | {' | '.join(columns)} |", "|---" * 5 + "|"]
    for title, name in titles.items():
        names = [plain[more] if name == "FedAvg" else name + more for more in columns.values()]
        cells = [
            _accuracy(rows, "fashion", each)
            + ("" if (megabytes := _bytes(rows, "fashion", each)) == "-" else f"; {megabytes} MB")
            for each in names
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def personal_models(rows: Sequence[Row]) -> str:
    """Return the table of personal models: all clients' test sets together, the worst client, and bytes."""
    lines = [
        "| method | MNIST by writer, all, % | worst client | MB | Fashion-MNIST, all, % | worst client | MB |",
        "|---" * 7 + "|",
    ]
    for name in PERSONAL:
        cells = [
            cell
            for setting in PERSONAL_SETTINGS
            for cell in (
                _accuracy(rows, setting, name, "pooled"),
                _accuracy(rows, setting, name, "worst"),
                _bytes(rows, setting, name),
            )
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the mean accuracy of each method against its megabytes, one panel for each data set."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.2), layout="constrained")
    titles = {"writers": "MNIST by writer, 10 of 539 clients", "fashion": "Fashion-MNIST, Dirichlet 0.1, 20 clients"}
    for axes, (setting, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        points = [
            (statistics.fmean(row["up"] + row["down"] for row in runs), _mean(runs), number, "FedLAMA" in name)
            for number, name in enumerate(METHODS, 1)
            if (runs := list(_finished(rows, setting, name))) and not _failures(rows, setting, name)
        ]
        axes.set(
            title=title, xlabel="MB up and down", ylabel="test accuracy, %", xscale="log", ylim=FIGURE_RANGE[setting]
        )
        axes.set_xticks(ticks := [5, 10, 20, 50, 100, 200, 500], [str(tick) for tick in ticks])
        axes.tick_params(axis="x", which="minor", labelbottom=False)
        _plot(axes, points, FIGURE_RANGE[setting])
        axes.grid(alpha=0.3)
    figure.text(
        0.5, -0.01, "numbers: rows of the table; a triangle is below the axis", ha="center", va="top", fontsize=8
    )
    figure.savefig(path, dpi=110, bbox_inches="tight")


def _plot(axes: Any, points: Sequence[tuple[float, float, int, bool]], limits: tuple[float, float]) -> None:  # noqa: ANN401
    """Plot points with numbers that cover neither each other nor points.

    Args:
        axes: Matplotlib's axes, whose x axis is logarithmic.
        points: Megabytes, accuracy, number of the row, and whether to show it in red.
        limits: The range of the accuracy axis.
    """
    points = sorted(points, key=lambda point: -point[1])
    first, last = math.log10(min(points)[0] / 1.3), math.log10(max(points)[0] * 1.3)
    axes.set_xlim(10**first, 10**last)
    gap = (limits[1] - limits[0]) / 40
    shown = [(megabytes, max(accuracy, limits[0] + gap), number) for megabytes, accuracy, number, _ in points]
    in_axes = [
        ((math.log10(x) - first) / (last - first), (y - limits[0]) / (limits[1] - limits[0])) for x, y, _ in shown
    ]
    taken = [(spot, 0.024, 0.017) for spot in in_axes]  # centre, and half of the width and height to keep free
    for (x, y, number), spot, (_, accuracy, _, red) in zip(shown, in_axes, points, strict=True):
        color = "tab:red" if red else "tab:blue"
        axes.plot(x, y, "o" if accuracy == y else "v", markersize=4, color=color)
        label = next(
            (u, v)
            for u, v in _around(spot)
            if all(abs(u - c[0]) >= width or abs(v - c[1]) >= height for c, width, height in taken)
        )
        taken.append((label, 0.034, 0.022))
        line = {"arrowstyle": "-", "linewidth": 0.4, "color": "gray", "shrinkA": 0, "shrinkB": 2}
        style: dict[str, Any] = {"fontsize": 7, "va": "center", "ha": "center", "color": color}
        text = axes.annotate(str(number), (x, y), label, "data", "axes fraction", line, **style)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.4})


def _around(spot: tuple[float, float]) -> list[tuple[float, float]]:
    """Return places for a number inside of the axes, the nearest to a point first.

    Args:
        spot: The point, in shares of the axes.
    """
    steps = [(0.012 * i, 0.0125 * j) for i in range(-20, 21) for j in range(-20, 21)]
    steps.sort(key=lambda step: math.hypot(*step))
    moved = [(spot[0] + step[0], spot[1] + step[1]) for step in steps]
    return [(u, v) for u, v in moved if 0.02 < u < 0.98 and 0.02 < v < 0.98]


def _finished(rows: Sequence[Row], setting: str, name: str) -> Iterator[Row]:
    for row in rows:
        if (row["setting"], row["method"]) == (setting, name) and "failed" not in row:
            yield row


def _failures(rows: Sequence[Row], setting: str, name: str) -> list[str]:
    return [row["failed"] for row in rows if (row["setting"], row["method"]) == (setting, name) and "failed" in row]


def _mean(rows: Sequence[Row], key: str = "accuracy") -> float:
    return statistics.fmean(row[key] for row in rows)


def _accuracy(rows: Sequence[Row], setting: str, name: str, key: str = "accuracy") -> str:
    """Return mean and standard deviation over the seeds, or that the method was refused or diverged.

    Args:
        rows: The results.
        setting: The setting.
        name: The method's title.
        key: Which accuracy of a row.
    """
    runs, reasons = list(_finished(rows, setting, name)), _failures(rows, setting, name)
    if reasons:
        count = f" in {len(reasons)} of {len(reasons) + len(runs)}" if runs else ""
        return f"diverged{count}" if "is not finite" in reasons[0] else "refused"
    if not runs:
        return "-"
    spread = f" ± {statistics.stdev(row[key] for row in runs):.1f}" if len(runs) > 1 else ""
    return f"{_mean(runs, key):.1f}{spread}"


def _bytes(rows: Sequence[Row], setting: str, name: str) -> str:
    if _failures(rows, setting, name):
        return "-"
    runs = list(_finished(rows, setting, name))
    return f"{statistics.fmean(row['up'] + row['down'] for row in runs):.1f}" if runs else "-"
