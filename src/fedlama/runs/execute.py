"""Execute runs and leave a run folder for each: of an experiment, or of a federation that was built in Python.

A run is planned first (`PlannedRun`: what to run and where its folder is), so that everything that cannot work is
refused before the first round. Then each planned run is taken from its folder where it was finished before, continued
where it was interrupted, or trained. Nothing here draws, tracks or shows progress: an :class:`Observer` that the caller
hands in does (see :mod:`fedlama.reporting.observer`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedlama.choices.strategies import Strategy
from fedlama.core.layers import total_parameters
from fedlama.core.ledger import cost_percent
from fedlama.core.records import Result
from fedlama.core.validation import refuse
from fedlama.data.sources import as_source
from fedlama.errors import ConfigError, DivergenceError, printable
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.experiment.build import comparable, with_rounds_of
from fedlama.experiment.titles import hyperparameters, title, variant_in_force
from fedlama.experiment.variants import Method, variant_of
from fedlama.federation.callbacks import CallbackError, RoundCallback
from fedlama.federation.checks import check_federation
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run
from fedlama.federation.strategy_state import store_state
from fedlama.runs.autosave import Checkpoints, StopRequest, resume_point, stop_on_signals, take_back
from fedlama.runs.checkpoint import save_snapshot
from fedlama.runs.configuration import config_differences, config_of, provenance, replaced_data
from fedlama.runs.divergence import Divergence, light
from fedlama.runs.earlier import (
    finished_before,
    refuse_other_run,
    refuse_replaced_data,
    run_with_other_code,
    run_with_other_values,
)
from fedlama.runs.folder import RunFolder, decision_keys, finite, score_keys
from fedlama.runs.lock import FolderLock
from fedlama.runs.reader import Config, read_config

_AGAIN = ", or train on the data as they are now with --again (RunOptions(again=True) in Python)"
_LOG = logging.getLogger("fedlama.runs")


@dataclass(frozen=True)
class RunOptions:
    """How to execute runs; nothing here changes what a run computes.

    Attributes:
        out: Folder for the run folders.
        quiet: Show no progress.
        checkpoint_seconds: Seconds between two checkpoints, at least; 0 saves after every round.
        again: Retrain runs that already finished.
        track: Names of trackers, see :mod:`fedlama.reporting.tracking`.
        resume: Continue interrupted runs; if not, they start at round 0.
        history: Checkpoints to keep, beside the two that a resumed run needs, also after the run has finished; 0
            deletes all of them at the end.
        from_round: Take the run back, and compute it again from this round on; None to continue it.
    """

    out: Path = Path("runs")
    quiet: bool = False
    checkpoint_seconds: float = 30.0
    again: bool = False
    track: tuple[str, ...] = ()
    resume: bool = True
    history: int = 0
    from_round: int | None = None


@dataclass(frozen=True)
class PlannedRun:
    """A run before its first round.

    Attributes:
        experiment: Its settings; None for a federation that was built in Python.
        federation: What to run.
        base_interval: Interval of the FedAvg that counts as 100 % cost, in local steps.
        folder: The run folder.
    """

    experiment: Experiment | None
    federation: Federation
    base_interval: int
    folder: Path

    @classmethod
    def of(
        cls, experiment: Experiment, federation: Federation, out: Path, base_interval: int | None = None
    ) -> PlannedRun:
        """Plan a run of an experiment.

        Args:
            experiment: The experiment.
            federation: The experiment as assembled; its engine may have been replaced.
            out: Folder for the run folders.
            base_interval: Interval that counts as 100 % cost; by default the strategy's own base interval.
        """
        base_interval = experiment.strategy.base_interval if base_interval is None else base_interval
        return cls(experiment, federation, base_interval, folder_of(experiment, out))

    @property
    def project(self) -> str:
        """The name of the experiment, or of the folder that holds the run folders."""
        return self.folder.absolute().parent.name if self.experiment is None else self.experiment.settings.name

    @property
    def title(self) -> str:
        """The method with its intervals, such as ``FedLAMA(6, 4)``."""
        return title(variant_in_force(self.federation.strategy, self.federation.codec))

    @property
    def config(self) -> dict[str, object]:
        """The configuration, as ``config.json`` holds it beside the environment."""
        return config_of(self.experiment, self.federation)

    def differences(self, stored: Config) -> list[str]:
        """Return what differs between a stored configuration and this run, one clause each."""
        return config_differences(stored, self.experiment, self.federation)

    def replaced_data(self, stored: Config) -> list[str]:
        """Return which data of a stored run of these settings were replaced since, one clause each."""
        return replaced_data(stored, self.experiment, self.federation)

    def provenance(self, stored: Config) -> list[str]:
        """Return what a user has to know of a stored run of these settings before it is used, one sentence each."""
        return provenance(stored, self.federation)

    def cost_percent(self, result: Result) -> float:
        """Return the paper's C of a finished run relative to FedAvg at the base interval, in percent."""
        parameters = total_parameters(self.federation.labelling())
        steps = len(result.rounds) * self.federation.strategy.local_steps  # fewer than the budget after an early stop
        return cost_percent(result.cost, parameters, steps, self.base_interval)


