"""One experiment at every combination of some values: a grid over any keys, with seeds, in ordinary run folders.

Runs that finished before are reused, and an interrupted sweep continues where it stopped, because a run folder is named
by its settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fedlama.analysis.front import Outcome, Point, points
from fedlama.analysis.statistics import Interval, interval
from fedlama.analysis.study import Execution
from fedlama.analysis.timing import bytes_until
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import measure_of
from fedlama.core.rows import Rows
from fedlama.errors import ConfigError, FedlamaError, printable, shown, write_remedy
from fedlama.experiment.files import key_parts, load_experiment, value_of
from fedlama.experiment.methods import split
from fedlama.experiment.sections import SECTIONS
from fedlama.experiment.settings import Experiment
from fedlama.runs.checkpoint import write_atomically
from fedlama.runs.divergence import Divergence
from fedlama.runs.execute import Finished, Observer, PlannedRun, RunOptions, attempt_planned, plan_runs
from fedlama.runs.lock import FolderLock

VERSION = 1
"""Version of the schema of ``sweep.json``."""
_LARGEST = 10_000
"""Combinations of a sweep, at most: more is a mistake in a list of values."""
_PROBLEM = ("data", "partition", "task")
"""Sections that decide the problem."""
_NOT_SWEPT = {
    "seed": "use --seeds (seeds= in Python), over which means are taken",
    "name": "it names the folder of all runs",
}


@dataclass(frozen=True)
class Axis:
    """One key of a sweep.

    Attributes:
        key: The key, such as ``"solver.learning_rate"``.
        values: Its values, as they are written in an override.
    """

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One combination of values.

    Attributes:
        values: Value by key, as written.
        runs: The finished runs by seed.
        diverged: The runs that diverged, by seed.
        on_front: Whether no other combination has both fewer bytes and a lower test loss.
    """

    values: Mapping[str, str]
    runs: Mapping[int, Finished]
    diverged: Mapping[int, Divergence]
    on_front: bool = False

    @property
    def title(self) -> str:
        """The values by key, such as ``solver.learning_rate=0.1 partition.alpha=1``."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())

    @property
    def metric(self) -> Interval | None:
        """The primary metric of the last evaluation, in the unit in which it is shown; None without one."""
        scores = [run.result.score for run in self.runs.values()]
        return _interval([score.measure.shown(score.value) for score in scores if score is not None])

    @property
    def loss(self) -> Interval | None:
        """The test loss of the last evaluation; None without one."""
        return _interval([run.result.score.loss for run in self.runs.values() if run.result.score is not None])

    @property
    def megabytes(self) -> Interval | None:
        """MB (10^6 bytes) up and down of all clients; None where every seed diverged."""
        return _interval([_bytes(run) / MEGABYTE for run in self.runs.values()])

    @property
    def seconds(self) -> Interval | None:
        """Seconds of training and evaluation; None where every seed diverged."""
        return _interval([run.result.seconds for run in self.runs.values()])

    def to_json(self) -> dict[str, object]:
        """Return plain JSON types."""
        values = {"metric": self.metric, "loss": self.loss, "megabytes": self.megabytes, "seconds": self.seconds}
        return {
            "values": dict(self.values),
            **{name: value.to_json() if value else None for name, value in values.items()},
            "seeds_that_diverged": sorted(self.diverged),
            "on_front": self.on_front,
            "runs": [run.to_json() for run in self.runs.values()],
        }


@dataclass(frozen=True, repr=False)
class Sweep:
    """A finished sweep.

    Attributes:
        axes: The keys and their values.
        seeds: The seeds.
        cells: Every combination, the last key first to change.
        measure: The primary metric; None when nothing was evaluated.
        same_problem: Whether all combinations learn the same from the same data.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    measure: Measure | None
    same_problem: bool = True

    @property
    def points(self) -> list[Point]:
        """The combinations in the plane of bytes and test loss, see :mod:`fedlama.analysis.front`.

        None where what is learnt from which data differs: losses of different problems are not compared.
        """
        return points({cell.title: _outcomes(cell) for cell in self.cells}) if self.same_problem else []

    @property
    def table(self) -> Rows:
        """One row per combination: its values, means over the seeds, and the ends of their 95 % intervals.

        The ends are None for one seed.
        """
        return Rows(_row(cell, self.measure) for cell in self.cells)

    @property
    def best(self) -> Cell | None:
        """The combination with the best mean of the primary metric; None when nothing was evaluated."""
        rated = [cell for cell in self.cells if cell.metric is not None]
        if not rated or self.measure is None:
            return None
        sign = 1 if self.measure.direction == "higher" else -1
        return max(rated, key=lambda cell: sign * (cell.metric.mean if cell.metric else 0.0))

    def __repr__(self) -> str:
        """Return the keys, the number of runs and the best combination: the runs themselves are long."""
        keys = ", ".join(axis.key for axis in self.axes)
        best = "" if self.best is None else f"; best: {self.best.title}"
        return f"Sweep({len(self.cells)} combinations of {keys}, {len(self.seeds)} seeds{best})"

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        return self.table._repr_html_()

    def to_json(self) -> dict[str, object]:
        """Return the content of ``sweep.json``, which `run --sweep --json` prints as well."""
        return {
            "version": VERSION,
            "axes": {axis.key: list(axis.values) for axis in self.axes},
            "seeds": list(self.seeds),
            "primary": self.measure.name if self.measure else None,
            "direction": self.measure.direction if self.measure else None,
            "cells": [cell.to_json() for cell in self.cells],
        }


