"""Write the report: from run folders to one HTML file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from fedlama.analysis.links import PROFILES, Link
from fedlama.analysis.timing import time_runs
from fedlama.errors import FedlamaError
from fedlama.reporting.html.collect import collect
from fedlama.reporting.html.groups import groups
from fedlama.reporting.html.page import page
from fedlama.runs.compared import diverged_beside


def report_page(
    runs: Iterable[Path],
    links: Sequence[Link] = tuple(PROFILES.values()),
    *,
    title: str = "fedlama report",
    seed: int = 0,
    left_out: Mapping[Path, str] = MappingProxyType({}),
) -> str:
    """Return the report of some runs.

    Args:
        runs: Run folders.
        links: Links on which times are computed.
        title: Heading of the page.
        seed: Decides what links draw for each client.
        left_out: Run folders that are not among the runs, each with the reason; the head of the page names them.

    Returns:
        The HTML.

    Raises:
        DataError: A folder cannot be read as a run.
        ConfigError: A link does not fit the clients.
    """
    folders = list(runs)
    timings = time_runs(folders, links, seed=seed)
    collected = [collect(timing) for timing in timings]
    named = {str(folder): reason for folder, reason in left_out.items()}
    diverged = diverged_beside(folders, {timing.run.path: timing.method for timing in timings})
    return page(title, collected, groups(collected), timings, diverged, named)


def write_report(
    runs: Iterable[Path],
    file: Path,
    links: Sequence[Link] = tuple(PROFILES.values()),
    *,
    seed: int = 0,
    left_out: Mapping[Path, str] = MappingProxyType({}),
) -> Path:
    """Write the report of some runs.

    Args:
        runs: Run folders.
        file: The HTML file; missing folders are made.
        links: Links on which times are computed.
        seed: Decides what links draw for each client.
        left_out: As for :func:`report_page`.

    Returns:
        The file.

    Raises:
        FedlamaError: The file cannot be written.
    """
    text = report_page(runs, links, seed=seed, left_out=left_out)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise FedlamaError(f"the report {file} cannot be written ({error.strerror}); choose another --out") from error
    return file
