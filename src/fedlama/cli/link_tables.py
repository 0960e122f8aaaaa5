"""The tables of `fedlama links`: the time of finished runs on given links."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.analysis.links import Link, money, show_rate, show_seconds
from fedlama.analysis.links.link import PerClient
from fedlama.analysis.timing import Timing, bytes_until, first_reaching
from fedlama.core.ledger import MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import measure_of

TIMES = "wall-clock time on a link, local steps included"


def timings(seen: Sequence[Timing], target: float | None, price_per_gb: float | None) -> list[Table | str]:
    """Return the time of finished runs on given links: in all, the share of transfers in it, and until a target.

    Args:
        seen: The runs with their times.
        target: Value of the primary metric to which time and MB are counted; None leaves that out.
        price_per_gb: Price of 10^9 bytes; None leaves that out.
    """
    table = Table(Column("link", no_wrap=True), Column("run", no_wrap=True), box=SIMPLE_HEAD, title=TIMES)
    to_target = [] if target is None else [f"to {target_text(target, _measure_of(seen))}"]
    for heading in ("time", "transfer %", *to_target):
        table.add_column(heading, justify="right", no_wrap=True)
    reached = {timing.name: None if target is None else first_reaching(timing.run.rounds, target) for timing in seen}
    for position, link in enumerate([clock.link for clock in seen[0].clocks]):
        rows = []
        for timing in seen:
            clock, at = timing.clocks[position], reached[timing.name]
            share = float(clock.down.sum() + clock.up.sum()) / clock.total if clock.total else 0.0
            early = [] if target is None else ["-" if at is None else show_seconds(float(clock.elapsed[at]))]
            rows.append((timing, [show_seconds(clock.total), f"{100 * share:.1f}", *early]))
        for index, (name, cells) in enumerate(_joined(rows)):
            table.add_row("" if index else link.name, name, *cells)
    sent = Table(Column("run", no_wrap=True), box=SIMPLE_HEAD, title="MB are 10^6 bytes, up and down")
    for heading in ("MB", *(f"MB {text}" for text in to_target), *([] if price_per_gb is None else ["price"])):
        sent.add_column(heading, justify="right")
    rows = []
    for timing in seen:
        at = reached[timing.name]
        early = [] if target is None else ["-" if at is None else _megabytes(bytes_until(timing.run.rounds, at))]
        price = [] if price_per_gb is None else [f"{money(timing.sent, price_per_gb):.4g}"]
        rows.append((timing, [_megabytes(timing.sent), *early, *price]))
    for name, cells in _joined(rows):
        sent.add_row(name, *cells)
    return [sent, table, *(_description(clock.link) for clock in seen[0].clocks)]


def _joined(rows: Sequence[tuple[Timing, list[str]]]) -> list[tuple[str, list[str]]]:
    """Return rows with their names; the seeds of a method share one where nothing in their rows differs."""
    joined: dict[tuple[str, ...], list[Timing]] = {}
    for timing, cells in rows:
        joined.setdefault((timing.method, *cells), []).append(timing)
    named = []
    for (method, *cells), timings in joined.items():
        seeds = sorted({timing.run.seed for timing in timings if timing.run.seed is not None})
        several = len(timings) > 1 and len(seeds) == len(timings)
        names = [f"{method} seeds {', '.join(map(str, seeds))}"] if several else [timing.name for timing in timings]
        named += [(name, cells) for name in names]
    return named


def _measure_of(seen: Sequence[Timing]) -> Measure | None:
    """Return the primary metric of runs."""
    return measure_of(record for timing in seen for record in timing.run.rounds)


def target_text(target: float, measure: Measure | None) -> str:
    """Return a target as a heading shows it.

    Args:
        target: Value of the primary metric.
        measure: The metric; None when it is not known.
    """
    return f"{target:g}" if measure is None else measure.target_text(target)


def _megabytes(number: int) -> str:
    return f"{number / MEGABYTE:.2f}"


def _description(link: Link) -> str:
    rates = [f"{way} {_span(getattr(link, way), show_rate)}" for way in ("up", "down")]
    times = [f"latency {_span(link.latency, show_seconds)}", f"{_span(link.compute, show_seconds)} a local step"]
    return f"{link.name}: {', '.join([*rates, *times])}" + (f" ({link.note})" if link.note else "")


def _span(value: PerClient, show: Callable[[float], str]) -> str:
    if not isinstance(value, tuple):
        return show(value)
    return f"{show(min(value))} to {show(max(value))} by client"