@dataclass(frozen=True)
class SweepPlan:
    """What to sweep.

    Attributes:
        experiment: The experiment, as :func:`fedlama.load_experiment` takes it.
        overrides: Overrides that all combinations share.
        axes: The keys and their values.
        seeds: The seeds; none stands for the experiment's own.
        plugins: Files or modules with options of the user's own.
    """

    experiment: str
    overrides: tuple[str, ...]
    axes: tuple[Axis, ...]
    seeds: tuple[int, ...] = ()
    plugins: tuple[str, ...] = ()


def parse_axes(texts: Sequence[str]) -> tuple[Axis, ...]:
    """Read axes as the command line writes them.

    Args:
        texts: Each ``KEY=V1,V2``; commas in brackets and quotes belong to a value.

    Raises:
        ConfigError: One is malformed, a key is given twice, or a value.

    >>> parse_axes(["solver.learning_rate=0.1,0.2", "model.hidden=[64, 32],[128]"])[1]
    Axis(key='model.hidden', values=('[64, 32]', '[128]'))
    """
    axes: list[Axis] = []
    problems: list[str] = []
    for text in texts:
        key, equals, values = text.partition("=")
        axis = Axis(key.strip(), tuple(split(values, ",")))
        if not equals or not axis.key or not axis.values:
            problems.append(
                f"--sweep is {shown(text)}, expected KEY=V1,V2, such as solver.learning_rate=0.05,0.1; change it"
            )
        else:
            axes.append(axis)
    return check_axes(axes, problems)


def check_axes(axes: Sequence[Axis], problems: Sequence[str] = ()) -> tuple[Axis, ...]:
    """Return the axes, unless a key cannot be swept, or a key or a value is given twice.

    Args:
        axes: The axes.
        problems: What is already known to be wrong.

    Raises:
        ConfigError: With all problems.
    """
    refused = list(problems)
    for index, axis in enumerate(axes):
        written = shown(f"{axis.key}={','.join(axis.values)}")
        if axis.key in _NOT_SWEPT:
            refused.append(f"the sweep has {written}, but {axis.key} cannot be swept; {_NOT_SWEPT[axis.key]}")
        elif len({repr(value_of(value)) for value in axis.values}) < len(axis.values):
            refused.append(f"the sweep has {written}, expected each value once; remove one")
        elif _spelt(axis.key) in [_spelt(other.key) for other in axes[:index]]:
            refused.append(f"the sweep names {axis.key} twice; give all its values in one list")
    if refused:
        raise ConfigError(refused)
    return tuple(axes)


def _spelt(key: str) -> str:
    """Return a key as files write it: a section alone stands for its name."""
    parts = key_parts(key)
    return ".".join([*parts, "name"] if len(parts) == 1 and parts[0] in SECTIONS else parts)


def run_sweep(plan: SweepPlan, options: RunOptions | None = None, observer: Observer | None = None) -> Sweep:
    """Train an experiment at every combination of values and under every seed.

    Args:
        plan: The experiment, the keys and their values, the seeds.
        options: How to run; by default the defaults of :class:`fedlama.RunOptions`.
        observer: Watches the runs; by default nothing does.

    Returns:
        The sweep. It is also written to ``sweep.json`` beside the run folders.

    Raises:
        ConfigError: Combinations that cannot run; the problems of all of them, before anything is trained.
        DivergenceError: Every run diverged; if only some do, their seeds are left out of their means.
        FedlamaError: ``sweep.json`` cannot be written, or another process writes to the folder.

    Example:
        >>> axis = Axis("solver.learning_rate", ("0.05", "0.1"))
        >>> plan = SweepPlan("digits", ("local_steps=12", "partition.clients=4"), (axis,))
        >>> [cell.title for cell in run_sweep(plan).cells]  # doctest: +SKIP
        ['solver.learning_rate=0.05', 'solver.learning_rate=0.1']
    """
    options = options or RunOptions()
    experiments = _experiments(plan)
    first = next(iter(experiments.values()))

    def planned(values: tuple[str, ...], seed: int) -> PlannedRun:
        experiment = experiments[values]
        seeded = replace(experiment, settings=replace(experiment.settings, seed=seed))
        (run,) = plan_runs(seeded, [experiment.strategy], options.out)
        return run

    same_problem = not any(axis.key.partition(".")[0] in _PROBLEM for axis in plan.axes)
    grid = Grid(plan.axes, plan.seeds or (first.settings.seed,), same_problem)
    return run_grid(grid, planned, options.out / first.settings.name, Execution(options, observer))


