"""One experiment at every combination of some values: a grid over any keys, with seeds, in ordinary run folders.

Runs that finished before are reused, and an interrupted sweep continues where it stopped, because a run folder is named
by its settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from fedlama.analysis.front import Outcome, Point, points
from fedlama.analysis.statistics import Interval, interval
from fedlama.analysis.timing import bytes_until
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import measure_of
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
_NOT_SWEPT = {"seed": "use --seeds, over which means are taken", "name": "it names the folder of all runs"}


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


@dataclass(frozen=True)
class Sweep:
    """A finished sweep.

    Attributes:
        axes: The keys and their values.
        seeds: The seeds.
        cells: Every combination, the last key first to change.
        measure: The primary metric; None when nothing was evaluated.
    """

    axes: tuple[Axis, ...]
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    measure: Measure | None

    @property
    def points(self) -> list[Point]:
        """The combinations in the plane of bytes and test loss, see :mod:`fedlama.analysis.front`.

        None where a key changes what is learnt from which data: losses of different problems are not compared.
        """
        if any(axis.key.partition(".")[0] in _PROBLEM for axis in self.axes):
            return []
        return points({cell.title: _outcomes(cell) for cell in self.cells})

    @property
    def best(self) -> Cell | None:
        """The combination with the best mean of the primary metric; None when nothing was evaluated."""
        rated = [cell for cell in self.cells if cell.metric is not None]
        if not rated or self.measure is None:
            return None
        sign = 1 if self.measure.direction == "higher" else -1
        return max(rated, key=lambda cell: sign * (cell.metric.mean if cell.metric else 0.0))

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
        elif axis.key in _NOT_SWEPT:
            problems.append(f"--sweep is {shown(text)}, but {axis.key} cannot be swept; {_NOT_SWEPT[axis.key]}")
        elif len({repr(value_of(value)) for value in axis.values}) < len(axis.values):
            problems.append(f"--sweep is {shown(text)}, expected each value once; remove one")
        elif _spelt(axis.key) in [_spelt(other.key) for other in axes]:
            problems.append(f"--sweep names {axis.key} twice; give all its values in one option")
        axes.append(axis)
    if problems:
        raise ConfigError(problems)
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
    seeds = plan.seeds or (first.settings.seed,)
    folder = options.out / first.settings.name
    cells = []
    with FolderLock(folder):
        for values, experiment in experiments.items():
            runs: list[PlannedRun] = []
            for seed in seeds:
                seeded = replace(experiment, settings=replace(experiment.settings, seed=seed))
                runs += plan_runs(seeded, [experiment.strategy], options.out)
            tried = attempt_planned(runs, options, observer)
            finished = {
                seed: attempt.finished
                for seed, attempt in zip(seeds, tried, strict=True)
                if attempt.finished is not None
            }
            diverged = {
                seed: attempt.divergence
                for seed, attempt in zip(seeds, tried, strict=True)
                if attempt.divergence is not None
            }
            cells.append(Cell(dict(zip([axis.key for axis in plan.axes], values, strict=True)), finished, diverged))
        if not any(cell.runs for cell in cells):
            raise next(each.error for cell in cells for each in cell.diverged.values())
        sweep = _summarise(plan.axes, seeds, cells)
        _write(sweep, folder)
    return sweep


def _experiments(plan: SweepPlan) -> dict[tuple[str, ...], Experiment]:
    """Return the experiment of every combination.

    Raises:
        ConfigError: With the problems of all combinations.
    """
    count = 1
    for axis in plan.axes:
        count *= len(axis.values)
    if count > _LARGEST:
        raise ConfigError(f"the sweep has {count} combinations, expected {_LARGEST} or fewer; give fewer values")
    experiments, problems = {}, []
    for values in product(*(axis.values for axis in plan.axes)):
        changes = [f"{axis.key}={value}" for axis, value in zip(plan.axes, values, strict=True)]
        try:
            experiments[values] = load_experiment(plan.experiment, [*plan.overrides, *changes], plan.plugins)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    if problems:
        raise ConfigError(problems)
    return experiments


def _summarise(axes: tuple[Axis, ...], seeds: tuple[int, ...], cells: Sequence[Cell]) -> Sweep:
    measure = measure_of(record for cell in cells for run in cell.runs.values() for record in run.result.rounds)
    sweep = Sweep(axes, seeds, tuple(cells), measure)
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
