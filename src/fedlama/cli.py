"""The command line: `fedlama compare`, `fedlama run` and `fedlama plan`.

The smallest command that shows something is ``fedlama compare``: it needs no files, no network and under a minute.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from fedlama import __version__, tables
from fedlama.comparison import compare as compare_methods
from fedlama.comparison import run_methods
from fedlama.console import Json, LinkOption, LinksFile, Price, check_price, show
from fedlama.console import links as links_command
from fedlama.errors import FedlamaError
from fedlama.experiment import Experiment, names, read, resolve
from fedlama.links import parse_links
from fedlama.preview import preview

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
    out: Out = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
    checkpoint_seconds: Seconds = 30.0,
) -> None:
    """Train FedAvg(tau'), FedAvg(phi*tau') and the experiment's strategy on the same clients and compare them."""
    finished = compare_methods(
        _experiment(experiment, overrides), out, quiet=quiet or as_json, checkpoint_seconds=checkpoint_seconds
    )
    show({"runs": [one.summary for one in finished]}, tables.comparison(finished), as_json, quiet)


@app.command()
def run(
    experiment: Name = "digits",
    overrides: Overrides = None,
    out: Out = Path("runs"),
    as_json: Json = False,
    quiet: Quiet = False,
    checkpoint_seconds: Seconds = 30.0,
) -> None:
    """Train the experiment's strategy."""
    resolved = _experiment(experiment, overrides)
    finished = run_methods(
        resolved, [resolved.strategy], out, quiet=quiet or as_json, checkpoint_seconds=checkpoint_seconds
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


def main() -> None:
    """Run the command line; errors that a person can mend are told in their own words, without a traceback."""
    try:
        app()
    except FedlamaError as error:
        _fail(str(error))
    except OSError as error:
        file, reason = error.filename or "a file", error.strerror or error
        _fail(f"{file} cannot be read or written ({reason}); check its place and the space there")


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        print(f"error: {line}", file=sys.stderr)
    sys.exit(2)


def _experiment(name: str, overrides: list[str] | None) -> Experiment:
    given = list(overrides or [])
    if "=" in name:  # `fedlama compare seed=1` means the default experiment with a change
        name, given = "digits", [name, *given]
    return resolve(read(name, given))


if __name__ == "__main__":
    main()
