"""Commands that read finished runs: `links`, `report` and `verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from fedlama.cli.options import (
    Json,
    LinkOption,
    LinksFile,
    Plugins,
    Price,
    Seed,
    Target,
    check_price,
    check_target,
    expand_home,
    show,
)

Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", callback=expand_home, help="Run folders, or folders that contain some."),
]

Every = Annotated[
    bool,
    typer.Option("--all", help="Take every run below a folder, not only those of its latest comparison."),
]


def links(
    runs: Runs,
    link: LinkOption = None,
    links: LinksFile = None,
    target: Target = None,
    price: Price = None,
    seed: Seed = 0,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Include what is sent only for an evaluation.")
    ] = False,
    every: Every = False,
    as_json: Json = False,
) -> None:
    """Show how long finished runs take on given links, computed from their ledgers without training."""
    from fedlama.analysis.links import parse_links
    from fedlama.analysis.timing import time_runs
    from fedlama.cli.link_tables import timings as table_of
    from fedlama.core.records import measure_of

    per_gb = check_price(price)
    folders, others = _chosen(runs, every)
    _note_changes(folders)
    timings = time_runs(folders, parse_links(link or [], links), seed=seed, evaluation=evaluation)
    share = check_target(target, measure_of(record for timing in timings for record in timing.run.rounds))
    content = {"runs": [timing.to_json(share, per_gb) for timing in timings], "left_out": _plain(others)}
    show(content, [*table_of(timings, share, per_gb), *_sentences(others)], as_json, quiet=False)


def report(
    runs: Runs,
    out: Annotated[Path, typer.Option("--out", callback=expand_home, help="The HTML file.")] = Path("report.html"),
    link: LinkOption = None,
    links: LinksFile = None,
    seed: Seed = 0,
    every: Every = False,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML file about finished runs; it opens offline and makes no request."""
    from fedlama.analysis.links import parse_links
    from fedlama.reporting.html import write_report

    folders, others = _chosen(runs, every)
    _note_changes(folders)
    file = write_report(folders, out, parse_links(link or [], links), seed=seed, left_out=others)
    size = f"{len(folders)} run{'s' if len(folders) > 1 else ''}, {file.stat().st_size / 1000:.0f} kB"
    content = {"report": str(file), "runs": [str(folder) for folder in folders], "left_out": _plain(others)}
    show(content, [f"{file}: {size}; open it in a browser", *_sentences(others)], as_json, quiet=False)


def verify(
    runs: Runs,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Number of rounds to compute again.", show_default="all")
    ] = None,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Compute the first rounds of runs again and compare them bit for bit; exit with code 1 if any differs."""
    from fedlama.runs.stored import find_runs
    from fedlama.runs.verify import verify as verify_run

    verdicts = [verify_run(folder, rounds=rounds, plugins=plugin or ()) for folder in find_runs(runs)]
    lines = [line for verdict in verdicts for line in verdict.lines()]
    show({"runs": [verdict.to_json() for verdict in verdicts]}, lines, as_json, quiet=False)
    if any(verdict.difference is not None for verdict in verdicts):
        raise typer.Exit(1)


def _chosen(runs: list[Path], every: bool) -> tuple[list[Path], dict[Path, str]]:
    """Return the run folders that a command shows, and those that it leaves out, each with the reason."""
    from fedlama.runs.stored import find_runs, has_round, left_out

    folders = find_runs(runs, every=every)
    readable = [folder for folder in folders if folder in runs or has_round(folder)] or folders
    return readable, left_out(runs, readable)


def _plain(others: dict[Path, str]) -> dict[str, str]:
    return {str(folder): reason for folder, reason in others.items()}


def _sentences(others: dict[Path, str]) -> list[str]:
    from fedlama.runs.stored import left_out_sentences

    return list(left_out_sentences(_plain(others)))


def _note_changes(folders: Iterable[Path]) -> None:
    """Say on standard error which files of finished runs were changed since."""
    from fedlama.runs.stored import changed_files

    for folder in folders:
        for sentence in changed_files(folder):
            print(f"note: {sentence}", file=sys.stderr)