@dataclass(frozen=True)
class Grid:
    """The combinations of a sweep.

    Attributes:
        axes: The keys and their values.
        seeds: The seeds.
        same_problem: Whether all combinations learn the same from the same data.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    same_problem: bool = True

    @property
    def combinations(self) -> list[tuple[str, ...]]:
        """The values of every combination, the last key first to change.

        Raises:
            ConfigError: They are too many.
        """
        count = math.prod(len(axis.values) for axis in self.axes)
        if count > _LARGEST:
            raise ConfigError(f"the sweep has {count} combinations, expected {_LARGEST} or fewer; give fewer values")
        return list(product(*(axis.values for axis in self.axes)))


def run_grid(
    grid: Grid, planned: Callable[[tuple[str, ...], int], PlannedRun], folder: Path, execution: Execution
) -> Sweep:
    """Train every combination under every seed: of an experiment, or of federations that are built in Python.

    Args:
        grid: The combinations and the seeds.
        planned: Plans the run of a combination under a seed.
        folder: Folder of the run folders, which gets ``sweep.json``.
        execution: How the runs are executed.

    Returns:
        The sweep, which is also written.

    Raises:
        FedlamaError: As for :func:`run_sweep`.
    """
    cells, keys = [], [axis.key for axis in grid.axes]
    with FolderLock(folder):
        for values in grid.combinations:
            runs = [planned(values, seed) for seed in grid.seeds]
            tried = dict(zip(grid.seeds, attempt_planned(runs, execution.options, execution.observer), strict=True))
            finished = {seed: attempt.finished for seed, attempt in tried.items() if attempt.finished is not None}
            diverged = {seed: attempt.divergence for seed, attempt in tried.items() if attempt.divergence is not None}
            cells.append(Cell(dict(zip(keys, values, strict=True)), finished, diverged))
        if not any(cell.runs for cell in cells):
            raise next(each.error for cell in cells for each in cell.diverged.values())
        sweep = _summarise(grid, cells)
        _write(sweep, folder)
    return sweep


def _experiments(plan: SweepPlan) -> dict[tuple[str, ...], Experiment]:
    """Return the experiment of every combination.

    Raises:
        ConfigError: With the problems of all combinations.
    """
    experiments, problems = {}, []
    for values in Grid(plan.axes, plan.seeds).combinations:
        changes = [f"{axis.key}={value}" for axis, value in zip(plan.axes, values, strict=True)]
        try:
            experiments[values] = load_experiment(plan.experiment, [*plan.overrides, *changes], plan.plugins)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return experiments


def _row(cell: Cell, measure: Measure | None) -> dict[str, object]:
    """Return a combination as a row; an accuracy is in percent."""
    metric = {} if measure is None or measure.name == "loss" else {measure.label: cell.metric}
    row: dict[str, object] = {key: value_of(text) for key, text in cell.values.items()}
    for name, value in {**metric, "loss": cell.loss, "MB": cell.megabytes, "seconds": cell.seconds}.items():
        ends = (value.mean, value.low, value.high) if value else (None, None, None)
        row |= dict(zip((name, f"{name} low", f"{name} high"), ends, strict=True))
    return {**row, "seeds": len(cell.runs), "diverged": len(cell.diverged), "on_front": cell.on_front}


def _summarise(grid: Grid, cells: Sequence[Cell]) -> Sweep:
    measure = measure_of(record for cell in cells for run in cell.runs.values() for record in run.result.rounds)
    sweep = Sweep(grid.axes, grid.seeds, tuple(cells), measure, grid.same_problem)
    front = {point.title for point in sweep.points if point.on_front}
    return replace(sweep, cells=tuple(replace(cell, on_front=cell.title in front) for cell in cells))


def _write(sweep: Sweep, folder: Path) -> None:
    path = folder / "sweep.json"
    try:
        write_atomically(path, (json.dumps(sweep.to_json(), indent=2) + "\n").encode())
    except OSError as error:
        raise FedlamaError(f"{printable(path)} cannot be written ({error.strerror}); {write_remedy(error)}") from error


def _outcomes(cell: Cell) -> dict[int, Outcome]:
    return {
        seed: Outcome(_bytes(run), run.result.score.loss)
        for seed, run in cell.runs.items()
        if run.result.score is not None
    }


def _bytes(run: Finished) -> int:
    return bytes_until(run.result.rounds, len(run.result.rounds))


def _interval(values: Sequence[float]) -> Interval | None:
    return interval(values) if values else None