@dataclass(frozen=True)
class Finished:
    """One method's finished run.

    Attributes:
        title: The method with its intervals, such as ``FedLAMA(6, 4)``.
        result: The run.
        summary: The content of its ``summary.json``.
        reused: Whether it had finished before and was not trained again.
    """

    title: str
    result: Result
    summary: Mapping[str, object]
    reused: bool = False

    def to_json(self) -> dict[str, object]:
        """Return its entry in ``--json``."""
        return {**self.summary, "reused": self.reused}


@dataclass(frozen=True)
class Attempt:
    """A planned run that was tried: either it finished, or it diverged.

    Attributes:
        finished: The finished run; None if it diverged.
        divergence: Where it diverged; None if it finished.
    """

    finished: Finished | None
    divergence: Divergence | None = None


class Observer:
    """Watches runs from outside: progress bars, trackers, pictures. This base class logs notes and nothing else."""

    def expect(self, runs: Sequence[PlannedRun]) -> None:
        """Called with all planned runs before the first starts; raise here to refuse them."""

    def watch(self, run: PlannedRun) -> AbstractContextManager[Sequence[RoundCallback]]:
        """Return a context manager that is open while one run trains; it yields the callbacks for its rounds."""
        return nullcontext(())

    def on_reused(self, run: PlannedRun, result: Result) -> None:
        """Called instead of `watch` for a run that had finished before."""

    def on_finished(self, run: PlannedRun, result: Result) -> None:
        """Called when a run has been trained and its folder is complete."""

    def note(self, sentence: str) -> None:
        """Called with a sentence for the user, such as a damaged checkpoint that was skipped."""
        _LOG.warning("%s", sentence)


def execute(
    experiment: Experiment,
    methods: Sequence[Method],
    options: RunOptions | None = None,
    observer: Observer | None = None,
) -> list[Finished]:
    """Run one experiment under several methods; everything else is the same for all.

    Args:
        experiment: The experiment; its own strategy names the interval of the FedAvg that counts as 100 %.
        methods: What to run, in this order.
        options: How to run it; by default the defaults of :class:`RunOptions`.
        observer: Watches the runs; by default nothing does.

    Returns:
        The finished runs, in the order of the methods.

    Raises:
        ConfigError: A strategy does not fit the experiment; nothing has been trained then.
        DataError: A run folder holds a run on other data, and `again` is not set; nothing has been trained then.
        FedlamaError: Another process writes to one of the run folders; nothing has been trained then.
        Interrupted: The user asked to stop; the same call continues from there.
    """
    options = options or RunOptions()
    return execute_planned(plan_runs(experiment, methods, options.out), options, observer)


def execute_planned(
    runs: Sequence[PlannedRun], options: RunOptions | None = None, observer: Observer | None = None
) -> list[Finished]:
    """Take each planned run from its folder where it has finished, or else train it.

    Args:
        runs: The runs, each with a folder of its own; of all of them is known that they can run.
        options: How to run them; the folders are those of the runs.
        observer: Watches the runs; by default nothing does.

    Returns:
        The finished runs, in their order.

    Raises:
        ConfigError: One run would be written by several processes.
        DataError: A folder holds another run, see :func:`execute` and :func:`refuse_other_run`.
        DivergenceError: A run diverged; the runs after it are not started.
        FedlamaError: Another process writes to one of the folders; nothing has been trained then.
        Interrupted: The user asked to stop; the same call continues from there.
    """
    attempts = _attempts(runs, options or RunOptions(), observer or Observer(), keep_going=False)
    return [attempt.finished for attempt in attempts if attempt.finished is not None]


def attempt_planned(
    runs: Sequence[PlannedRun], options: RunOptions | None = None, observer: Observer | None = None
) -> list[Attempt]:
    """Do what :func:`execute_planned` does, but go on with the next run where one diverges.

    Args:
        runs: As for :func:`execute_planned`.
        options: As for :func:`execute_planned`.
        observer: As for :func:`execute_planned`; it gets a note about each run that diverged.

    Returns:
        What became of each run, in their order.

    Raises:
        FedlamaError: As for :func:`execute_planned`, but for a divergence.
    """
    return _attempts(runs, options or RunOptions(), observer or Observer(), keep_going=True)


