"""What the ``comparison.json`` beside run folders says about them: their titles, the target, and runs that diverged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
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


def full_title(compared: str, method: str) -> str:
    """Return the title of a run beside runs that are not in its comparison.

    A comparison's titles leave out what all its methods share, such as the codec and the server optimizer.

    Args:
        compared: The title in the comparison.
        method: The run's :attr:`fedlama.runs.stored.StoredRun.method`.

    >>> full_title("FedAvg(3) + sgd(learning_rate=0.02) #2", "FedAvg(3) + momentum(momentum=0.5)")
    'FedAvg(3) + momentum(momentum=0.5) + sgd(learning_rate=0.02) #2'
    """
    title, mark, number = compared.partition(" #")
    first, *changed = title.split(" + ")
    return " + ".join(dict.fromkeys([first, *method.split(" + ")[1:], *changed])) + mark + number


def method_order(paths: Iterable[Path], shown: Mapping[Path, str] = MappingProxyType({})) -> list[str]:
    """Return the titles of all methods of the comparisons beside runs, in their order; none without a comparison.

    Args:
        paths: Run folders.
        shown: The titles that runs are shown with, by folder, where they may be longer than in their comparison.
    """
    order: dict[str, None] = {}
    for folder, comparison in _comparisons(paths):
        try:
            renamed = _renamed(folder, comparison, shown)
            titles = (printable(str(row["method"])) for row in comparison["methods"])
            order |= dict.fromkeys(renamed.get(title, title) for title in titles)
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


def diverged_beside(paths: Iterable[Path], shown: Mapping[Path, str] = MappingProxyType({})) -> list[dict[str, Any]]:
    """Return the runs that diverged in the comparisons that some runs belong to.

    Args:
        paths: Run folders.
        shown: As for :func:`method_order`.

    Returns:
        For each its ``title``, ``seed`` and ``reason``; none where no ``comparison.json`` beside the runs names one.
    """
    listed = []
    for folder, comparison in _comparisons(paths):
        try:
            renamed = _renamed(folder, comparison, shown)
            for entry in comparison.get("diverged", []):
                title, reason = (printable(str(entry[key])) for key in ("method", "reason"))
                listed.append({"title": renamed.get(title, title), "seed": entry["seed"], "reason": reason})
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


def _renamed(folder: Path, comparison: Mapping[str, Any], shown: Mapping[Path, str]) -> dict[str, str]:
    """Return the titles that methods of a comparison are shown with, by their titles in it."""
    titles = _titles(folder, comparison) if shown else {}
    return {title: shown[path] for path, title in reversed(titles.items()) if path in shown}


def _titles(folder: Path, comparison: Mapping[str, Any]) -> dict[Path, str]:
    """Return the title of each run: the file lists the runs method by method, as many as the method has seeds."""
    runs = iter(comparison["runs"])
    titles = {}
    for row in comparison["methods"]:
        for run in islice(runs, len(row["seeds"])):
            titles[folder / Path(str(run["run_folder"])).name] = printable(str(row["method"]))
    return titles
