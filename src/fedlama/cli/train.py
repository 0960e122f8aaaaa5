"""Commands that take an experiment: `compare` and `run` train it, `plan` shows beforehand what that will send."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlama.cli.options import (
    Config,
    Json,
    LinkOption,
    LinksFile,
    Name,
    Overrides,
    Plugins,
    Price,
    Target,
    check_price,
    check_target,
    expand_home,
    named,
    parse_seeds,
    show,
)
from fedlama.errors import ConfigError
from fedlama.reporting.tracking import TRACKERS

if TYPE_CHECKING:
    from fedlama.runs.execute import RunOptions

Out = Annotated[Path, typer.Option("--out", callback=expand_home, help="Folder for the run folders.")]
Seconds = Annotated[
    float,
    typer.Option(
        "--checkpoint-seconds", min=0.0, help="Seconds between two checkpoints, at least; 0: after every round."
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods",
        help="Methods to compare, such as 'fedavg fedlama,increase_factor=2'; the option can be repeated.",
    ),
]
Seeds = Annotated[
    str | None, typer.Option("--seeds", help="Number of seeds (5), or a list of them (0,1,2); run: with --sweep.")
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        help=f"{', '.join(TRACKERS)} or none. Can be repeated.",
        show_default="tensorboard",
        autocompletion=lambda: [*TRACKERS, "none"],
    ),
]
SweepAxes = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=V1,V2",
        help="Train at each of these values, such as solver.learning_rate=0.05,0.1; with several of them at every "
        "combination. Any key but seed and name.",
    ),
]
Again = Annotated[bool, typer.Option("--again", help="Retrain runs that already finished.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress and no table.")]


def compare(
    experiment: Name = "digits",
    overrides: Overrides = None,
    methods: Methods = None,
    seeds: Seeds = None,
    target: Target = None,
    plugin: Plugins = None,
    again: Again = False,
    track: Track = None,
    out: Out = Path("runs"),
    checkpoint_seconds: Seconds = 30.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train FedAvg(tau'), FedAvg(phi*tau') and the experiment's strategy on the same clients, and compare them.

    With --seeds or --methods: means with 95 % intervals over seeds, and differences paired by seed. Runs that already
    finished are reused.
    """
    from fedlama.analysis.study import StudyPlan, run_study
    from fedlama.cli import tables
    from fedlama.core.measures import Measure
    from fedlama.experiment import load_experiment
    from fedlama.experiment.methods import parse_methods
    from fedlama.reporting.observer import RunReporter, draw_study
    from fedlama.runs.execute import RunOptions

    name, given = named(experiment, overrides)
    resolved = load_experiment(name, given, plugin or ())
    options = RunOptions(out, quiet or as_json, checkpoint_seconds, again, _trackers(track))
    plan = StudyPlan(
        () if methods is None else tuple(parse_methods(methods, name, given, plugin or ())),
        parse_seeds(seeds, resolved.settings.seed),
        check_target(target, Measure(resolved.task.primary, resolved.task.direction)),
    )
    with RunReporter(options) as reporter:
        study = run_study(resolved, plan, options, reporter)
    draw_study(study, out / resolved.settings.name)
    plain = methods is None and seeds is None and target is None
    parts = (
        [*tables.comparison(study.finished), *tables.diverged(study)]
        if plain
        else tables.study_table(study, [name, *given], _kept(out, plugin))
    )
    show(study.to_json(), parts, as_json, quiet)


def run(
    experiment: Name = "digits",
    overrides: Overrides = None,
    config: Config = None,
    sweep: SweepAxes = None,
    seeds: Seeds = None,
    plugin: Plugins = None,
    again: Again = False,
    track: Track = None,
    out: Out = Path("runs"),
    checkpoint_seconds: Seconds = 30.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train the experiment's strategy, unless that run already finished; with --sweep at each combination of values."""
    from fedlama.cli import tables
    from fedlama.experiment import load_experiment
    from fedlama.reporting.observer import RunReporter
    from fedlama.runs.execute import RunOptions, execute

    resolved = load_experiment(*named(experiment, overrides, config), plugin or ())
    options = RunOptions(out, quiet or as_json, checkpoint_seconds, again, _trackers(track))
    if sweep:
        _sweep(SweepOptions(named(experiment, overrides, config), sweep, seeds, plugin or []), options, as_json, quiet)
        return
    if seeds is not None:
        raise ConfigError("--seeds is given without --sweep; use `fedlama compare --seeds`, or add --sweep")
    with RunReporter(options) as reporter:
        finished = execute(resolved, [resolved.strategy], options, reporter)
    show({"runs": [run.to_json() for run in finished]}, tables.comparison(finished), as_json, quiet)


@dataclass(frozen=True)
class SweepOptions:
    """What `--sweep` was given with.

    Attributes:
        experiment: The experiment and its overrides.
        axes: Each ``KEY=V1,V2``.
        seeds: The value of `--seeds`.
        plugins: The values of `--plugin`.
    """

    experiment: tuple[str, list[str]]
    axes: list[str]
    seeds: str | None
    plugins: list[str]


def _sweep(given: SweepOptions, options: RunOptions, as_json: bool, quiet: bool) -> None:
    """Run a sweep, draw it and print its table."""
    from fedlama.analysis.sweep import SweepPlan, parse_axes, run_sweep
    from fedlama.cli.sweep_tables import sweep_table
    from fedlama.experiment import load_experiment
    from fedlama.reporting.heat_map import draw_sweep
    from fedlama.reporting.observer import RunReporter

    name, overrides = given.experiment
    settings = load_experiment(name, overrides, given.plugins).settings
    seeds = parse_seeds(given.seeds, settings.seed)
    plan = SweepPlan(name, tuple(overrides), parse_axes(given.axes), seeds, tuple(given.plugins))
    with RunReporter(options) as reporter:
        sweep = run_sweep(plan, options, reporter)
    pictures = draw_sweep(sweep, options.out / settings.name)
    show(sweep.to_json(), sweep_table(sweep, pictures), as_json, quiet)


def plan(
    experiment: Name = "digits",
    overrides: Overrides = None,
    link: LinkOption = None,
    links: LinksFile = None,
    price: Price = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Show what a comparison will send, before any training: bytes, time on links, and cost at a price per GB."""
    from fedlama.analysis.links import parse_links
    from fedlama.analysis.preview import preview
    from fedlama.cli import tables
    from fedlama.experiment import load_experiment

    resolved = load_experiment(*named(experiment, overrides), plugin or ())
    foreseen = preview(resolved, parse_links(link or [], links), check_price(price))
    show(foreseen.to_json(), tables.preview(foreseen), as_json, quiet=False)


def _kept(out: Path, plugins: list[str] | None) -> list[str]:
    """Return the options that a command needs to find the same runs again."""
    where = [] if out == Path("runs") else ["--out", str(out)]
    return [*where, *(word for plugin in plugins or () for word in ("--plugin", plugin))]


def _trackers(given: list[str] | None) -> tuple[str, ...]:
    return ("tensorboard",) if given is None else tuple(given)
