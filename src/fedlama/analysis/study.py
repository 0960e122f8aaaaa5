"""Compare methods on one experiment, under one or several seeds: means with intervals, and paired differences.

Under one seed all methods share the clients, the batches and the initial model. The difference of two methods is
therefore computed seed by seed, which removes most of what a seed changes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlama.analysis.front import Outcome, Point, Ratio, bytes_at_equal_loss, loss_ratio, points
from fedlama.analysis.statistics import Interval, interval, paired
from fedlama.analysis.timing import bytes_until, first_reaching
from fedlama.choices.strategies import FedAvg, Strategy
from fedlama.core.ledger import KILOBYTE, MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import measure_of
from fedlama.core.rows import Rows
from fedlama.errors import ConfigError, FedlamaError, printable, write_remedy
from fedlama.experiment import Experiment
from fedlama.experiment.methods import written
from fedlama.experiment.titles import title
from fedlama.experiment.variants import Method as MethodChoice
from fedlama.experiment.variants import variant_of
from fedlama.runs.checkpoint import write_atomically
from fedlama.runs.divergence import Divergence
from fedlama.runs.execute import Finished, Observer, PlannedRun, RunOptions, attempt_planned, plan_runs
from fedlama.runs.lock import FolderLock

VERSION = 1
"""Version of ``comparison.json``: raised when a key goes or changes its meaning, not when one is added."""

BySeed = Mapping[int, Finished]
"""The finished runs of one method, by seed."""


@dataclass(frozen=True)
class Method:
    """One method over all seeds; the interval of a value that could not be measured is None.

    Seeds whose run diverged are in no interval.

    Attributes:
        title: Its title in tables.
        strategy: The method: a strategy, or a variant with other choices than the experiment's.
        runs: Its finished runs by seed.
        diverged: The runs that left the finite numbers, by seed.
        measure: The primary metric; None when nothing was evaluated.
        value: The primary metric on the test set; an accuracy in percent.
        difference: The same minus the base's, paired by seed; None for the base itself.
        cost: The paper's C in percent.
        megabytes: MB (10^6 bytes) up and down.
        kilobytes_per_step: kB (10^3 bytes) up and down, of all clients together, per local step.
        reached: Seeds that reached the target.
        to_target: MB until the target, over the seeds that reached it.
        to_target_difference: The same minus the base's, paired by seed.
        loss: Test loss.
        loss_ratio: Test loss relative to the base's, paired by seed; None for the base itself.
        equal_loss: Bytes relative to those with which plain FedAvg reaches the same test loss; None unless FedAvg is
            among the methods at two intervals or more. See :mod:`fedlama.analysis.front`.
        seconds: Time of training and evaluation on this machine.
    """

    title: str
    strategy: MethodChoice
    runs: BySeed
    diverged: Mapping[int, Divergence]
    measure: Measure | None
    value: Interval | None
    difference: Interval | None
    cost: Interval | None
    megabytes: Interval | None
    kilobytes_per_step: Interval | None
    reached: tuple[int, ...]
    to_target: Interval | None
    to_target_difference: Interval | None
    loss: Interval | None
    loss_ratio: Ratio | None
    equal_loss: Ratio | None
    seconds: Interval | None

    @property
    def accuracy(self) -> Interval | None:
        """Test accuracy in percent; None for a task that is not compared by it."""
        return self.value if self.measure is not None and self.measure.is_percent else None

    def to_json(self) -> dict[str, object]:
        """Return the row of ``comparison.json``, without the runs."""
        values = {
            "accuracy_percent": self.accuracy,
            "difference_points": self.difference if self.accuracy else None,
            "metric": self.value,
            "metric_difference": self.difference,
            "cost_percent": self.cost,
            "megabytes": self.megabytes,
            "kilobytes_per_step": self.kilobytes_per_step,
            "megabytes_to_target": self.to_target,
            "megabytes_to_target_difference": self.to_target_difference,
            "loss": self.loss,
            "loss_ratio": self.loss_ratio,
            "bytes_at_equal_loss": self.equal_loss,
            "seconds": self.seconds,
        }
        return {
            "method": self.title,
            **{name: value.to_json() if value else None for name, value in values.items()},
            "within_noise": self.difference.within_noise if self.difference else None,
            "seeds": sorted(self.runs),
            "seeds_that_diverged": sorted(self.diverged),
            "seeds_that_reached_target": list(self.reached),
            "written": written(self.strategy),
        }


@dataclass(frozen=True)
class StudyPlan:
    """What to compare.

    Attributes:
        strategies: The methods; none stands for the experiment's strategy and its baselines. The base is FedAvg at the
            experiment's base interval, or else the first method.
        seeds: The seeds, each once; none stands for the experiment's own.
        target: Value of the primary metric to count MB to, an accuracy in [0, 1]; None for a round one that every run
            reaches, for accuracy the highest whole percent.
    """

    strategies: tuple[MethodChoice, ...] = ()
    seeds: tuple[int, ...] = ()
    target: float | None = None


@dataclass(frozen=True, repr=False)
class Study:
    """A finished comparison of methods by seeds.

    Attributes:
        methods: One row per method.
        base: Title of the method that the others are compared with.
        target: Value of the primary metric that MB are counted to, an accuracy in [0, 1]; None when nothing was
            evaluated.
        seeds: The seeds.
    """

    methods: tuple[Method, ...]
    base: str
    target: float | None
    seeds: tuple[int, ...]

    @property
    def measure(self) -> Measure | None:
        """The primary metric; None when nothing was evaluated."""
        return next((method.measure for method in self.methods if method.measure is not None), None)

    @property
    def finished(self) -> list[Finished]:
        """Every finished run, method by method."""
        return [run for method in self.methods for run in method.runs.values()]

    @property
    def diverged(self) -> list[Divergence]:
        """Every run that diverged, method by method."""
        return [each for method in self.methods for each in method.diverged.values()]

    @property
    def points(self) -> list[Point]:
        """The methods in the plane of bytes and test loss; see :mod:`fedlama.analysis.front`."""
        return points({method.title: _outcomes(method.runs) for method in self.methods})

    @property
    def table(self) -> Rows:
        """One row per method: means over the seeds, and the ends of their 95 % intervals; an accuracy is in percent.

        The ends are None for one seed.
        """
        label = None if self.measure is None or self.measure.name == "loss" else self.measure.label
        rows = Rows()
        for method in self.methods:
            row: dict[str, object] = {"method": method.title}
            for name, value in ((label, method.value), ("loss", method.loss), ("MB", method.megabytes)):
                ends = (value.mean, value.low, value.high) if value else (None, None, None)
                row |= {} if name is None else dict(zip((name, f"{name} low", f"{name} high"), ends, strict=True))
            rows.append({**row, "seeds": len(method.runs), "diverged": len(method.diverged)})
        return rows

    def __repr__(self) -> str:
        """Return the methods and the number of seeds: the runs themselves are long."""
        return f"Study({', '.join(method.title for method in self.methods)}; {len(self.seeds)} seeds)"

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        return self.table._repr_html_()

    def to_json(self) -> dict[str, object]:
        """Return the content of ``comparison.json``, which `compare --json` prints as well."""
        return {
            "version": VERSION,
            "runs": [run.to_json() for run in self.finished],
            "diverged": [each.to_json() for each in self.diverged],
            "base": self.base,
            "primary": self.measure.name if self.measure else None,
            "direction": self.measure.direction if self.measure else None,
            "target": self.target,
            "target_accuracy": self.target if self.measure and self.measure.is_percent else None,
            "seeds": list(self.seeds),
            "methods": [method.to_json() for method in self.methods],
            "front": [point.title for point in self.points if point.on_front],
        }


def baselines(strategy: Strategy[Any]) -> list[Strategy[Any]]:
    """Return what a strategy is compared with, itself last: FedAvg at its base interval and at its long one.

    Args:
        strategy: The strategy of the experiment.

    >>> from fedlama import FedLAMA
    >>> [title(strategy) for strategy in baselines(FedLAMA(6, 4))]
    ['FedAvg(6)', 'FedAvg(24)', 'FedLAMA(6, 4)']
    """
    base, long = strategy.base_interval, strategy.local_steps * strategy.cycle_rounds
    candidates: list[Strategy[Any]] = [FedAvg(base)]
    if long > base:
        candidates.append(FedAvg(long))
    return [*(candidate for candidate in candidates if candidate != strategy), strategy]


def run_study(
    experiment: Experiment,
    plan: StudyPlan | None = None,
    options: RunOptions | None = None,
    observer: Observer | None = None,
) -> Study:
    """Run several methods under one or several seeds; runs that finished before are reused.

    Args:
        experiment: The experiment; its own strategy names the interval of the FedAvg that counts as 100 %.
        plan: Methods and seeds; by default the experiment's strategy and its baselines under the experiment's seed.
        options: How to run them.
        observer: Watches the runs; by default nothing does.

    Returns:
        The study. It is also written to ``comparison.json`` beside the run folders.

    Raises:
        ConfigError: A method does not fit the experiment, or is listed twice.
        DivergenceError: Every run diverged; if only some do, their seeds are left out of their methods' means.
        FedlamaError: ``comparison.json`` cannot be written, or another process writes to the folder.
    """
    plan, options = plan or StudyPlan(), options or RunOptions()
    strategies = plan.strategies or tuple(baselines(experiment.strategy))
    titles = unique_titles(strategies)
    methods = Methods(dict(zip(titles, strategies, strict=True)), experiment.strategy.base_interval)

    def planned(seed: int) -> list[PlannedRun]:
        seeded = replace(experiment, settings=replace(experiment.settings, seed=seed))
        return plan_runs(seeded, strategies, options.out)

    seeds = plan.seeds or (experiment.settings.seed,)
    folder = options.out / experiment.settings.name
    return run_methods(methods, planned, StudyPlan((), seeds, plan.target), folder, Execution(options, observer))


@dataclass(frozen=True)
class Methods:
    """The methods of a study.

    Attributes:
        strategies: Their strategies by title.
        base_interval: Interval of the FedAvg that counts as 100 %, in local steps.
    """

    strategies: Mapping[str, MethodChoice]
    base_interval: int


@dataclass(frozen=True)
class Attempts:
    """What became of the runs of a study, by the methods' titles and by seed.

    Attributes:
        runs: Those that finished.
        diverged: Those that left the finite numbers.
    """

    runs: Mapping[str, dict[int, Finished]]
    diverged: Mapping[str, dict[int, Divergence]]


@dataclass(frozen=True)
class Execution:
    """How the runs of a study are executed, and what watches them."""

    options: RunOptions
    observer: Observer | None = None


def run_methods(
    methods: Methods,
    planned: Callable[[int], Sequence[PlannedRun]],
    plan: StudyPlan,
    folder: Path,
    execution: Execution,
) -> Study:
    """Run methods under several seeds and compare them: of an experiment, or of federations that were built in Python.

    Args:
        methods: The methods.
        planned: Plans the runs of all methods under a seed, in the order of the methods.
        plan: The seeds and the target; its strategies are not used.
        folder: Folder of the run folders, which gets ``comparison.json``.
        execution: How the runs are executed.

    Returns:
        The study, which is also written.

    Raises:
        FedlamaError: As for :func:`run_study`.
    """
    attempts = Attempts({name: {} for name in methods.strategies}, {name: {} for name in methods.strategies})
    with FolderLock(folder):
        for seed in plan.seeds:
            tried = attempt_planned(planned(seed), execution.options, execution.observer)
            for name, attempt in zip(methods.strategies, tried, strict=True):
                if attempt.finished is not None:
                    attempts.runs[name][seed] = replace(attempt.finished, title=name)
                if attempt.divergence is not None:
                    attempts.diverged[name][seed] = replace(attempt.divergence, title=name)
        if not any(attempts.runs.values()):
            raise next(each.error for by_seed in attempts.diverged.values() for each in by_seed.values())
        study = summarise(methods, attempts, plan)
        write_comparison(study, folder)
    return study


def unique_titles(strategies: Sequence[MethodChoice]) -> list[str]:
    """Return one title per method, numbered where two settings share a title.

    Args:
        strategies: The methods.

    Raises:
        ConfigError: A method is listed twice.
    """
    titles = [title(strategy) for strategy in strategies]
    if len(set(map(written, strategies))) < len(strategies):
        raise ConfigError(f"a method is listed twice among {', '.join(titles)}; name each once")
    return [
        f"{name} #{titles[: index + 1].count(name)}" if titles.count(name) > 1 else name
        for index, name in enumerate(titles)
    ]


def write_comparison(study: Study, folder: Path) -> Path:
    """Write ``comparison.json`` atomically.

    Args:
        study: A finished study.
        folder: Folder of its run folders.

    Returns:
        The file.

    Raises:
        FedlamaError: It cannot be written.
    """
    path = folder / "comparison.json"
    try:
        write_atomically(path, (json.dumps(study.to_json(), indent=2) + "\n").encode())
    except OSError as error:
        raise FedlamaError(f"{printable(path)} cannot be written ({error.strerror}); {write_remedy(error)}") from error
    return path


def summarise(methods: Methods, attempts: Attempts, plan: StudyPlan) -> Study:
    """Compute means and differences of finished runs.

    Args:
        methods: The methods.
        attempts: What became of their runs.
        plan: The seeds and the target, as in :func:`run_study`; its strategies are not used.

    Returns:
        The study.
    """
    strategies, baseline, runs = methods.strategies, FedAvg(methods.base_interval), attempts.runs
    base = next((name for name, strategy in strategies.items() if strategy == baseline), next(iter(strategies)))
    target = _common_target(runs) if plan.target is None else plan.target
    compared = _Compared(base, runs[base], target, _front(methods, runs))
    rows = [_row(name, strategy, attempts, compared) for name, strategy in strategies.items()]
    return Study(tuple(rows), base, target, plan.seeds)


@dataclass(frozen=True)
class _Compared:
    """What every method is compared with: the base with its runs, the target, and FedAvg's front."""

    name: str
    base: BySeed
    target: float | None
    front: Mapping[int, Sequence[Outcome]]


