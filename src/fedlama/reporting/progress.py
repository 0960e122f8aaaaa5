"""Live progress on the terminal (standard error): rounds, loss, primary metric, MB and time left."""

from __future__ import annotations

from contextlib import suppress

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fedlama.core.ledger import MEGABYTE
from fedlama.core.records import RoundRecord, Score


class LiveProgress:
    """Progress bars for one or several runs, drawn between `start` and `stop`.

    Args:
        quiet: Show nothing. Nothing is shown either when standard error is not a terminal.
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

    def start(self) -> None:
        """Start drawing."""
        self._progress.start()

    def stop(self) -> None:
        """Stop drawing; the bars stay on the screen as they are."""
        with suppress(OSError):  # the terminal may have been closed
            self._progress.stop()

    def track(self, title: str, rounds: int) -> RunProgress:
        """Return the callback of one run, with a bar of its own.

        Args:
            title: The text before the bar.
            rounds: Number of rounds of the run.
        """
        task = self._progress.add_task(title, total=rounds, loss="-", metric="", megabytes="0.0")
        return RunProgress(self._progress, task)


class RunProgress:
    """The callback of one run.

    Args:
        progress: The display.
        task: The run's bar in it.
    """

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._bytes = 0

    def on_round(self, record: RoundRecord) -> None:
        """Advance the bar by one round."""
        self._bytes += record.bytes_up + record.bytes_down
        self._progress.update(
            self._task, advance=1, loss=f"{record.loss:.3f}", megabytes=f"{self._bytes / MEGABYTE:.1f}"
        )
        if record.score:
            self._progress.update(self._task, metric=f"{_shown(record.score)}  ")


def _shown(score: Score) -> str:
    """Return the primary metric with its value, such as ``acc 91.20%``."""
    measure = score.measure
    text = measure.text(score.value)
    name = "test loss" if measure.name == "loss" else measure.name
    return f"acc {text}%" if measure.is_percent else f"{name} {text}"
