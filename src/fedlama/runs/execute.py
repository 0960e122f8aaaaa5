"""Several methods on the same clients, data, seed and initial model, and the line that sums each of them up."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from fedlama.choices.strategies import FedAvg, Strategy
from fedlama.core.layers import total_parameters
from fedlama.core.ledger import cost_percent
from fedlama.core.records import Result
from fedlama.core.validation import refuse
from fedlama.data.clients import as_source
from fedlama.errors import ConfigError
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.experiment.titles import hyperparameters, title
from fedlama.federation.checks import check_federation
from fedlama.federation.federation import Callback, Federation, Run
from fedlama.federation.state import put_back, take
from fedlama.reporting.charts import accuracy_charts, interval_chart
from fedlama.reporting.progress import LiveProgress
from fedlama.reporting.tracking import Tracker, trackers
from fedlama.runs import Checkpoints, RunFolder, finite, resume_point, stop_on_interrupt
from fedlama.runs.checkpoint import save_snapshot
from fedlama.runs.stored import finished_before


@dataclass(frozen=True)
class Finished:
    """One method's finished run.

    Attributes:
        title: The method with its intervals, such as ``FedLAMA(6, 4)``.
        result: The run.
        summary: Its line in ``--json``.
        reused: Whether it had been done before and was not trained again.
    """

    title: str
    result: Result
    summary: Mapping[str, object]
    reused: bool = False


def baselines(strategy: Strategy[Any]) -> list[Strategy[Any]]:
    """Return what a strategy is compared with, itself last: FedAvg at its base interval and at its long one.

    Args:
        strategy: The strategy of the experiment.

    >>> from fedlama import FedLAMA
    >>> [title(one) for one in anchors(FedLAMA(6, 4))]
    ['FedAvg(6)', 'FedAvg(24)', 'FedLAMA(6, 4)']
    """
    base, long = strategy.base_interval, strategy.local_steps * strategy.cycle_rounds
    candidates: list[Strategy[Any]] = [FedAvg(base)]
    if long > base:
        candidates.append(FedAvg(long))
    return [*(one for one in candidates if one != strategy), strategy]


def compare(
    experiment: Experiment,
    out: Path,
    *,
    quiet: bool = False,
    checkpoint_seconds: float = 30.0,
    again: bool = False,
    track: Sequence[str] = (),
) -> list[Finished]:
    """Run an experiment's strategy and its anchors.

    Args:
        experiment: The experiment.
        out: Folder for the run folders and the pictures of the comparison.
        quiet: Show no progress.
        checkpoint_seconds: Least time between two checkpoints; 0 saves after every round.
        again: Train also what has been done before.
        track: Names of trackers, see :mod:`fedlama.reporting.tracking`.

    Returns:
        The finished runs, the experiment's own strategy last.
    """
    strategies = baselines(experiment.strategy)
    finished = run_methods(
        experiment,
        strategies,
        out,
        quiet=quiet,
        checkpoint_seconds=checkpoint_seconds,
        again=again,
        track=track,
    )
    folder = out / experiment.settings.name
    accuracy_charts({one.title: [one.result] for one in finished}, folder)
    summary = {"runs": [one.summary for one in finished]}
    (folder / "comparison.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    return finished


def run_methods(
    experiment: Experiment,
    strategies: Sequence[Strategy[Any]],
    out: Path,
    *,
    quiet: bool = False,
    checkpoint_seconds: float = 30.0,
    again: bool = False,
    track: Sequence[str] = (),
) -> list[Finished]:
    """Run one experiment under several strategies; everything else is the same for all.

    Args:
        experiment: The experiment; its own strategy tells the interval of the FedAvg that counts as 100 %.
        strategies: What to run, in this order.
        out: Folder for the run folders.
        quiet: Show no progress.
        checkpoint_seconds: Least time between two checkpoints; 0 saves after every round.
        again: Train also what has been done before.
        track: Names of trackers, see :mod:`fedlama.reporting.tracking`.

    Returns:
        The finished runs.

    Raises:
        ConfigError: A strategy does not fit the experiment; nothing has been trained then.
    """
    material = prepare(experiment)
    if experiment.settings.evaluate_every is None:  # at the same local steps for every method
        cycle = experiment.strategy.local_steps * experiment.strategy.cycle_rounds
        experiment = replace(experiment, settings=replace(experiment.settings, evaluate_every=cycle))
    variants = [replace(experiment, strategy=strategy) for strategy in strategies]
    federations = [assemble(variant, material) for variant in variants]
    _refuse_misfits(federations)
    base_interval = experiment.strategy.base_interval
    watching = [_trackers(track, variant, out) for variant in variants]
    with LiveProgress(quiet=quiet) as display:
        bars = [display.track(title(federation.strategy), federation.rounds) for federation in federations]
        finished = []
        for variant, federation, bar, told in zip(variants, federations, bars, watching, strict=True):
            one = None if again else _done(variant, federation, base_interval, out, [bar])
            if one is None:
                with ExitStack() as stack:
                    callbacks: list[Callback] = [bar, *(stack.enter_context(tracker) for tracker in told)]
                    one = run_one(
                        variant, federation, base_interval, out, callbacks, checkpoint_seconds=checkpoint_seconds
                    )
            finished.append(one)
        return finished


def _trackers(names: Sequence[str], experiment: Experiment, out: Path) -> list[Tracker]:
    path = folder_of(experiment, out)
    return trackers(names, path, experiment.settings.name, path.name, experiment.to_json())


def _refuse_misfits(federations: Iterable[Federation]) -> None:
    """Refuse all that cannot run before the first is trained."""
    problems: list[str] = []
    for federation in federations:
        try:
            check_federation(federation, federation.layers or (), as_source(federation.clients))
        except ConfigError as error:
            problems += error.problems
    refuse(list(dict.fromkeys(problems)))


def _done(
    experiment: Experiment, federation: Federation, base_interval: int, out: Path, callbacks: Sequence[Callback]
) -> Finished | None:
    """Take a run that was done before, with its cost relative to this comparison's interval."""
    config = {**experiment.to_json(), "in_force": in_force(federation)}
    found = finished_before(folder_of(experiment, out), config, federation.rounds)
    if found is None:
        return None
    result, summary = found
    for record, callback in product(result.rounds, callbacks):
        callback.on_round(record)
    parameters = total_parameters(federation.layers or ())
    cost = cost_percent(result.cost, parameters, federation.local_steps, base_interval)
    return Finished(title(federation.strategy), result, {**summary, "cost_percent": cost}, reused=True)