def _front(methods: Methods, runs: Mapping[str, BySeed]) -> dict[int, list[Outcome]]:
    """Return the ends of the runs of plain FedAvg by seed, at whatever intervals; empty for a single interval."""
    variants = {name: variant_of(method) for name, method in methods.strategies.items()}
    plain = [name for name, method in variants.items() if method.strategy.name == FedAvg.name and not method.choices]
    front: dict[int, list[Outcome]] = {}
    for name in plain if len(plain) > 1 else ():
        for seed, outcome in _outcomes(runs[name]).items():
            front.setdefault(seed, []).append(outcome)
    return front


def _outcomes(runs: BySeed) -> dict[int, Outcome]:
    """Return bytes and test loss at the end of each run that was evaluated, by seed."""
    return {
        seed: Outcome(bytes_until(run.result.rounds, len(run.result.rounds)), run.result.score.loss)
        for seed, run in runs.items()
        if run.result.score is not None
    }


def _row(name: str, strategy: MethodChoice, attempts: Attempts, compared: _Compared) -> Method:
    runs, base, target = attempts.runs[name], compared.base, compared.target
    values, to_target, outcomes = _values(runs), _to_target(runs, target), _outcomes(runs)
    losses = {seed: outcome.loss for seed, outcome in outcomes.items() if math.isfinite(outcome.loss)}
    base_losses = {seed: outcome.loss for seed, outcome in _outcomes(base).items()}
    is_base, finished = name == compared.name, runs.values()
    sending = () if getattr(variant_of(strategy).strategy, "is_central", False) else finished
    return Method(
        title=name,
        strategy=strategy,
        runs=runs,
        diverged=attempts.diverged[name],
        measure=_measure({name: runs}),
        value=_mean(values.values()),
        difference=None if is_base else paired(values, _values(base)),
        cost=_mean(float(str(run.summary["cost_percent"])) for run in sending),
        megabytes=_mean(bytes_until(run.result.rounds, len(run.result.rounds)) / MEGABYTE for run in sending),
        kilobytes_per_step=_mean(run.result.bytes_per_step / KILOBYTE for run in sending),
        reached=tuple(to_target),
        to_target=_mean(to_target.values()) if sending else None,
        to_target_difference=None if is_base or not sending else paired(to_target, _to_target(base, target)),
        loss=_mean(losses.values()),
        loss_ratio=None if is_base else loss_ratio(losses, base_losses),
        equal_loss=bytes_at_equal_loss(outcomes, compared.front),
        seconds=_mean(run.result.seconds for run in finished),
    )


