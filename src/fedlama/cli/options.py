"""Commands that read finished runs, and what they share with those that train."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fedlama.analysis.links import PROFILES, parse_links
from fedlama.analysis.timing import time_runs
from fedlama.cli import tables
from fedlama.errors import ConfigError
from fedlama.reporting.html import write_report
from fedlama.runs.stored import find_runs
from fedlama.runs.verify import verify as verify_run

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on standard output.")]
LinkOption = Annotated[
    list[str] | None,
    typer.Option(
        "--link", help=f"A link: {', '.join(PROFILES)}, or '4g,up=5Mbit/s,compute=80ms'. Repeat it for several."
    ),
]
LinksFile = Annotated[Path | None, typer.Option("--links", help="A TOML file with one table per link.")]
Price = Annotated[float | None, typer.Option("--price", help="Price of a GB (10^9 bytes), in any currency.")]
Target = Annotated[float | None, typer.Option("--target", help="Accuracy in percent whose first reaching is told.")]
Runs = Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders that hold some.")]


def links(
    runs: Runs,
    link: LinkOption = None,
    links: LinksFile = None,
    target: Target = None,
    price: Price = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides what links draw by client.")] = 0,
    evaluation: Annotated[bool, typer.Option("--evaluation", help="Let evaluation-only uploads take time.")] = False,
    as_json: Json = False,
) -> None:
    """Tell how long finished runs take on given links, from their ledgers alone."""
    share, per_gb = check_target(target), check_price(price)
    seen = time_runs(find_runs(runs), parse_links(link or [], links), seed=seed, evaluation=evaluation)
    content = {"runs": [one.to_json(share, per_gb) for one in seen]}
    show(content, tables.timings(seen, share, per_gb), as_json, quiet=False)


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    link: LinkOption = None,
    links: LinksFile = None,
    seed: Annotated[int, typer.Option("--seed", help="Decides what links draw by client.")] = 0,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file that shows finished runs; it opens offline and makes no request."""
    found = find_runs(runs)
    file = write_report(found, out, parse_links(link or [], links), seed=seed)
    size = f"{len(found)} run{'s' if len(found) > 1 else ''}, {file.stat().st_size / 1000:.0f} kB"
    show(
        {"report": str(file), "runs": [str(path) for path in found]},
        [f"{file}: {size}; open it in a browser"],
        as_json,
        quiet=False,
    )


def verify(
    runs: Runs,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Rounds to compute again.", show_default="all")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the first rounds of runs again and compare them, bit for bit; the exit code is 1 if any differs."""
    verdicts = [verify_run(run, rounds) for run in find_runs(runs)]
    told: list[Table | str] = [line for verdict in verdicts for line in verdict.lines()]
    show({"runs": [verdict.to_json() for verdict in verdicts]}, told, as_json, quiet=False)
    if any(verdict.difference is not None for verdict in verdicts):
        raise typer.Exit(1)


def check_target(percent: float | None) -> float | None:
    """Return an accuracy in [0, 1] from percent.

    Raises:
        ConfigError: It does not lie between 0 and 100.
    """
    if percent is not None and not 0 < percent <= 100:
        raise ConfigError(f"--target is {percent}, but an accuracy in percent lies above 0 and up to 100; change it")
    return None if percent is None else percent / 100


def parse_seeds(text: str | None, first: int) -> list[int]:
    """Read seeds: a number of them from the experiment's own on, or a list of them.

    Raises:
        ConfigError: Neither, or a seed twice.

    >>> parse_seeds("3", 0), parse_seeds("7,1", 0), parse_seeds("4,", 0)
    ([0, 1, 2], [7, 1], [4])
    """
    if text is None:
        return [first]
    try:
        given = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        given = []
    if "," not in text and given and 1 <= given[0] <= 10_000:
        return list(range(first, first + given[0]))
    if "," not in text or not given or len(set(given)) < len(given):
        raise ConfigError(f"--seeds is {text!r}; give their number, such as 5, or each once, such as 0,1,2 or 7,")
    return given


def check_price(price: float | None) -> float | None:
    """Return a price per GB.

    Raises:
        ConfigError: It is negative or not finite.
    """
    if price is not None and not 0 <= price < math.inf:
        raise ConfigError(f"--price is {price}, but a price per GB must be 0 or more; change it")
    return price


def show(content: dict[str, Any], shown: list[Table | str], as_json: bool, quiet: bool) -> None:
    """Print one JSON object, or tables, or nothing.

    Args:
        content: The object.
        shown: The tables and lines.
        as_json: Print the object.
        quiet: Print neither.
    """
    if as_json:
        print(json.dumps(content))
    elif not quiet:
        console = Console()
        for part in shown:
            console.print(part, highlight=False, soft_wrap=isinstance(part, str))
