"""The tables that the command line prints."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.analysis.forecast import Forecast, Volume
from fedlama.analysis.links import Link, money, show_rate, show_seconds
from fedlama.analysis.links.link import PerClient
from fedlama.analysis.preview import Preview
from fedlama.analysis.statistics import Interval
from fedlama.analysis.study import Method, Study
from fedlama.analysis.timing import Timing, bytes_until, first_reaching
from fedlama.core.layers import total_parameters
from fedlama.core.ledger import MEGABYTE
from fedlama.runs.execute import Finished

_TIMES = "wall-clock time on a link, local steps included"


def comparison(finished: Sequence[Finished]) -> list[Table | str]:
    """Return accuracy, cost, bytes and time per method (MB are 10^6 bytes), and the run folders."""
    table = Table(Column("method", no_wrap=True), box=SIMPLE_HEAD)
    for heading in ("acc %", "loss", "C %", "MB up", "MB down", "rounds", "sec"):
        table.add_column(heading, justify="right")
    for one in finished:
        score, ledger = one.result.score, one.result.ledger
        table.add_row(
            one.title,
            "-" if score is None or score.percent is None else f"{score.percent:.2f}",
            f"{score.loss:.4f}" if score else "-",
            f"{one.summary['cost_percent']:.2f}",
            _short(ledger.total_bytes("up") / MEGABYTE),
            _short(ledger.total_bytes("down") / MEGABYTE),
            str(len(one.result.rounds)),
            f"{one.result.seconds:.1f}",
        )
    return [table, *reused(finished), *(f"{one.title}: {one.summary['run_folder']}" for one in finished)]


def reused(finished: Sequence[Finished]) -> list[str]:
    """Say how many runs were reused; nothing when none was."""
    count = sum(run.reused for run in finished)
    if not count:
        return []
    return [f"{count} of {len(finished)} runs had already finished and were reused; --again retrains them"]


def preview(seen: Preview) -> list[Table | str]:
    """Return what a comparison will move: the layers, and the methods."""
    layers = Table("layer", box=SIMPLE_HEAD, title=f"{seen.model}: {total_parameters(seen.layers):,} parameters")
    for heading in ("parameters", "share %", "payload bytes"):
        layers.add_column(heading, justify="right")
    layers.add_column("may adapt")
    total = total_parameters(seen.layers)
    for layer in seen.layers:
        share = f"{100 * layer.parameters / total:.1f}"
        adapts = "yes" if layer.adaptive else "no"
        layers.add_row(layer.name, f"{layer.parameters:,}", share, f"{seen.payloads[layer.name]:,}", adapts)
    heading = f"{seen.active} of {seen.population} clients active; MB are 10^6 bytes"
    methods = Table(Column("method", no_wrap=True), box=SIMPLE_HEAD, title=heading)
    for heading in ("rounds", "MB up", "MB down", "MB a round", "C %"):
        methods.add_column(heading, justify="right")
    for name, expected in seen.forecasts.items():
        low, high, rounds = expected.low, expected.high, expected.rounds
        cells = [
            _range(low.bytes_up / MEGABYTE, high.bytes_up / MEGABYTE),
            _range(low.bytes_down / MEGABYTE, high.bytes_down / MEGABYTE),
            _range(_both(low) / MEGABYTE / rounds, _both(high) / MEGABYTE / rounds),
            _range(low.cost_percent, high.cost_percent),
        ]
        methods.add_row(name, str(rounds), *(["unknown"] * 4 if _is_unknown(expected) else cells))
    notes = [
        f"{name}: {expected.certainty}; at most {expected.high.bytes_up / MEGABYTE:.2f} MB up and "
        f"{expected.high.bytes_down / MEGABYTE:.2f} MB down"
        for name, expected in seen.forecasts.items()
        if _is_unknown(expected)
    ]
    times = _times_ahead(seen)
    return [layers, methods, *([] if times is None else [times]), *notes]


def _times_ahead(seen: Preview) -> Table | None:
    """Return the time on each link, and the money where a price was given."""
    # Links and price are the same for every method; a method whose volume is unknown has no times.
    known = next((expected.low for expected in seen.forecasts.values() if not _is_unknown(expected)), None)
    if known is None or (not known.seconds and known.money is None):
        return None
    table = Table(Column("link", no_wrap=True), Column("method", no_wrap=True), box=SIMPLE_HEAD, title=_TIMES)
    for heading in ("least", "most"):
        table.add_column(heading, justify="right")
    for link in known.seconds:
        for index, (name, expected) in enumerate(seen.forecasts.items()):
            times = [show_seconds(volume.seconds[link]) for volume in _limits(expected)]
            table.add_row("" if index else link, name, *(times or ["unknown"] * 2))
    for index, (name, expected) in enumerate(seen.forecasts.items() if known.money is not None else ()):
        prices = [f"{volume.money:.4g}" for volume in _limits(expected) if volume.money is not None]
        table.add_row("" if index else "(price)", name, *(prices or ["unknown"] * 2))
    return table


def _is_unknown(expected: Forecast) -> bool:
    return expected.certainty == "depends on training: unknown"


def _limits(expected: Forecast) -> tuple[Volume, ...]:
    """Return the least and the most; nothing where they are unknown."""
    return () if _is_unknown(expected) else (expected.low, expected.high)


def timings(seen: Sequence[Timing], target: float | None, price_per_gb: float | None) -> list[Table | str]:
    """Return the time of finished runs on given links: in all, its share of moving bytes, and to a target."""
    table = Table(Column("link", no_wrap=True), Column("run", no_wrap=True), box=SIMPLE_HEAD, title=_TIMES)
    to_target = [] if target is None else [f"to {100 * target:g} %"]
    for heading in ("time", "moving %", *to_target):
        table.add_column(heading, justify="right", no_wrap=True)
    reached = {one.name: None if target is None else first_reaching(one.run.rounds, target) for one in seen}
    for position, link in enumerate([one.link for one in seen[0].clocks]):
        for index, run in enumerate(seen):
            one = run.clocks[position]
            moving = float(one.down.sum() + one.up.sum()) / one.total if one.total else 0.0
            at = reached[run.name]
            early = [] if target is None else ["-" if at is None else show_seconds(float(one.elapsed[at]))]
            table.add_row("" if index else link.name, run.name, show_seconds(one.total), f"{100 * moving:.1f}", *early)
    moved = Table(Column("run", no_wrap=True), box=SIMPLE_HEAD, title="MB are 10^6 bytes, up and down")
    for heading in ("MB", *(f"MB {one}" for one in to_target), *([] if price_per_gb is None else ["price"])):
        moved.add_column(heading, justify="right")
    for run in seen:
        at = reached[run.name]
        early = [] if target is None else ["-" if at is None else _megabytes(bytes_until(run.run.rounds, at))]
        price = [] if price_per_gb is None else [f"{money(run.moved, price_per_gb):.4g}"]
        moved.add_row(run.name, _megabytes(run.moved), *early, *price)
    return [moved, table, *(_described(one.link) for one in seen[0].clocks)]


def _megabytes(number: int) -> str:
    return f"{number / MEGABYTE:.2f}"


def _described(link: Link) -> str:
    rates = [f"{way} {_span(getattr(link, way), show_rate)}" for way in ("up", "down")]
    times = [f"latency {_span(link.latency, show_seconds)}", f"{_span(link.compute, show_seconds)} a local step"]
    return f"{link.name}: {', '.join([*rates, *times])}" + (f" ({link.note})" if link.note else "")


def _span(value: PerClient, show: Callable[[float], str]) -> str:
    if not isinstance(value, tuple):
        return show(value)
    return f"{show(min(value))} to {show(max(value))} by client"


def _both(volume: Volume) -> int:
    return volume.bytes_up + volume.bytes_down


def _range(low: float, high: float) -> str:
    return _short(low) if low == high else f"{_short(low)} to\n{_short(high)}"


def _short(number: float) -> str:
    """Return a number with four digits or so, to fit a narrow column."""
    return f"{number:.2f}" if number < 1000 else f"{number:.0f}"


def study_table(study: Study, experiment: str, overrides: Sequence[str], out: str) -> list[Table | str]:
    """Return the table, the differences in words, and what reproduces each row.

    Args:
        study: What was found.
        experiment: The experiment as it was named on the command line.
        overrides: Its overrides.
        out: Folder for the run folders.
    """
    count = len(study.seeds)
    spread = f"mean ± 95 % interval over {count} seeds" if count > 1 else f"seed {study.seeds[0]}"
    table = Table(Column("method", no_wrap=True), box=SIMPLE_HEAD, title=spread)
    to_target = "MB to target" if study.target is None else f"MB to {100 * study.target:g} %"
    for heading in ("acc %", "vs base", "C %", "MB", to_target, "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in study.methods:
        table.add_row(
            one.title,
            _shown(one.accuracy),
            "" if one.title == study.base else _shown(one.difference, signed=True),
            _shown(one.cost),
            _shown(one.megabytes),
            _shown(one.to_target) + _missed(one, count),
            _shown(one.seconds, 1),
        )
    return [
        table,
        f"base: {study.base}; MB are 10^6 bytes up and down; seconds are of this machine",
        *(in_words(one, study.base, count) for one in study.methods if one.title != study.base),
        *reused(study.finished),
        "to reproduce a row:",
        *(f"  {command(one, study, experiment, overrides, out)}" for one in study.methods),
    ]


def in_words(method: Method, base: str, seeds: int) -> str:
    """Say what a difference of accuracies is worth.

    Args:
        method: The method.
        base: What it is compared with.
        seeds: Number of seeds.
    """
    found = method.difference
    if found is None:
        return f"{method.title} has no accuracy to compare with {base}"
    start = f"{method.title} is {abs(found.mean):.2f} points {'above' if found.mean >= 0 else 'below'} {base}"
    if found.half is None:
        return f"{start}; one seed cannot tell that from noise, give --seeds 5"
    inside = f"95 % interval {found.low:+.2f} to {found.high:+.2f}, {seeds} seeds"
    return f"{start} ({inside}): {'within noise' if found.within_noise else 'beyond noise'}"


def command(method: Method, study: Study, experiment: str, overrides: Sequence[str], out: str) -> str:
    """Return the command line that reproduces a row."""
    parts = ["fedlama", "compare", experiment, *overrides, "--methods", _methods(method, study)]
    parts += ["--seeds", ",".join(map(str, study.seeds)) + ("," if len(study.seeds) == 1 else "")]
    if study.target is not None:
        parts += ["--target", f"{100 * study.target:g}"]
    return shlex.join([*parts, *([] if out == "runs" else ["--out", out])])


def _methods(method: Method, study: Study) -> str:
    """Write the method, behind the base where it is another."""
    rows = {one.title: str(one.to_json()["written"]) for one in study.methods}
    return " ".join(dict.fromkeys([rows[study.base], rows[method.title]]))


def _shown(value: Interval | None, digits: int = 2, *, signed: bool = False) -> str:
    """Write a value, its interval on a second line where it has any width."""
    if value is None:
        return "-"
    mean = f"{value.mean:{'+' if signed else ''}.{digits}f}"
    return f"{mean}\n±{value.half:.{digits}f}" if value.half else mean


def _missed(method: Method, seeds: int) -> str:
    missed = seeds - len(method.reached)
    return f"\n{missed} missed" if missed and method.reached else ""
