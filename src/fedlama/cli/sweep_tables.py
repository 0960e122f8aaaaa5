"""The table of `fedlama run --sweep`: one row per combination of values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.analysis.statistics import Interval
from fedlama.analysis.sweep import Cell, Sweep


def sweep_table(sweep: Sweep, pictures: Sequence[Path]) -> list[Table | str]:
    """Return the table of a sweep, and where its pictures are.

    Args:
        sweep: A finished sweep.
        pictures: The pictures that were drawn.
    """
    seeds = f"means over {len(sweep.seeds)} seeds with 95 % intervals; " if len(sweep.seeds) > 1 else ""
    front = "*: on the front of loss and bytes" if sweep.points else "no front, since the combinations differ in data"
    title = f"{seeds}MB are 10^6 bytes, up and down; {front}"
    keys = [Column(axis.key, overflow="fold") for axis in sweep.axes]
    marks = [_mark(cell, len(sweep.seeds)) for cell in sweep.cells]
    table = Table(*keys, box=SIMPLE_HEAD, title=title)
    digits = 2 if sweep.measure is None or sweep.measure.is_percent else 4
    primary = [] if sweep.measure is None or sweep.measure.name == "loss" else [sweep.measure.short]
    for heading in (*primary, "loss", "MB", "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", justify="right", min_width=max(map(len, marks)))  # the keys take more lines, not the marks
    for cell, mark in zip(sweep.cells, marks, strict=True):
        values = [*([(cell.metric, digits)] if primary else []), (cell.loss, 4), (cell.megabytes, 2), (cell.seconds, 1)]
        table.add_row(*cell.values.values(), *(_shown(value, places) for value, places in values), mark)
    best = sweep.best
    reused = sum(run.reused for cell in sweep.cells for run in cell.runs.values())
    total = sum(len(cell.runs) for cell in sweep.cells)
    return [
        table,
        *([f"best {sweep.measure.name}: {best.title}"] if best is not None and sweep.measure is not None else []),
        *([f"{reused} of {total} runs had already finished and were reused; --again retrains them"] if reused else []),
        *(f"picture: {path}" for path in pictures),
    ]


def _mark(cell: Cell, seeds: int) -> str:
    """Return whether a combination is on the front, and how many of its seeds diverged."""
    lost = [f"{len(cell.diverged)} of {seeds} diverged"] if cell.diverged else []
    return " ".join([*(["*"] if cell.on_front else []), *lost])


def _shown(value: Interval | None, digits: int) -> str:
    """Return a value, with its interval on a second line unless that has no width."""
    if value is None:
        return "-"
    mean = f"{value.mean:.{digits}f}"
    has_width = value.half is not None and value.half > 1e-9 * abs(value.mean)  # not by rounding alone
    return f"{mean}\n±{value.half:.{digits}f}" if has_width else mean
