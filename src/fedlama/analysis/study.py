"""Methods by seeds on one experiment: means with intervals, and differences paired by seed.

For one seed every method has the same clients, batches and initial model, so that the difference of two methods is
taken seed by seed, where most of what a seed changes falls away.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlama.analysis.statistics import Interval, interval, paired
from fedlama.analysis.timing import bytes_until, first_reaching
from fedlama.choices.strategies import FedAvg, Strategy
from fedlama.errors import ConfigError
from fedlama.experiment import Experiment
from fedlama.experiment.methods import written
from fedlama.experiment.titles import title
from fedlama.reporting.charts import accuracy_charts
from fedlama.runs.execute import Finished, run_methods

BySeed = Mapping[int, Finished]


@dataclass(frozen=True)
class Method:
    """One method over all seeds; intervals of what could not be measured are None.

    Attributes:
        title: Its name in tables.
        strategy: The method.
        runs: Its runs by seed.
        accuracy: Test accuracy in percent.
        difference: Accuracy minus the base's, paired by seed, in percentage points; None for the base itself.
        cost: The paper's C in percent.
        megabytes: MB (10^6 bytes) up and down.
        reached: Seeds that reached the target.
        to_target: MB until the target accuracy, over the seeds that reached it.
        to_target_difference: The same minus the base's, paired by seed.
        seconds: Time of training and evaluation on this machine.
    """

    title: str
    strategy: Strategy[Any]
    runs: BySeed
    accuracy: Interval | None
    difference: Interval | None
    cost: Interval
    megabytes: Interval
    reached: tuple[int, ...]
    to_target: Interval | None
    to_target_difference: Interval | None
    seconds: Interval

    def to_json(self) -> dict[str, object]:
        """Return the row as plain JSON types, without the runs."""
        values = {
            "accuracy_percent": self.accuracy,
            "difference_points": self.difference,
            "cost_percent": self.cost,
            "megabytes": self.megabytes,
            "megabytes_to_target": self.to_target,
            "megabytes_to_target_difference": self.to_target_difference,
            "seconds": self.seconds,
        }
        return {
            "method": self.title,
            **{name: value.to_json() if value else None for name, value in values.items()},
            "within_noise": self.difference.within_noise if self.difference else None,
            "seeds": sorted(self.runs),
            "seeds_that_reached_target": list(self.reached),
            "written": written(self.strategy),
        }


@dataclass(frozen=True)
class Study:
    """A finished comparison of methods by seeds.

    Attributes:
        methods: One row per method.
        base: Title of the method that the others are compared with.
        target: Accuracy in [0, 1] that MB are counted to; None when nothing was evaluated.
        seeds: The seeds.
    """

    methods: tuple[Method, ...]
    base: str
    target: float | None
    seeds: tuple[int, ...]

    @property
    def finished(self) -> list[Finished]:
        """Every run, method by method."""
        return [run for method in self.methods for run in method.runs.values()]

    def to_json(self) -> dict[str, object]:
        """Return it as plain JSON types: the runs as in every ``--json``, and the rows."""
        return {
            "runs": [dict(one.summary) for one in self.finished],
            "base": self.base,
            "target_accuracy": self.target,
            "seeds": list(self.seeds),
            "methods": [method.to_json() for method in self.methods],
        }


def run_study(
    experiment: Experiment,
    strategies: Sequence[Strategy[Any]],
    seeds: Sequence[int],
    out: Path,
    *,
    target: float | None = None,
    quiet: bool = False,
    checkpoint_seconds: float = 30.0,
    again: bool = False,
    track: Sequence[str] = (),
) -> Study:
    """Run several methods under several seeds, taking what has been done before.

    Args:
        experiment: The experiment; its own strategy tells the interval of the FedAvg that counts as 100 %.
        strategies: The methods. The base is FedAvg at the experiment's base interval, or else the first.
        seeds: The seeds, each once.
        out: Folder for the run folders.
        target: Accuracy in [0, 1] to count MB to; by default the whole percent that every run reaches.
        quiet: Show no progress.
        checkpoint_seconds: Least time between two checkpoints; 0 saves after every round.
        again: Train also what has been done before.
        track: Names of trackers, see :mod:`fedlama.reporting.tracking`.

    Returns:
        The study; it is also written to ``comparison.json`` beside the run folders.

    Raises:
        ConfigError: A method does not fit the experiment, or stands twice in the list.
    """
    names = [title(strategy) for strategy in strategies]
    if len(set(map(written, strategies))) < len(strategies):
        raise ConfigError(f"a method stands twice among {', '.join(names)}; name each once")
    names = [f"{name} #{names[: i + 1].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]
    runs: dict[str, dict[int, Finished]] = {name: {} for name in names}
    for seed in seeds:
        seeded = replace(experiment, settings=replace(experiment.settings, seed=seed))
        finished = run_methods(
            seeded,
            strategies,
            out,
            quiet=quiet,
            checkpoint_seconds=checkpoint_seconds,
            again=again,
            track=track,
        )
        for name, one in zip(names, finished, strict=True):
            runs[name][seed] = replace(one, title=name)
    study = summarise(experiment, dict(zip(names, strategies, strict=True)), runs, target)
    folder = out / experiment.settings.name
    (folder / "comparison.json").write_text(json.dumps(study.to_json(), indent=2) + "\n", encoding="utf-8")
    accuracy_charts({name: [one.result for one in by_seed.values()] for name, by_seed in runs.items()}, folder)
    return study


def summarise(
    experiment: Experiment,
    strategies: Mapping[str, Strategy[Any]],
    runs: Mapping[str, BySeed],
    target: float | None = None,
) -> Study:
    """Take means and differences over finished runs.

    Args:
        experiment: As in :func:`run_study`.
        strategies: The methods by title.
        runs: Their runs by title and seed.
        target: As in :func:`run_study`.

    Returns:
        The study.
    """
    anchor = FedAvg(experiment.strategy.base_interval)
    base = next((name for name, strategy in strategies.items() if strategy == anchor), next(iter(strategies)))
    target = _common_target(runs) if target is None else target
    rows = [_row(name, strategy, runs[name], runs[base], target) for name, strategy in strategies.items()]
    return Study(tuple(rows), base, target, tuple(next(iter(runs.values()))))


def _row(name: str, strategy: Strategy[Any], runs: BySeed, base: BySeed, target: float | None) -> Method:
    accuracy, to_target = _accuracies(runs), _to_target(runs, target)
    itself = runs is base
    return Method(
        title=name,
        strategy=strategy,
        runs=runs,
        accuracy=interval(list(accuracy.values())) if accuracy else None,
        difference=None if itself else paired(accuracy, _accuracies(base)),
        cost=interval([float(str(one.summary["cost_percent"])) for one in runs.values()]),
        megabytes=interval([bytes_until(one.result.rounds, len(one.result.rounds)) / 1e6 for one in runs.values()]),
        reached=tuple(to_target),
        to_target=interval(list(to_target.values())) if to_target else None,
        to_target_difference=None if itself else paired(to_target, _to_target(base, target)),
        seconds=interval([one.result.seconds for one in runs.values()]),
    )


def _accuracies(runs: BySeed) -> dict[int, float]:
    return {seed: 100 * one.result.score.accuracy for seed, one in runs.items() if one.result.score}


def _to_target(runs: BySeed, target: float | None) -> dict[int, float]:
    """Return MB to the target by seed, of the seeds that reached it."""
    reached = {}
    for seed, one in runs.items():
        at = None if target is None else first_reaching(one.result.rounds, target)
        if at is not None:
            reached[seed] = bytes_until(one.result.rounds, at) / 1e6
    return reached


def _common_target(runs: Mapping[str, BySeed]) -> float | None:
    """Return the highest whole percent that every run reaches."""
    best = [
        max((record.score.accuracy for record in one.result.rounds if record.score), default=None)
        for by_seed in runs.values()
        for one in by_seed.values()
    ]
    reached = [accuracy for accuracy in best if accuracy is not None]
    return math.floor(100 * min(reached) + 1e-9) / 100 if reached and len(reached) == len(best) else None