def _attempts(
    runs: Sequence[PlannedRun], options: RunOptions, observer: Observer, *, keep_going: bool
) -> list[Attempt]:
    """Take each run from its folder or train it; a divergence is raised, unless the other runs are to go on."""
    for run in runs:
        _refuse_several_processes(run.federation)
        _refuse_others(run, options)
    observer.expect(runs)
    attempts: list[Attempt] = []
    with ExitStack() as stack, stop_on_signals() as stop:
        locks = {run.folder: stack.enter_context(FolderLock(run.folder)) for run in runs if _to_train(run, options)}
        for run in runs:
            if stop():
                raise stop.interrupted(
                    f"stopped before {run.title}; the runs before it are finished, start the same command again to "
                    "continue"
                )
            reused = None if options.again else _reused(run, observer)
            if reused is None and run.folder not in locks:
                locks[run.folder] = stack.enter_context(FolderLock(run.folder))
            try:
                attempts.append(Attempt(reused or run_one(run, options, observer, Held(locks[run.folder], stop))))
            except DivergenceError as error:
                if not keep_going:
                    raise
                divergence = Divergence(run.title, run.federation.seed, run.folder, light(error))
                observer.note(f"{divergence.show()}; the other runs go on")
                attempts.append(Attempt(None, divergence))
    return attempts


def _refuse_several_processes(federation: Federation) -> None:
    """Refuse one run in several processes, each of which would write its folder and resume at another round."""
    engine: object = federation.engine
    processes = os.environ.get("WORLD_SIZE", "1")
    if getattr(engine, "name", engine) == "distributed" and processes != "1":
        raise ConfigError(
            f"engine is 'distributed' with {processes} processes, but one process writes to a run folder; call "
            "Federation.run in all of them, in the first one with a fedlama.RunFolder among its callbacks"
        )


def _refuse_others(run: PlannedRun, options: RunOptions) -> None:
    """Refuse a folder that holds a run on other data or, when its user has named it, any other run."""
    if run.experiment is None:
        refuse_other_run(run.folder, run.differences, replace_it=options.again)
    elif not options.again:
        refuse_replaced_data(run.folder, run.replaced_data, _AGAIN)


def _to_train(run: PlannedRun, options: RunOptions) -> bool:
    """Return whether a run will be trained, as far as it can be seen without reading its files."""
    return options.again or not (run.folder / "summary.json").exists()


def plan_runs(experiment: Experiment, methods: Iterable[Method], out: Path) -> list[PlannedRun]:
    """Assemble the runs of several methods on the same data, clients and initial model.

    Raises:
        ConfigError: A method does not fit the experiment; holds the problems of all methods.
    """
    material = prepare(experiment)
    reference = experiment.strategy
    experiment = comparable(experiment, material.clients)
    if experiment.settings.evaluate_every is None:  # evaluate every method at the same local steps
        cycle = reference.local_steps * reference.cycle_rounds
        experiment = replace(experiment, settings=replace(experiment.settings, evaluate_every=cycle))
    variants = [with_rounds_of(variant_of(m).applied(experiment), reference.local_steps) for m in methods]
    runs = [PlannedRun.of(variant, assemble(variant, material), out, reference.base_interval) for variant in variants]
    refuse_misfits(run.federation for run in runs)
    return runs


def refuse_misfits(federations: Iterable[Federation]) -> None:
    """Refuse every federation that cannot run, before the first one trains.

    Args:
        federations: The federations.

    Raises:
        ConfigError: With the problems of all of them.
    """
    problems: list[str] = []
    for federation in federations:
        try:
            check_federation(federation, federation.labelling(), as_source(federation.clients))
            strategy = federation.strategy
            store_state(strategy, strategy.init(federation.labelling(), federation.seed))  # for the checkpoints
        except ConfigError as error:
            problems += error.problems
    refuse(list(dict.fromkeys(problems)))


def _reused(run: PlannedRun, observer: Observer) -> Finished | None:
    """Return a run that finished before, with its cost relative to this comparison's base interval."""
    finished = finished_before(run.folder, run, run.federation.budget.rounds, observer.note)
    if finished is None:
        return None
    result, summary = finished
    result = _with_untrained(result, run.federation)
    observer.on_reused(run, result)
    current = {"cost_percent": run.cost_percent(result), "bytes_per_step": result.bytes_per_step}
    return Finished(run.title, result, {**summary, **current}, reused=True)


def _with_untrained(result: Result, federation: Federation) -> Result:
    """Return a result that was read back with the tensors that are not in its folder."""
    untrained = federation.untrained()
    if not untrained or untrained.keys() <= result.model.keys():
        return result
    names = list(federation.model.state_dict())

    def whole(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[name] if name in values else untrained[name].clone() for name in names}

    best = None if result.best is None else replace(result.best, model=whole(result.best.model))
    return replace(result, model=whole(result.model), best=best)


