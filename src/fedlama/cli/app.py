"""The command line: `fedlama compare`, `fedlama run` and `fedlama plan`.

The smallest command that shows something is ``fedlama compare``: it needs no files, no network and under a minute.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from fedlama import __version__
from fedlama.analysis.links import parse_links
from fedlama.analysis.preview import preview
from fedlama.analysis.study import run_study
from fedlama.cli import tables
from fedlama.cli.flower import app as flower_app
from fedlama.cli.options import Json, LinkOption, LinksFile, Price, Target, check_price, check_target, parse_seeds, show
from fedlama.cli.options import links as links_command
from fedlama.cli.options import report as report_command
from fedlama.cli.options import verify as verify_command
from fedlama.cli.tables import study_table
from fedlama.core.deprecations import RenamedWarning
from fedlama.errors import FedlamaError
from fedlama.experiment import Experiment, names, read, resolve
from fedlama.experiment.methods import parse_methods
from fedlama.reporting.tracking import TRACKERS
from fedlama.runs.execute import baselines, run_methods
from fedlama.runs.execute import compare as compare_methods

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Communication-efficient federated learning: layer-wise schedules and an honest ledger.",
)

Name = Annotated[
    str,
    typer.Argument(metavar="[EXPERIMENT]", help=f"A TOML file, or one of: {', '.join(names())}.", show_default=True),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change, such as strategy.increase_factor=2."),
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the run folders.")]
Seconds = Annotated[
    float,
    typer.Option("--checkpoint-seconds", min=0.0, help="Least time between two checkpoints; 0: after every round."),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--methods", help="What to compare, such as 'fedavg fedlama,increase_factor=2'. Repeat it or use spaces."
    ),
]
Seeds = Annotated[str | None, typer.Option("--seeds", help="How many seeds (5), or which (0,1,2).")]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", help=f"{', '.join(TRACKERS)} or none; repeat it for several.", show_default="tensorboard"),
]
Again = Annotated[bool, typer.Option("--again", help="Train also what has been done before.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress and no table.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command()
def compare(
    experiment: Name = "digits",
    overrides: Overrides = None,
    methods: Methods = None,
    seeds: Seeds = None,
    target: Target = None,
    again: Again = False,
    track: Track = None,
    out: Out = Path("runs"),
    checkpoint_seconds: Seconds = 30.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train FedAvg(tau'), FedAvg(phi*tau') and the experiment's strategy on the same clients and compare them.

    With --seeds and --methods, means with 95 % intervals over seeds, and differences paired by seed. What has been
    done before is not trained again.
    """
    name, given = _named(experiment, overrides)
    resolved = resolve(read(name, given))
    silent = quiet or as_json
    if methods is None and seeds is None and target is None:
        finished = compare_methods(
            resolved, out, quiet=silent, checkpoint_seconds=checkpoint_seconds, again=again, track=_trackers(track)
        )
        show({"runs": [one.summary for one in finished]}, tables.comparison(finished), as_json, quiet)
        return
    strategies = baselines(resolved.strategy) if methods is None else parse_methods(methods, name, given)
    study = run_study(
        resolved,
        strategies,
        parse_seeds(seeds, resolved.settings.seed),
        out,
        target=check_target(target),
        quiet=silent,
        checkpoint_seconds=checkpoint_seconds,
        again=again,
        track=_trackers(track),
    )
    show(study.to_json(), study_table(study, name, given, str(out)), as_json, quiet)


@app.command()
def run(
    experiment: Name = "digits",
    overrides: Overrides = None,
    again: Again = False,
    track: Track = None,
    out: Out = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
    checkpoint_seconds: Seconds = 30.0,
) -> None:
    """Train the experiment's strategy, unless that has been done before."""
    resolved = _experiment(experiment, overrides)
    finished = run_methods(
        resolved,
        [resolved.strategy],
        out,
        quiet=quiet or as_json,
        checkpoint_seconds=checkpoint_seconds,
        again=again,
        track=_trackers(track),
    )
    show({"runs": [one.summary for one in finished]}, tables.comparison(finished), as_json, quiet)


@app.command()
def plan(
    experiment: Name = "digits",
    overrides: Overrides = None,
    link: LinkOption = None,
    links: LinksFile = None,
    price: Price = None,
    as_json: Json = False,
) -> None:
    """Tell what a comparison will move, before any training: bytes, time on links, and money at a price per GB."""
    seen = preview(_experiment(experiment, overrides), parse_links(link or [], links), check_price(price))
    show(seen.to_json(), tables.preview(seen), as_json, quiet=False)


app.command("links")(links_command)
app.command("report")(report_command)
app.command("verify")(verify_command)
app.add_typer(flower_app, name="flower")


def main() -> None:
    """Run the command line; errors that a person can mend are told in their own words, without a traceback."""
    try:
        with _renamed_words_as_notes():
            app()
    except FedlamaError as error:
        _fail(str(error))
    except OSError as error:
        file, reason = error.filename or "a file", error.strerror or error
        _fail(f"{file} cannot be read or written ({reason}); check its place and the space there")


@contextmanager
def _renamed_words_as_notes() -> Iterator[None]:
    """Print each old word that the user wrote once, as a note on standard error."""
    noted: set[str] = set()
    with warnings.catch_warnings():
        show_warning = warnings.showwarning

        def show_note(message: Warning | str, category: type[Warning], *where: Any) -> None:  # noqa: ANN401
            if not issubclass(category, RenamedWarning):
                show_warning(message, category, *where)
            elif str(message) not in noted:
                noted.add(str(message))
                print(f"note: {message}", file=sys.stderr)

        warnings.simplefilter("always", RenamedWarning)
        warnings.showwarning = show_note  # type: ignore[assignment]
        yield


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def _experiment(name: str, overrides: list[str] | None) -> Experiment:
    return resolve(read(*_named(name, overrides)))


def _trackers(given: list[str] | None) -> list[str]:
    return ["tensorboard"] if given is None else given


def _named(name: str, overrides: list[str] | None) -> tuple[str, list[str]]:
    given = list(overrides or [])
    return ("digits", [name, *given]) if "=" in name else (name, given)  # `fedlama compare seed=1` changes the default


if __name__ == "__main__":
    main()
