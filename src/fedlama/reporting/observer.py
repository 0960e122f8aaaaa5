"""What watches runs that are not silent: progress bars on the terminal, trackers, and pictures in the run folders.

:mod:`fedlama.runs` and :mod:`fedlama.analysis` train without knowing any of these; the command line, `fedlama.run` and
`fedlama.compare` hand this observer in. For an experiment, from Python::

    with RunReporter(options) as reporter:
        study = run_study(experiment, options=options, observer=reporter)
    draw_study(study, options.out / experiment.settings.name)
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from fedlama.analysis.study import Study
from fedlama.core.figures import method_colours
from fedlama.core.records import Result
from fedlama.errors import FedlamaError, printable
from fedlama.federation.callbacks import RoundCallback
from fedlama.reporting.charts import Target, interval_chart, metric_chart_names, metric_charts
from fedlama.reporting.files import picture_files
from fedlama.reporting.front_chart import front_chart
from fedlama.reporting.progress import LiveProgress, RunProgress
from fedlama.reporting.tracking import Tracker, trackers
from fedlama.runs.execute import Observer, PlannedRun, RunOptions
from fedlama.runs.lock import FolderLock, is_locked

INTERVALS = "intervals.png"
FRONT = "front.png"


class RunReporter(Observer):
    """Shows progress, feeds the trackers and draws each run's pictures; use it as a context manager.

    Args:
        options: `quiet` and `track` are used.
        callbacks: Called after each round of every run, too.
    """

    def __init__(self, options: RunOptions, callbacks: Iterable[RoundCallback] = ()) -> None:
        self._options, self._callbacks = options, tuple(callbacks)
        self._display: LiveProgress | None = None
        self._bars: dict[Path, RunProgress] = {}
        self._trackers: dict[Path, list[Tracker]] = {}
        self._colours: dict[Path, str] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing."""
        self._stop()

    def expect(self, runs: Sequence[PlannedRun]) -> None:
        """Make the trackers, which refuses unknown and missing ones, and one progress bar per run.

        Raises:
            ConfigError: An unknown tracker.
            MissingExtraError: A tracker's library is not installed.
        """
        self._trackers = {run.folder: self._make_trackers(run) for run in runs}
        self._stop()  # the bars of an earlier batch (another seed) stay on the screen
        self._display = LiveProgress(quiet=self._options.quiet)
        self._display.start()
        colours = method_colours(str(index) for index in range(len(runs)))  # a title may be that of two settings
        self._colours = {run.folder: colour for run, colour in zip(runs, colours.values(), strict=True)}
        self._bars = {run.folder: self._display.track(run.title, run.federation.budget.rounds) for run in runs}

    @contextmanager
    def watch(self, run: PlannedRun) -> Iterator[Sequence[RoundCallback]]:
        """Yield the run's progress bar and trackers."""
        with ExitStack() as stack:
            opened = [stack.enter_context(tracker) for tracker in self._trackers.get(run.folder, [])]
            bars = [self._bars[run.folder]] if run.folder in self._bars else []
            yield [*bars, *opened, *self._callbacks]

    def on_reused(self, run: PlannedRun, result: Result) -> None:
        """Fill the progress bar, and draw pictures that are missing because the run was killed before they were drawn.

        Trackers have seen the run when it was trained.
        """
        for record in result.rounds:
            self._bars[run.folder].on_round(record)
        files = [file for name in picture_names(result) for file in picture_files(run.folder / name)]
        missing = not all(file.exists() for file in files)
        if missing and not is_locked(run.folder):  # the process that trained it may be drawing just now
            try:
                with FolderLock(run.folder):
                    draw_run(run.title, result, run.folder, self._colours.get(run.folder))
            except (FedlamaError, OSError) as error:
                self.note(f"its pictures are not drawn: {error}")

    def on_finished(self, run: PlannedRun, result: Result) -> None:
        """Draw the run's pictures."""
        draw_run(run.title, result, run.folder, self._colours.get(run.folder))

    def note(self, sentence: str) -> None:
        """Print the sentence on standard error."""
        with suppress(OSError):  # the terminal may have been closed
            print(f"note: {printable(sentence)}", file=sys.stderr)

    def _make_trackers(self, run: PlannedRun) -> list[Tracker]:
        return trackers(self._options.track, run.folder, run.project, run.folder.name, run.config)

    def _stop(self) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None


def draw_run(title: str, result: Result, folder: Path, colour: str | None = None) -> list[Path]:
    """Draw a finished run's pictures: the primary metric, and the layers' intervals over time.

    Args:
        title: The method, as the legend shows it.
        result: The run.
        folder: The run folder.
        colour: The method's colour; that of the first method of a comparison by default.

    Returns:
        The PNG files; an SVG and a PDF are beside each.
    """
    pictures = metric_charts({title: [result]}, folder, colours=None if colour is None else {title: colour})
    return [*pictures, interval_chart(title, result, folder / INTERVALS)] if result.rounds[0].layers else pictures


def picture_names(result: Result) -> list[str]:
    """Return the PNG files that :func:`draw_run` writes.

    Args:
        result: The run.
    """
    return [*metric_chart_names([result]), *([INTERVALS] if result.rounds[0].layers else [])]


def draw_study(study: Study, folder: Path) -> list[Path]:
    """Draw the primary metric of all methods of a study, and their test loss against MB with the front.

    Args:
        study: A finished study.
        folder: The folder of its ``comparison.json``.

    Returns:
        The PNG files; an SVG and a PDF are beside each.
    """
    results = {method.title: [run.result for run in method.runs.values()] for method in study.methods if method.runs}
    colours = method_colours(method.title for method in study.methods)
    sent = {method.title: method.to_target.mean for method in study.methods if method.to_target is not None}
    target = None if study.target is None or not sent else Target(study.target, sent)
    points = study.points
    return [
        *metric_charts(results, folder, colours=colours, target=target),
        *([front_chart(points, folder / FRONT, colours)] if len(points) > 1 else []),
    ]
