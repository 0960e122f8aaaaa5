"""The command line: `fedlama compare`, `run`, `plan`, `list`, `config`, `links`, `report`, `verify` and `flower`.

The commands are in :mod:`~fedlama.cli.train` (those that train or plan an experiment), :mod:`~fedlama.cli.show` (those
that show what can be set), :mod:`~fedlama.cli.finished` (those that take run folders) and :mod:`~fedlama.cli.flower`
(deployments). The smallest command that shows something is
``fedlama compare``: it needs no files, no network and under a minute.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any, NoReturn

import typer

import fedlama
from fedlama.cli import finished, show, train
from fedlama.cli.flower import app as flower_app
from fedlama.cli.options import SECTIONS
from fedlama.core.deprecations import RenamedWarning
from fedlama.errors import FedlamaError, TrainingWarning, cut, printable, write_remedy
from fedlama.experiment.loading import own_code

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Communication-efficient federated learning: layer-wise schedules, and a ledger of every byte.",
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(fedlama.__version__)
        raise typer.Exit


for command in (train.compare, train.run, train.plan, show.config):
    app.command(epilog=SECTIONS)(command)
app.command("list")(show.list_names)
for reading in (finished.links, finished.report, finished.verify):
    app.command()(reading)
app.add_typer(flower_app, name="flower")


def main() -> None:
    """Run the command line; print errors that the user can fix as sentences, without a traceback."""
    try:
        with _warnings_as_notes():
            app()
    except FedlamaError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        file, reason = error.filename or "a file", error.strerror or error
        _fail(f"{file} cannot be read or written ({reason}); {write_remedy(error, 'give another path')}")
    except Exception as error:
        if not (where := own_code(error)):
            raise
        _fail(f"an option of your own failed: {type(error).__name__}: {cut(error)}{where}; correct it there", 1)


@contextmanager
def _warnings_as_notes() -> Iterator[None]:
    """Print a note on standard error for each old word that the user wrote, once, and for each loss that explodes."""
    noted: set[str] = set()
    with warnings.catch_warnings():
        show_warning = warnings.showwarning

        def show_note(message: Warning | str, category: type[Warning], *where: Any) -> None:  # noqa: ANN401
            if not issubclass(category, (RenamedWarning, TrainingWarning)):
                show_warning(message, category, *where)
            elif str(message) not in noted:
                noted.add(str(message))
                print(f"note: {message}", file=sys.stderr)

        warnings.simplefilter("always", RenamedWarning)
        warnings.simplefilter("always", TrainingWarning)
        warnings.showwarning = show_note  # type: ignore[assignment]
        yield


def _fail(message: str, code: int = 2) -> NoReturn:
    with suppress(OSError):  # the terminal may have been closed
        for line in message.splitlines():
            print(f"error: {printable(line)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
