"""What the ``comparison.json`` beside run folders says about them: their titles, the target, and runs that diverged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from fedlama.errors import DataError, printable
from fedlama.runs.files import read_object

_DAMAGED = (DataError, OSError, TypeError, KeyError, AttributeError)
"""What reading a damaged file raises; it then says nothing."""


def compared_titles(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the titles of runs in the latest comparison beside them, where two settings never share one.

    Args:
        paths: Run folders.

    Returns:
        The titles by folder; runs that are in no comparison are left out.
    """
    titles: dict[Path, str] = {}
    for folder, comparison in _comparisons(paths):
        try:
            titles |= _titles(folder, comparison)
        except _DAMAGED:
            continue
    return titles


def method_order(paths: Iterable[Path]) -> list[str]:
    """Return the titles of all methods of the comparisons beside runs, in their order; none without a comparison.

    Args:
        paths: Run folders.
    """
    order: dict[str, None] = {}
    for _, comparison in _comparisons(paths):
        try:
            order |= dict.fromkeys(printable(str(row["method"])) for row in comparison["methods"])
        except _DAMAGED:
            continue
    return list(order)


def compared_target(paths: Iterable[Path]) -> float | None:
    """Return the target of the comparison beside runs, an accuracy in [0, 1]; None unless there is exactly one.

    Args:
        paths: Run folders.
    """
    targets = [comparison.get("target") for _, comparison in _comparisons(paths)]
    return float(targets[0]) if len(targets) == 1 and isinstance(targets[0], (int, float)) else None


def diverged_beside(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the runs that diverged in the comparisons that some runs belong to.

    Args:
        paths: Run folders.

    Returns:
        For each its ``title``, ``seed`` and ``reason``; none where no ``comparison.json`` beside the runs names one.
    """
    listed = []
    for _, comparison in _comparisons(paths):
        try:
            for entry in comparison.get("diverged", []):
                title, reason = (printable(str(entry[key])) for key in ("method", "reason"))
                listed.append({"title": title, "seed": entry["seed"], "reason": reason})
        except _DAMAGED:
            continue
    return listed


def _comparisons(paths: Iterable[Path]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the folders that hold runs, each with its comparison if there is one."""
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            yield folder, read_object(folder / "comparison.json")
        except _DAMAGED:
            continue


def _titles(folder: Path, comparison: Mapping[str, Any]) -> dict[Path, str]:
    """Return the title of each run: the file lists the runs method by method, as many as the method has seeds."""
    runs = iter(comparison["runs"])
    titles = {}
    for row in comparison["methods"]:
        for run in islice(runs, len(row["seeds"])):
            titles[folder / Path(str(run["run_folder"])).name] = printable(str(row["method"]))
    return titles