def run_one(
    experiment: Experiment,
    federation: Federation,
    base_interval: int,
    out: Path,
    callbacks: Sequence[Callback] = (),
    *,
    checkpoint_seconds: float = 30.0,
) -> Finished:
    """Run one federation into its run folder, from where an interrupted run of it stopped.

    Args:
        experiment: Where it comes from, for the folder's name and the configuration.
        federation: What to run.
        base_interval: The interval of the FedAvg that counts as 100 %.
        out: Folder for the run folders.
        callbacks: Told of every round, beside the run folder.
        checkpoint_seconds: Least time between two checkpoints; 0 saves after every round.

    Returns:
        The finished run.

    Raises:
        Interrupted: The user has asked to stop; the same call goes on from there.
    """
    config = {**experiment.to_json(), "in_force": in_force(federation)}
    path = folder_of(experiment, out)
    found = resume_point(path, config, warn=_tell)
    before = found[1] if found else []
    with RunFolder(path, config, len(before)) as folder, stop_on_interrupt() as stop:
        run = Run(federation)
        if found:
            put_back(run, *found)
            _tell(f"{path}: going on after round {len(before) - 1}")
        for record, callback in product(before, callbacks):
            callback.on_round(record)
        saving = Checkpoints(folder, lambda target: save_snapshot(take(run), target), checkpoint_seconds, stop)
        result = run.to_end([folder, *callbacks, saving], before)
        layers = federation.layers or ()
        summary = {
            "method": result.method,
            "hyperparameters": hyperparameters(federation.strategy),
            "seed": federation.seed,
            "accuracy": result.score.accuracy if result.score else None,
            "loss": finite(result.score.loss) if result.score else None,
            "cost_percent": cost_percent(result.cost, total_parameters(layers), federation.local_steps, base_interval),
            "bytes_up": result.ledger.total_bytes("up"),
            "bytes_down": result.ledger.total_bytes("down"),
            "rounds": len(result.rounds),
            "seconds": result.seconds,
            "run_folder": str(path),
        }
        folder.finish(result, summary)
    heading = title(federation.strategy)
    accuracy_charts({heading: [result]}, path)
    interval_chart(result, path / "intervals.png")
    return Finished(heading, result, summary)


def _tell(sentence: str) -> None:
    print(f"note: {sentence}", file=sys.stderr)


def folder_of(experiment: Experiment, out: Path) -> Path:
    """Return an experiment's run folder: the same settings always name the same folder.

    Args:
        experiment: The experiment.
        out: Folder for all run folders.
    """
    strategy = experiment.strategy
    numbers = [str(v) for v in hyperparameters(strategy).values() if type(v) is int]
    seed = f"seed{experiment.settings.seed}"
    return out / experiment.settings.name / "-".join([strategy.name, *numbers[:2], seed, experiment.digest()])


def in_force(federation: Federation) -> dict[str, object]:
    """Return the federation's choices as they run, after a preset has had its say."""
    described: dict[str, object] = {}
    for section in ("strategy", "solver", "sampler", "availability", "codec", "server_optimizer", "aggregator"):
        choice = getattr(federation, section)
        values = {field.name: _json(getattr(choice, field.name)) for field in fields(choice)}
        described[section] = {"name": choice.name, **values}
    statistics = any(not spec.trainable for layer in federation.layers or () for spec in layer.tensors)
    return {
        **described,
        "weighting": federation.weighting,
        "evaluate": federation.evaluate,
        "statistics_travel": statistics,
        "labelling": {layer.name: [layer.parameters, layer.adaptive] for layer in federation.layers or ()},
    }


def _json(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [asdict(item) if is_dataclass(item) and not isinstance(item, type) else item for item in value]
    return value
