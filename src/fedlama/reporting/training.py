"""Train federations that are built in Python into run folders: what `fedlama run` and `fedlama compare` do, as calls.

:func:`run` trains one federation, :func:`compare` several methods under several seeds. Both leave what the command line
leaves: files of every round, checkpoints from which an interrupted run continues bit for bit, pictures, trackers, and
``comparison.json``. They plan the runs, and then call the functions that the command line calls:
:func:`fedlama.runs.execute.execute_planned` and :func:`fedlama.analysis.study.run_methods`.

A federation is recognised by its description (:meth:`fedlama.Federation.describe`), digests of the data included, and
by its model's structure and initial values.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlama.analysis.study import Execution, Methods, Study, StudyPlan, baselines, run_methods, unique_titles
from fedlama.choices.strategies import Strategy
from fedlama.core.paths import expanded
from fedlama.core.records import Result
from fedlama.core.validation import refuse
from fedlama.data.sources import as_source
from fedlama.errors import ConfigError, shown
from fedlama.experiment.settings import check_name
from fedlama.federation.callbacks import RoundCallback
from fedlama.federation.federation import Federation
from fedlama.reporting.observer import RunReporter, draw_study
from fedlama.runs.configuration import config_of
from fedlama.runs.execute import PlannedRun, RunOptions, execute_planned, refuse_misfits, run_name
from fedlama.runs.reader import Config

Maker = Callable[[int], Federation]
"""Makes the federation of a seed."""
Given = Federation | Maker | Mapping[str, Federation | Maker]
"""One federation, or one for each method by its title; each itself, or as a function of the seed."""
_TRACKERS = ("tensorboard",)
_PLACE = ("engine", "device")


def run(
    federation: Federation,
    out: Path | str = "runs",
    name: str | None = None,
    *,
    again: bool = False,
    resume: bool = True,
    callbacks: Iterable[RoundCallback] = (),
    track: Iterable[str] = _TRACKERS,
    checkpoint_seconds: float = 30.0,
    quiet: bool = False,
) -> Result:
    """Train a federation into a run folder; call it again to continue an interrupted run, or to read a finished one.

    Args:
        federation: What to run. Client models that it keeps are in the records of rounds that this call trains only.
        out: Folder for the run folders.
        name: Name of the run folder in `out`; by default one that is made from the settings, so that another federation
            has another folder.
        again: Retrain a run that has finished, and replace the run of another federation in the folder.
        resume: Continue an interrupted run; if not, it starts at round 0.
        callbacks: Called after each round; when a run continues, with its earlier rounds first. Not called when the run
            had finished before.
        track: Names of trackers: ``"tensorboard"``, ``"wandb"``, ``"mlflow"``; an empty list for none.
        checkpoint_seconds: Seconds between two checkpoints, at least; 0 saves after every round.
        quiet: Show no progress.

    Returns:
        The records, the ledger and the final model.

    Raises:
        ConfigError: The choices do not fit together, or an unknown tracker.
        DataError: The folder holds the run of another federation, or the data cannot be used.
        FedlamaError: Another process writes to the folder, or it cannot be written.
        Interrupted: Ctrl-C or a signal asked to stop; the same call continues from there.
    """
    refuse([] if name is None else check_name(name))
    federation = replace(federation, clients=as_source(federation.clients))
    refuse_misfits([federation])
    options = RunOptions(_path(out), quiet, checkpoint_seconds, again, tuple(track), resume)
    planned = planned_run(federation, options.out, name, federation.strategy.base_interval)
    with RunReporter(options, callbacks) as reporter:
        (finished,) = execute_planned([planned], options, reporter)
        if finished.reused and not quiet:
            reporter.note(f"{planned.folder} had already finished and was read; again=True retrains it")
    return finished.result


def compare(
    federation: Given,
    strategies: Sequence[Strategy[Any]] = (),
    seeds: int | Sequence[int] | None = None,
    *,
    out: Path | str = "runs",
    name: str = "comparison",
    target: float | None = None,
    again: bool = False,
    resume: bool = True,
    track: Iterable[str] = _TRACKERS,
    checkpoint_seconds: float = 30.0,
    quiet: bool = False,
) -> Study:
    """Compare methods under one or several seeds; finished runs are read, and interrupted ones continue.

    With several seeds give a function ``seed -> Federation``: it can draw the partition and the initial weights of each
    seed, which all methods then share. A federation itself is run with ``dataclasses.replace(federation, seed=seed)``:
    only cohorts, batches and absences differ then, and the intervals do not cover partitions and initial weights.

    Args:
        federation: A federation, a function that makes the one of a seed, or either of them by title for methods that
            differ in more than the strategy.
        strategies: What to run with one federation; by default its strategy and that one's baselines.
        seeds: The seeds, each once, or how many, from the federation's own (for a function from 0); by default one.
        out: Folder for all comparisons.
        name: Name of the folder in `out` for this one.
        target: Test accuracy in [0, 1] to count MB to; by default the highest whole percent that every run reaches.
        again: Retrain runs that have finished.
        resume: As for :func:`run`.
        track: As for :func:`run`.
        checkpoint_seconds: As for :func:`run`.
        quiet: Show no progress.

    Returns:
        The study; ``comparison.json`` in the folder has the same content.

    Raises:
        ConfigError: A method does not fit the federation, is listed twice, or a federation has not the seed asked for.
        FedlamaError: Another process writes to the folder, or it cannot be written.
        Interrupted: Ctrl-C or a signal asked to stop; the same call continues from there.
    """
    refuse(check_name(name))
    options = RunOptions(_path(out), quiet, checkpoint_seconds, again, tuple(track), resume)
    first = next(iter(federation.values()), None) if isinstance(federation, Mapping) else federation
    plan = StudyPlan((), chosen_seeds(int(getattr(first, "seed", 0)), seeds), target)  # a function has no seed
    return _compared(federation, strategies, plan, options, options.out / name)


def _compared(
    given: Given, strategies: Sequence[Strategy[Any]], plan: StudyPlan, options: RunOptions, folder: Path
) -> Study:
    """Run and draw a comparison in a folder."""
    reference, first = _methods(given, strategies, plan.seeds[0])
    methods = Methods({title: method.strategy for title, method in first.items()}, reference.base_interval)
    made = {plan.seeds[0]: first}
    del first  # its data are not kept while other seeds run

    def planned(seed: int) -> list[PlannedRun]:  # a function is called once for each seed
        return _plan(made.pop(seed, {}) or _methods(given, strategies, seed)[1], reference, folder)

    with RunReporter(options) as reporter:
        study = run_methods(methods, planned, plan, folder, Execution(options, reporter))
        count = sum(finished.reused for finished in study.finished)
        if count and not options.quiet:
            reporter.note(f"{count} of {len(study.finished)} runs had already finished; again=True retrains them")
    draw_study(study, folder)
    return study


def chosen_seeds(first: int, seeds: int | Sequence[int] | None) -> tuple[int, ...]:
    """Return the seeds of a comparison or a sweep.

    Args:
        first: The first seed, where their number is given.
        seeds: The seeds, each once, or how many; None for one.

    Raises:
        ConfigError: It is something else.

    >>> chosen_seeds(7, 2), chosen_seeds(7, [0, 3]), chosen_seeds(7, None)
    ((7, 8), (0, 3), (7,))
    """
    if isinstance(seeds, Sequence) and seeds and len(set(seeds)) == len(seeds):
        return tuple(seeds)
    count = 1 if seeds is None else seeds
    if isinstance(count, int) and count >= 1:
        return tuple(range(first, first + count))
    raise ConfigError(f"seeds is {shown(seeds)}, expected how many (5) or each seed once ([0, 1, 2]); change it")


def _methods(
    given: Given, strategies: Sequence[Strategy[Any]], seed: int
) -> tuple[Strategy[Any], dict[str, Federation]]:
    """Return the strategy that the methods are compared with, and the federation of each method by its title."""
    if isinstance(given, Mapping):
        if strategies or not given:
            problem = "strategies are given beside federations by title" if strategies else "there is no federation"
            raise ConfigError(f"{problem}; give federations by title, or one federation with its strategies")
        made = {str(title): made_for(each, seed) for title, each in given.items()}
        return next(iter(made.values())).strategy, made
    federation = made_for(given, seed)
    federation = replace(federation, clients=as_source(federation.clients))  # their digests are computed once
    chosen = tuple(strategies) or tuple(baselines(federation.strategy))
    named = zip(unique_titles(chosen), chosen, strict=True)
    return federation.strategy, {title: replace(federation, strategy=strategy) for title, strategy in named}


def made_for(given: Federation | Maker, seed: int) -> Federation:
    """Return the federation of a seed.

    Args:
        given: A federation, or a function that makes the one of a seed.
        seed: The seed.

    Raises:
        ConfigError: The function made one with another seed.
    """
    if not callable(given):
        return replace(given, seed=seed)
    federation = given(seed)
    if federation.seed != seed:
        raise ConfigError(
            f"the federation for seed {seed} has seed {federation.seed}, expected {seed}; make it with "
            "Federation(..., seed=seed)"
        )
    return federation


def _plan(methods: Mapping[str, Federation], reference: Strategy[Any], folder: Path) -> list[PlannedRun]:
    """Plan the runs of the methods of one seed, all evaluated at the same local steps."""
    cycle = reference.local_steps * reference.cycle_rounds
    federations = [
        replace(method, clients=as_source(method.clients), evaluate_every=method.evaluate_every or cycle)
        for method in methods.values()
    ]
    refuse_misfits(federations)
    runs = [planned_run(federation, folder, None, reference.base_interval) for federation in federations]
    by_folder = dict(zip((run.folder for run in runs), methods, strict=True))
    twice = [title for title, run in zip(methods, runs, strict=True) if by_folder[run.folder] != title]
    if twice:
        raise ConfigError(f"{shown(twice[0])} is the same federation as another method; give each once")
    return runs


def planned_run(federation: Federation, out: Path, name: str | None, base_interval: int) -> PlannedRun:
    """Plan a run in a folder that is named, or whose name is made from the settings.

    Args:
        federation: What to run.
        out: Folder of the run folder.
        name: Name of the run folder; None for one that is made from the settings.
        base_interval: Interval of the FedAvg that counts as 100 % cost, in local steps.
    """
    if name is None:
        name = run_name(federation.strategy, federation.seed, _digest(config_of(None, federation)))
    return PlannedRun(None, federation, base_interval, out / name)


def _digest(config: Config) -> str:
    """Return a digest of what decides a run; where it is computed does not."""
    described = {key: value for key, value in config["in_force"].items() if key not in _PLACE}
    text = json.dumps({**config, "in_force": described}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def _path(out: Path | str) -> Path:
    return expanded(out)