def _mean(values: Iterable[float]) -> Interval | None:
    """Return the mean of values with its interval; None without values."""
    given = list(values)
    return interval(given) if given else None


def _measure(runs: Mapping[str, BySeed]) -> Measure | None:
    """Return the primary metric of some runs."""
    every = [run.result for by_seed in runs.values() for run in by_seed.values()]
    return measure_of(record for result in every for record in result.rounds)


def _values(runs: BySeed) -> dict[int, float]:
    """Return the primary metric of the last evaluation by seed, in the unit in which it is shown."""
    scores = {seed: run.result.score for seed, run in runs.items()}
    shown = {seed: score.measure.shown(score.value) for seed, score in scores.items() if score}
    return {seed: value for seed, value in shown.items() if math.isfinite(value)}


def _to_target(runs: BySeed, target: float | None) -> dict[int, float]:
    """Return MB to the target by seed, of the seeds that reached it."""
    reached = {}
    for seed, run in runs.items():
        at = None if target is None else first_reaching(run.result.rounds, target)
        if at is not None:
            reached[seed] = bytes_until(run.result.rounds, at) / MEGABYTE
    return reached


def _common_target(runs: Mapping[str, BySeed]) -> float | None:
    """Return a round target that every run reaches."""
    measure = _measure(runs)
    if measure is None:
        return None
    best = [
        measure.best(r.score.value for r in run.result.rounds if r.score and r.score.primary == measure.name)
        for by_seed in runs.values()
        for run in by_seed.values()
    ]
    reached = [value for value in best if value is not None and math.isfinite(value)]
    worst = measure.worst(reached)
    return None if worst is None or len(reached) < len(best) else measure.round_target(worst)
