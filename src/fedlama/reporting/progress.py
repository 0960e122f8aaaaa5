"""Live progress on the terminal (standard error) or in a notebook: rounds, loss, primary metric, MB and time left."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from html import escape
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedlama.core.ledger import MEGABYTE
from fedlama.core.records import RoundRecord, Score

_SECONDS = 0.2
"""Least time between two drawings in a notebook."""


class LiveProgress:
    """Progress bars for one or several runs, drawn between `start` and `stop`.

    Args:
        quiet: Show nothing. Nothing is shown either when standard error is not a terminal, outside of a notebook.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[metric]}{task.fields[megabytes]} MB"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._notebook = None if quiet else Notebook.current(self._progress)

    def start(self) -> None:
        """Start drawing."""
        self._progress.start()

    def stop(self) -> None:
        """Stop drawing; the bars stay on the screen as they are."""
        with suppress(OSError):  # the terminal may have been closed
            self._progress.stop()
        if self._notebook is not None:
            self._notebook.draw(force=True)

    def track(self, title: str, rounds: int) -> RunProgress:
        """Return the callback of one run, with a bar of its own.

        Args:
            title: The text before the bar.
            rounds: Number of rounds of the run.
        """
        task = self._progress.add_task(title, total=rounds, loss="-", metric="", megabytes="0.0")
        return RunProgress(self._progress, task, self._notebook)


class RunProgress:
    """The callback of one run.

    Args:
        progress: The display.
        task: The run's bar in it.
        notebook: Draws the bars in a notebook; None outside of one.
    """

    def __init__(self, progress: Progress, task: TaskID, notebook: Notebook | None = None) -> None:
        self._progress, self._task, self._notebook = progress, task, notebook
        self._bytes = 0

    def on_round(self, record: RoundRecord) -> None:
        """Advance the bar by one round."""
        self._bytes += record.bytes_up + record.bytes_down
        self._progress.update(
            self._task, advance=1, loss=f"{record.loss:.3f}", megabytes=f"{self._bytes / MEGABYTE:.1f}"
        )
        if record.score:
            self._progress.update(self._task, metric=f"{_shown(record.score)}  ")
        if self._notebook is not None:
            self._notebook.draw()


class Notebook:
    """Draws progress bars below a notebook's cell, where a terminal's codes would be shown as text.

    Args:
        progress: The bars.
        display: IPython's ``display``, whose handle can be updated.
        html: IPython's ``HTML``.
    """

    def __init__(self, progress: Progress, display: Callable[..., Any], html: Callable[[str], Any]) -> None:
        self._progress, self._html = progress, html
        self._display = display
        self._handle: Any = None
        self._drawn = -math.inf

    @classmethod
    def current(cls, progress: Progress) -> Notebook | None:
        """Return what draws in the notebook that runs this; None outside of one.

        Args:
            progress: The bars.
        """
        ipython = sys.modules.get("IPython")  # a notebook's kernel has imported it
        shell = None if ipython is None else ipython.get_ipython()
        if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
            return None
        output = import_module("IPython.display")
        return cls(progress, output.display, output.HTML)

    def draw(self, *, force: bool = False) -> None:
        """Draw the bars as they are now, unless they were drawn a moment ago.

        Args:
            force: Draw them in any case.
        """
        now = time.monotonic()
        if not force and now - self._drawn < _SECONDS:
            return
        self._drawn = now
        table = self._html(f"<table>{''.join(map(_row, self._progress.tasks))}</table>")
        if self._handle is None:
            self._handle = self._display(table, display_id=True)
        else:
            self._handle.update(table)


def _row(task: Task) -> str:
    """Return one bar as a row of a table."""
    words = f"loss {task.fields['loss']}  {task.fields['metric']}{task.fields['megabytes']} MB"
    bar = f"<progress max='{task.total or 1:.0f}' value='{task.completed:.0f}'></progress>"
    counted = f"{task.completed:.0f}/{task.total or 0:.0f}"
    return f"<tr><td>{escape(task.description)}</td><td>{bar}</td><td>{counted}</td><td>{escape(words)}</td></tr>"


def _shown(score: Score) -> str:
    """Return the primary metric with its value, such as ``acc 91.20%``."""
    measure = score.measure
    text = measure.text(score.value)
    name = "test loss" if measure.name == "loss" else measure.name
    return f"acc {text}%" if measure.is_percent else f"{name} {text}"
