"""Write the report: from run folders to one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from fedlama.analysis.links import PROFILES, Link
from fedlama.analysis.timing import time_runs
from fedlama.errors import FedlamaError
from fedlama.reporting.html.collect import collect
from fedlama.reporting.html.groups import groups
from fedlama.reporting.html.page import page
from fedlama.runs.stored import diverged_beside


def report_page(
    runs: Iterable[Path],
    links: Sequence[Link] = tuple(PROFILES.values()),
    *,
    title: str = "fedlama report",
    seed: int = 0,
) -> str:
    """Return the report of some runs.

    Args:
        runs: Run folders.
        links: Links on which times are computed.
        title: Heading of the page.
        seed: Decides what links draw for each client.

    Returns:
        The HTML.

    Raises:
        DataError: A folder cannot be read as a run.
        ConfigError: A link does not fit the clients.
    """
    folders = list(runs)
    timings = time_runs(folders, links, seed=seed)
    collected = [collect(timing) for timing in timings]
    return page(title, collected, groups(collected), timings, diverged_beside(folders))


def write_report(
    runs: Iterable[Path], file: Path, links: Sequence[Link] = tuple(PROFILES.values()), *, seed: int = 0
) -> Path:
    """Write the report of some runs.

    Args:
        runs: Run folders.
        file: The HTML file; missing folders are made.
        links: Links on which times are computed.
        seed: Decides what links draw for each client.

    Returns:
        The file.

    Raises:
        FedlamaError: The file cannot be written.
    """
    text = report_page(runs, links, seed=seed)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FedlamaError(f"the report {file} cannot be written ({error.strerror}); choose another --out") from error
    return file
