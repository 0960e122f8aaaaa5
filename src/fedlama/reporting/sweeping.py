"""Sweeps from Python: an experiment, or federations that a function makes, at every combination of some values.

What `fedlama run --sweep` does, as a call: it plans the runs and calls the functions that the command line calls.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fedlama.analysis.study import Execution
from fedlama.analysis.sweep import Axis, Grid, Sweep, SweepPlan, check_axes, run_grid, run_sweep
from fedlama.core.paths import expanded
from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, shown
from fedlama.experiment import load_experiment
from fedlama.experiment.files import value_of
from fedlama.experiment.settings import check_name
from fedlama.experiment.toml import inline
from fedlama.federation.federation import Federation
from fedlama.reporting.heat_map import draw_sweep
from fedlama.reporting.observer import RunReporter
from fedlama.reporting.training import chosen_seeds, made_for, planned_run
from fedlama.runs.execute import PlannedRun, RunOptions, refuse_misfits

_TRACKERS = ("tensorboard",)


def sweep(
    experiment: str | Path | Callable[..., Federation],
    values: Mapping[str, Sequence[object]],
    seeds: int | Sequence[int] | None = None,
    *,
    overrides: Iterable[str] = (),
    plugins: Sequence[str] = (),
    out: Path | str = "runs",
    name: str = "sweep",
    again: bool = False,
    track: Iterable[str] = _TRACKERS,
    checkpoint_seconds: float = 30.0,
    quiet: bool = False,
) -> Sweep:
    """Train at every combination of some values, under every seed; finished runs are read, interrupted ones continue.

    Args:
        experiment: An experiment, as :func:`fedlama.load_experiment` takes it; or a function that makes a federation
            from the keys of `values` and `seed`, each by its name. The function is called for every combination before
            anything is trained, so that everything that cannot run is refused first.
        values: The values of each key, such as ``{"solver.learning_rate": [0.05, 0.1]}``; for a function the values of
            each argument.
        seeds: The seeds, each once, or how many, from the experiment's own (for a function from 0); by default one.
        overrides: What all combinations share, as for :func:`fedlama.load_experiment`; a function has none.
        plugins: Files or modules with options of your own, as for :func:`fedlama.load_experiment`.
        out: Folder for all sweeps.
        name: Name of the folder in `out`, for a function; that of an experiment has the experiment's name.
        again: Retrain runs that have finished.
        track: As for :func:`fedlama.run`.
        checkpoint_seconds: As for :func:`fedlama.run`.
        quiet: Show no progress.

    Returns:
        The sweep: its `table`, its `best` combination, and every run. The folder has ``sweep.json``, and the pictures
        ``sweep.png`` and ``sweep_front.png``.

    Raises:
        ConfigError: Combinations that cannot run; the problems of all of them.
        DivergenceError: Every run diverged; if only some do, their seeds are left out of their means.
        FedlamaError: Another process writes to the folder, or it cannot be written.
        Interrupted: Ctrl-C or a signal asked to stop; the same call continues from there.
    """
    options = RunOptions(expanded(out), quiet, checkpoint_seconds, again, tuple(track))
    axes = _axes(values)
    if callable(experiment):
        if [*overrides, *plugins]:
            raise ConfigError("overrides or plugins are given beside a function; set them in the function")
        refuse(check_name(name))
        return _of_function(experiment, values, axes, chosen_seeds(0, seeds), options, options.out / name)
    given = tuple(overrides)
    settings = load_experiment(str(experiment), given, plugins).settings
    plan = SweepPlan(str(experiment), given, axes, chosen_seeds(settings.seed, seeds), tuple(plugins))
    with RunReporter(options) as reporter:
        swept = run_sweep(plan, options, reporter)
    draw_sweep(swept, options.out / settings.name)
    return swept


def _of_function(
    make: Callable[..., Federation],
    values: Mapping[str, Sequence[object]],
    axes: tuple[Axis, ...],
    seeds: tuple[int, ...],
    options: RunOptions,
    folder: Path,
) -> Sweep:
    """Sweep over the arguments of a function that makes federations."""
    by_text = {axis.key: dict(zip(axis.values, values[axis.key], strict=True)) for axis in axes}

    def made(combination: tuple[str, ...], seed: int) -> Federation:
        arguments = {axis.key: by_text[axis.key][text] for axis, text in zip(axes, combination, strict=True)}
        return made_for(partial(_call, make, arguments), seed)

    def planned(combination: tuple[str, ...], seed: int) -> PlannedRun:
        federation = made(combination, seed)
        return planned_run(federation, folder, None, federation.strategy.base_interval)

    problems: set[str] = set()
    for combination in Grid(axes, seeds).combinations:  # one after another, so that the data of one are held at a time
        federation = made(combination, seeds[0])
        refuse_misfits([federation])
        problems.add(_problem(federation))
    with RunReporter(options) as reporter:
        swept = run_grid(Grid(axes, seeds, len(problems) == 1), planned, folder, Execution(options, reporter))
    draw_sweep(swept, folder)
    return swept


def _problem(federation: Federation) -> str:
    """Return what is learnt from which data, as text."""
    described = federation.describe()
    parts = (described["clients"].get("data"), described["test_set"], described["task"])
    return json.dumps(parts, sort_keys=True)


def _call(make: Callable[..., Federation], arguments: Mapping[str, Any], seed: int) -> Federation:
    return make(seed=seed, **arguments)


def _axes(values: Mapping[str, Sequence[object]]) -> tuple[Axis, ...]:
    """Return the axes with their values as an override writes them."""
    for key, given in values.items():
        if not isinstance(given, (list, tuple)) or not given:
            raise ConfigError(
                f"values[{key!r}] is {shown(given)}, expected a list of values; write {key!r}: [0.05, 0.1]"
            )
    if not values:
        raise ConfigError("values is empty, expected a list of values for one key at least; give a key with its values")
    return check_axes([Axis(key, tuple(map(_text, given))) for key, given in values.items()])


def _text(value: object) -> str:
    """Return a value as an override writes it; what is not a plain JSON type is shown as Python does."""
    if isinstance(value, str) and value_of(value) == value:
        return value
    try:
        return inline(value)
    except TypeError:
        return repr(value)
