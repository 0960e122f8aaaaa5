"""Methods over several seeds: means with intervals, and differences to the first method, paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from fedlama.analysis.statistics import Interval, interval, paired
from fedlama.analysis.timing import Timing
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import measure_of
from fedlama.reporting.html.tables import scrolled, table

_NOTE = (
    "Means with 95 % intervals by Student's t over the seeds. Differences are taken seed by seed; within noise: the "
    "interval of the difference holds 0."
)


def seed_table(timings: Sequence[Timing]) -> str:
    """Return one row per method, with a sentence on its difference to the first; empty where all have one seed.

    Args:
        timings: The runs.
    """
    methods: dict[str, dict[int, Timing]] = {}
    for timing in timings:
        if timing.run.summary and timing.run.seed is not None:
            methods.setdefault(timing.method, {})[timing.run.seed] = timing
    if max(map(len, methods.values()), default=0) < 2:
        return ""
    base = next(iter(methods))
    measure = measure_of(
        record for by_seed in methods.values() for run in by_seed.values() for record in run.run.rounds
    )
    measure = measure or Measure("loss", "lower")
    values = {title: _values(by_seed, measure.name) for title, by_seed in methods.items()}
    rows = [
        (
            title,
            len(by_seed),
            _shown(_mean(list(values[title].values())), 2 if measure.is_percent else 4),
            _sentence(paired(values[title], values[base]), measure) if title != base else "-",
            _shown(_mean(list(_values(by_seed, "loss").values())), 4),
            _shown(_mean([timing.sent / MEGABYTE for timing in by_seed.values()]), 2),
        )
        for title, by_seed in methods.items()
    ]
    headings = ("method", "seeds", measure.label, f"against {base}", "test loss", "MB up and down")
    methods_table = scrolled(table(headings, rows), "Methods over seeds")
    return f"<div class='methods'>{methods_table}</div><p>{escape(_NOTE)}</p>\n"


def _values(by_seed: Mapping[int, Timing], name: str) -> dict[int, float]:
    """Return a metric's last value by seed, an accuracy in percent."""
    values = {}
    for seed, timing in by_seed.items():
        score = next((record.score for record in reversed(timing.run.rounds) if record.score), None)
        value = None if score is None else score.loss if name == "loss" else score.metrics.get(name)
        if value is not None and math.isfinite(value):
            values[seed] = value if name == "loss" else Measure(name, "higher").shown(value)
    return values


def _mean(values: list[float]) -> Interval | None:
    return interval(values) if values else None


def _shown(value: Interval | None, digits: int) -> str:
    return "-" if value is None else value.show(digits)


def _sentence(difference: Interval | None, measure: Measure) -> str:
    """Word a paired difference, as the command line does."""
    if difference is None:
        return "no seed in common"
    digits = 2 if measure.is_percent else 4
    unit = " points" if measure.is_percent else ""
    size = f"{difference.mean:+.{digits}f}{unit}"
    if difference.half is None:
        return f"{size} (one seed)"
    rated = "within noise" if difference.within_noise else "beyond noise"
    return f"{size} ± {difference.half:.{digits}f}, {rated}"