@dataclass(frozen=True)
class Held:
    """What the caller of :func:`run_one` holds already.

    Attributes:
        lock: The lock of the run folder.
        stop: The request to stop.
    """

    lock: FolderLock
    stop: StopRequest


def run_one(
    planned: PlannedRun, options: RunOptions, observer: Observer | None = None, held: Held | None = None
) -> Finished:
    """Train one run into its folder, which is locked while it trains, from where an interrupted run of it stopped.

    Args:
        planned: What to run and where.
        options: `resume` and the time between checkpoints are used.
        observer: Watches the run; by default nothing does.
        held: By default the folder is locked and signals to stop are handled here.

    Returns:
        The finished run.

    Raises:
        DataError: The folder holds a run on other data, and `held` was not given.
        FedlamaError: Another process writes to the folder.
        Interrupted: The user asked to stop; the same call continues from there.
    """
    if held is None:
        refuse_replaced_data(planned.folder, planned.replaced_data)
        with FolderLock(planned.folder) as lock, stop_on_signals() as stop:
            return run_one(planned, options, observer, Held(lock, stop))
    observer = observer or Observer()
    config, path = planned.config, planned.folder
    if options.from_round is not None:
        take_back(path, options.from_round)
    point = resume_point(path, planned, warn=observer.note) if options.resume else None
    before = point[1] if point else []
    with observer.watch(planned) as callbacks, RunFolder(path, config, len(before), lock=held.lock) as folder:
        run = Run(planned.federation)
        if point:
            run.load_state_dict(*point)
            observer.note(f"{path}: continuing after round {len(before) - 1}")
        else:
            _note_neighbour(planned, observer)

        def save(target: Path) -> Path:
            return save_snapshot(folder.sealed(run.state_dict()), target, keep=2 + options.history)

        saving = Checkpoints(folder, save, options.checkpoint_seconds, held.stop)
        try:
            result = run.to_end([folder, *callbacks, saving], before, again=callbacks)
        except CallbackError as error:
            if run.round_index:
                saving.save()
            where = f"{error}; the state is saved in {printable(path)}, start the same command again to continue"
            raise CallbackError(where, error.result) from error.__cause__
        summary = _summary(planned, result)
        keep = options.history > 0
        folder.finish(result, summary, planned.federation.untrained(), keep_checkpoints=keep)
    observer.on_finished(planned, result)
    return Finished(planned.title, result, summary)


def _note_neighbour(planned: PlannedRun, observer: Observer) -> None:
    """Say where a run of the same settings is that had other code, or a model with other initial values."""
    path, experiment = planned.folder, planned.experiment
    if experiment is None:
        if same := run_with_other_values(path, planned.config):
            observer.note(
                f"{same} has a run of the same federation whose model had other initial values; call torch.manual_seed "
                f"before the model is made to continue or reuse runs; this is another run, in {path}"
            )
        return
    earlier = run_with_other_code(path, experiment.to_json())
    if earlier is None:
        return
    digests, origins = (read_config(earlier) or {}).get("sources", {}), experiment.origins.items()
    changed = sorted({origin.reference for section, origin in origins if digests.get(section) != origin.digest})
    observer.note(
        f"your own code has changed since the run in {earlier} ({', '.join(changed)}); that run is kept, and this is "
        f"another run, in {path}"
    )


def _summary(planned: PlannedRun, result: Result) -> dict[str, object]:
    """Return a run's entry in ``--json``."""
    return {
        "method": result.method,
        "hyperparameters": hyperparameters(planned.federation.strategy),
        "seed": planned.federation.seed,
        "accuracy": finite(result.score.accuracy) if result.score and result.score.accuracy is not None else None,
        "loss": finite(result.score.loss) if result.score else None,
        **score_keys(result.score),
        "cost_percent": planned.cost_percent(result),
        "bytes_per_step": result.bytes_per_step,
        "bytes_up": result.ledger.total_bytes("up"),
        "bytes_down": result.ledger.total_bytes("down"),
        "rounds": len(result.rounds),
        "seconds": result.seconds,
        **decision_keys(result),
        "run_folder": str(planned.folder),
    }


def folder_of(experiment: Experiment, out: Path) -> Path:
    """Return an experiment's run folder: the same settings always name the same folder.

    Args:
        experiment: The experiment.
        out: Folder for all run folders.
    """
    return out / experiment.settings.name / run_name(experiment.strategy, experiment.settings.seed, experiment.digest())


def run_name(strategy: Strategy[Any], seed: int, digest: str) -> str:
    """Return the name of a run folder that is made from settings, such as ``fedlama-6-4-seed0-0123abcd``.

    Args:
        strategy: The strategy.
        seed: The seed.
        digest: A digest of all settings.
    """
    numbers = [str(v) for v in hyperparameters(strategy).values() if type(v) is int]
    return "-".join([strategy.name, *numbers[:2], f"seed{seed}", digest])
