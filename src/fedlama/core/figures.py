"""Figures of one run for notebooks and scripts: the metric over what was sent, and the bytes of each layer.

Reports and the pictures in run folders are drawn by :mod:`fedlama.reporting`, over several runs. A figure is drawn
without pyplot, so nothing stays open, and shows itself in a notebook.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from fedlama.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Axis = Literal["steps", "rounds", "megabytes"]
AXES: Mapping[str, str] = {"steps": "local steps per client", "rounds": "rounds", "megabytes": "MB up and down"}
"""What a curve can be drawn over, with the label of the axis."""
COLOURS = ("#0060a8", "#b84500", "#00704f", "#9c3f7c", "#7a5c00", "#4b4b9f", "#1a1a1a", "#a02020")
"""The colours of methods, in every picture and report; all have a contrast of 4.5 to 1 on white."""
PARTS = ("#33475b", "#7d91a6", "#c9d2dc")
"""The colours of parts, such as bytes up and down, where no method is meant."""
_MOST = 40
"""Layers that are drawn one by one; the smallest of more are drawn together."""


def method_colours(titles: Iterable[str]) -> dict[str, str]:
    """Return the colour of each method, in the order in which methods are compared; after the eighth they repeat.

    Args:
        titles: All methods that are shown together.

    >>> method_colours(["FedAvg(6)", "FedLAMA(6, 4)"])
    {'FedAvg(6)': '#0060a8', 'FedLAMA(6, 4)': '#b84500'}
    """
    return {title: COLOURS[index % len(COLOURS)] for index, title in enumerate(dict.fromkeys(titles))}


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that notebooks show as a PNG.

    Args:
        width: In inches.
        height: In inches.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class Shown(Figure):
        """A figure that a notebook shows without pyplot."""

        def _repr_png_(self) -> bytes:
            content = io.BytesIO()
            self.savefig(content, format="png", dpi=110)
            return content.getvalue()

    figure = Shown(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def check_axis(over: str) -> None:
    """Refuse an axis that a curve cannot be drawn over.

    Args:
        over: The name that was given.

    Raises:
        ConfigError: It is none of :data:`AXES`.
    """
    if over not in AXES:
        raise ConfigError(f"over is {over!r}{did_you_mean(over, AXES)}")


def curve_figure(x: Sequence[float], y: Sequence[float], labels: tuple[str, str], title: str) -> Figure:
    """Return a figure of one curve with a mark at each evaluation.

    Args:
        x: Positions.
        y: Values.
        labels: Of the two axes.
        title: The title.
    """
    from fedlama.core.ticks import set_ends

    figure = new_figure(6.4, 3.8)
    axes: Any = figure.add_subplot()
    axes.plot(x, y, color=COLOURS[0], marker="o", markersize=4, linewidth=1.5, clip_on=False, zorder=3)
    values = [value for value in y if math.isfinite(value)]
    if values:
        set_ends(axes, "x", (0.0, max(x)))
        set_ends(axes, "y", (min(values), max(values)))
        axes.annotate(  # to the right of the last mark, where no line is
            f"{y[-1]:.4g}",
            (x[-1], y[-1]),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title("\n".join(textwrap.fill(line, 80) for line in title.splitlines()), fontsize=10)
    axes.grid(alpha=0.3)
    return figure


def byte_figure(rows: Iterable[Mapping[str, Any]], megabyte: int) -> Figure:
    """Return a figure of the MB of each layer up and down, all clients and rounds together.

    Args:
        rows: Of a ledger's table; what was sent for an evaluation alone is not drawn.
        megabyte: Bytes of a MB.
    """
    sent: dict[str, list[float]] = {}
    for row in rows:
        if row["direction"] in ("up", "down"):
            sent.setdefault(row["layer"], [0.0, 0.0])[row["direction"] == "down"] += row["bytes"] / megabyte
    names = list(sent)
    if len(names) > _MOST:
        kept = set(sorted(names, key=lambda name: -sum(sent[name]))[: _MOST - 1])
        rest = [sent[name] for name in names if name not in kept]
        sent = {name: sent[name] for name in names if name in kept}
        sent[f"({len(rest)} smaller ones)"] = [sum(both) for both in zip(*rest, strict=True)]
        names = list(sent)
    from fedlama.core.ticks import set_ends

    figure = new_figure(6.4, 1.4 + 0.24 * max(len(names), 3))
    axes: Any = figure.add_subplot()
    ups, downs = ([sent[name][way] for name in names] for way in (0, 1))
    axes.barh(names, ups, color=PARTS[0], label=f"up: {sum(ups):.4g} MB")
    axes.barh(names, downs, left=ups, color=PARTS[1], label=f"down: {sum(downs):.4g} MB")
    if names:
        set_ends(axes, "x", (0.0, max(map(sum, sent.values()))))
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("MB of all clients together, headers and scalars included")
    axes.legend(fontsize=9)
    axes.grid(alpha=0.3, axis="x")
    return figure
