"""Groups of runs that differ only in their seed; a group is drawn as one line with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedlama.analysis.statistics import interval
from fedlama.reporting.html.collect import number


def groups(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Group the runs by method.

    Args:
        runs: As :func:`fedlama.reporting.html.collect.collect` returns them.

    Returns:
        For each method its title and the indices of its runs, and for several seeds that were evaluated in the same
        rounds the mean and both ends of the interval of every metric and of both losses.
    """
    by_title: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        by_title.setdefault(run["title"], []).append(index)
    grouped = []
    for title, members in by_title.items():
        group: dict[str, Any] = {"title": title, "runs": members, "bands": {}}
        mine = [runs[index] for index in members]
        if len(mine) > 1 and all(
            (run["evaluated"], run["steps"]) == (mine[0]["evaluated"], mine[0]["steps"]) for run in mine
        ):
            for name in mine[0]["metrics"]:
                if all(name in run["metrics"] for run in mine):
                    group["bands"][name] = _band([run["metrics"][name] for run in mine])
            for key in ("testLoss", "trainLoss"):
                group["bands"][key] = _band([run[key] for run in mine])
        grouped.append(group)
    return grouped


def _band(series: Sequence[Sequence[float | None]]) -> dict[str, list[float | None]]:
    """Return mean, low and high at each point; None where a run has no number."""
    band: dict[str, list[float | None]] = {"mean": [], "low": [], "high": []}
    for values in zip(*series, strict=True):
        whole = [value for value in values if value is not None]
        point = interval(whole) if len(whole) == len(values) else None
        for key in band:
            band[key].append(number(getattr(point, key)) if point else None)
    return band
