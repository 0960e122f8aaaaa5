"""How the plots of the page show methods: their colours, what axes show, and the MB to the target."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedlama.analysis.statistics import interval
from fedlama.analysis.timing import Timing, bytes_until, first_reaching
from fedlama.core.figures import COLOURS, PARTS
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Better, Measure
from fedlama.core.records import measure_of
from fedlama.reporting.html.collect import number
from fedlama.reporting.limits import limits
from fedlama.runs.compared import compared_target, method_order

Runs = Sequence[Mapping[str, Any]]


def looks(runs: Runs, timings: Sequence[Timing]) -> dict[str, Any]:
    """Return what the plots share.

    Args:
        runs: As :func:`fedlama.reporting.html.collect.collect` returns them.
        timings: The same runs.

    Returns:
        ``methods``: the titles in the order of their colours, which is that of their comparison; ``colours``, and
        ``parts`` where no method is meant; ``limits``: [low, high] of each metric and loss that outliers would squeeze;
        ``target``: MB to the target of the comparison, by method and by run, or None.
    """
    paths = [timing.run.path for timing in timings]
    order = dict.fromkeys(
        [*method_order(paths, {timing.run.path: timing.method for timing in timings}), *(run["title"] for run in runs)]
    )
    measure = measure_of(record for timing in timings for record in timing.run.rounds)
    return {
        "methods": list(order),
        "colours": COLOURS,
        "parts": PARTS,
        "limits": _limits(runs, measure),
        "target": None if measure is None else _target(timings, paths, measure),
    }


def _limits(runs: Runs, measure: Measure | None) -> dict[str, list[float | None]]:
    """Return what the vertical axis shows, for each metric and loss with outliers."""
    better: dict[str, Better | None] = {name: None for run in runs for name in run["metrics"]}
    if measure is not None and measure.name in better:
        better[measure.name] = measure.direction
    series = {name: [run["metrics"].get(name, ()) for run in runs] for name in better}
    series |= {key: [run[key] for run in runs] for key in ("testLoss", "trainLoss")}
    inner = {name: limits(_finite(curves), better.get(name, "lower")) for name, curves in series.items()}
    return {name: [number(end) for end in ends] for name, ends in inner.items() if ends is not None}


def _finite(curves: Iterable[Iterable[float | None]]) -> list[list[float]]:
    return [[math.nan if value is None else value for value in curve] for curve in curves]


def _target(timings: Sequence[Timing], paths: Sequence[Path], measure: Measure) -> dict[str, Any] | None:
    """Return the target of the comparison that the runs are from, and the MB to it."""
    target = compared_target(paths)
    if target is None:
        return None
    sent: dict[str, float] = {}
    methods: dict[str, list[float]] = {}
    for timing in timings:
        reached = first_reaching(timing.run.rounds, target)
        if reached is not None:
            sent[timing.name] = bytes_until(timing.run.rounds, reached) / MEGABYTE
            methods.setdefault(timing.method, []).append(sent[timing.name])
    return {
        "measure": measure.name,
        "value": measure.shown(target),
        "text": measure.target_text(target),
        "runs": {name: number(megabytes) for name, megabytes in sent.items()},
        "methods": {title: number(interval(values).mean) for title, values in methods.items()},
    }
