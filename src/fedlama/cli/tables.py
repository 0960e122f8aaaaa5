"""The tables that the command line prints."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.analysis.forecast import Forecast, Volume
from fedlama.analysis.links import show_seconds
from fedlama.analysis.preview import Preview
from fedlama.analysis.statistics import Interval
from fedlama.analysis.study import Method, Study
from fedlama.cli.link_tables import TIMES, target_text
from fedlama.cli.titles import Title
from fedlama.core.layers import total_parameters
from fedlama.core.ledger import KILOBYTE, MEGABYTE
from fedlama.core.measures import Measure
from fedlama.core.records import measure_of
from fedlama.runs.execute import Finished


def comparison(finished: Sequence[Finished]) -> list[Table | str]:
    """Return primary metric, cost, bytes and time of each run (MB are 10^6, kB 10^3 bytes), and the run folders.

    Args:
        finished: The runs, in the order of the rows.
    """
    table = Table("method", box=SIMPLE_HEAD, collapse_padding=True)
    measure = measure_of(record for run in finished for record in run.result.rounds)
    primary = [] if measure is None or measure.name == "loss" else [measure]
    headings = [shown.short for shown in primary]
    for heading in (*headings, "loss", "C %", "kB/step", "MB up", "MB down", "rounds", "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in finished:
        score, ledger = run.result.score, run.result.ledger
        table.add_row(
            Title(run.title),
            *(shown.text(score.metrics.get(shown.name) if score else None) for shown in primary),
            f"{score.loss:.4f}" if score else "-",
            f"{run.summary['cost_percent']:.2f}",
            _short(run.result.bytes_per_step / KILOBYTE),
            _short(ledger.total_bytes("up") / MEGABYTE),
            _short(ledger.total_bytes("down") / MEGABYTE),
            str(len(run.result.rounds)),
            f"{run.result.seconds:.1f}",
        )
    return [
        table,
        *_fairness(finished),
        *reused(finished),
        *(f"{run.title}: {run.summary['run_folder']}" for run in finished),
    ]


def _fairness(finished: Sequence[Finished]) -> list[Table]:
    """Return how well single clients do, of the runs that scored them; nothing if there are none."""
    scored = [(run.title, run.result.client_scores) for run in finished]
    rows = [(title, name, spread) for title, each in scored if each for name, spread in each.spreads().items()]
    if not rows:
        return []
    table = Table(Column("method", no_wrap=True), "model", box=SIMPLE_HEAD, title="on the clients' own test sets")
    for heading in ("metric", "worst", "25 %", "median", "75 %", "best", "clients"):
        table.add_column(heading, justify="right")
    for title, name, spread in rows:
        measure = Measure(spread.primary, spread.direction)
        five = (spread.worst, spread.lower_quartile, spread.median, spread.upper_quartile, spread.best)
        table.add_row(title, name, measure.short, *map(measure.text, five), str(spread.clients))
    return [table]


def reused(finished: Sequence[Finished]) -> list[str]:
    """Return a line about the runs that were reused; nothing if there are none.

    Args:
        finished: All runs.
    """
    count = sum(run.reused for run in finished)
    if not count:
        return []
    return [f"{count} of {len(finished)} runs had already finished and were reused; --again retrains them"]


def preview(seen: Preview) -> list[Table | str]:
    """Return what a comparison will send: a table of the layers, and one of the methods.

    Args:
        seen: The content of `fedlama plan`.
    """
    layers = Table("layer", box=SIMPLE_HEAD, title=f"{seen.model}: {total_parameters(seen.layers):,} parameters")
    for heading in ("parameters", "share %", "payload bytes"):
        layers.add_column(heading, justify="right")
    layers.add_column("adaptive")
    total = total_parameters(seen.layers)
    for layer in seen.layers:
        share = f"{100 * layer.parameters / total:.1f}"
        adapts = "yes" if layer.adaptive else "no"
        layers.add_row(layer.name, f"{layer.parameters:,}", share, f"{seen.payloads[layer.name]:,}", adapts)
    heading = f"{seen.active} of {seen.population} clients active; MB are 10^6, kB 10^3 bytes"
    methods = Table(Column("method", no_wrap=True), box=SIMPLE_HEAD, title=heading)
    for heading in ("rounds", "MB up", "MB down", "kB/step", "C %"):
        methods.add_column(heading, justify="right")
    for name, expected in seen.forecasts.items():
        low, high = expected.low, expected.high
        cells = [
            _range(low.bytes_up / MEGABYTE, high.bytes_up / MEGABYTE),
            _range(low.bytes_down / MEGABYTE, high.bytes_down / MEGABYTE),
            _range(*(each / KILOBYTE for each in expected.bytes_per_step)),
            _range(low.cost_percent, high.cost_percent),
        ]
        methods.add_row(name, str(expected.rounds), *(["unknown"] * 4 if _is_unknown(expected) else cells))
    notes = [
        f"{name}: {expected.certainty}; at most {expected.high.bytes_up / MEGABYTE:.2f} MB up and "
        f"{expected.high.bytes_down / MEGABYTE:.2f} MB down"
        for name, expected in seen.forecasts.items()
        if _is_unknown(expected)
    ]
    times = _times_ahead(seen)
    return [layers, methods, *([] if times is None else [times]), *notes]


def _times_ahead(seen: Preview) -> Table | None:
    """Return the time on each link, and the cost when a price was given."""
    # Links and price are the same for every method; a method whose volume is unknown has no times.
    known = next((expected.low for expected in seen.forecasts.values() if not _is_unknown(expected)), None)
    if known is None or (not known.seconds and known.money is None):
        return None
    table = Table(Column("link", no_wrap=True), Column("method", no_wrap=True), box=SIMPLE_HEAD, title=TIMES)
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


def _range(low: float, high: float) -> str:
    return _short(low) if low == high else f"{_short(low)} to\n{_short(high)}"


def _short(number: float) -> str:
    """Return a number with about four digits, to fit a narrow column."""
    return f"{number:.2f}" if number < 1000 else f"{number:.0f}"


def study_table(study: Study, words: Sequence[str], options: Sequence[str]) -> list[Table | str]:
    """Return the table, the differences in words, and the command that reproduces each row.

    Args:
        study: The finished study.
        words: The experiment and its overrides, as they were given on the command line.
        options: Options that every command keeps, such as ``--out``.
    """
    count = len(study.seeds)
    spread = f"mean ± 95 % interval over {count} seeds" if count > 1 else f"seed {study.seeds[0]}"
    table = Table("method", box=SIMPLE_HEAD, title=spread, collapse_padding=True)
    measure = study.measure
    to_target = "MB to target" if study.target is None else f"MB to {target_text(study.target, measure)}"
    digits = 2 if measure is None or measure.is_percent else 4
    for heading in (measure.short if measure else "metric", "vs base", "C %", "kB/step", "MB", to_target, "sec"):
        table.add_column(heading, justify="right", no_wrap=True)
    for method in study.methods:
        table.add_row(
            Title(method.title + _diverged(method, count)),
            _shown(method.value, digits),
            "" if method.title == study.base else _shown(method.difference, digits, signed=True),
            _shown(method.cost),
            _shown(method.kilobytes_per_step),
            _shown(method.megabytes),
            _shown(method.to_target) + _missed(method),
            _shown(method.seconds, 1),
        )
    return [
        table,
        f"base: {study.base}; MB are 10^6 bytes up and down; kB/step: 10^3 bytes, of all clients together, per local "
        "step; seconds were measured on this machine",
        *diverged(study),
        *(in_words(method, study.base) for method in study.methods if method.runs and method.title != study.base),
        *loss_table(study),
        *reused(study.finished),
        "to reproduce a row:",
        *(f"  {command(method, study, words, options)}" for method in study.methods),
    ]


def loss_table(study: Study) -> list[Table | str]:
    """Return the test losses and, where FedAvg ran at several intervals, the bytes at equal loss; nothing without both.

    Args:
        study: The finished study.
    """
    fronted = [method for method in study.methods if method.equal_loss is not None]
    if not any(method.loss_ratio for method in study.methods):
        return []
    table = Table("method", box=SIMPLE_HEAD, title="at the end of the runs")
    for heading in ("MB", "test loss", "loss ratio", *(["bytes ratio"] if fronted else []), "front"):
        table.add_column(heading, justify="right", no_wrap=True)
    front = {point.title for point in study.points if point.on_front}
    for method in study.methods:
        ratios = [method.loss_ratio, *([method.equal_loss] if fronted else [])]
        shown = ["" if ratio is None else ratio.show().replace(" [", "\n[") for ratio in ratios]
        cells = [_shown(method.megabytes), _shown(method.loss, 4), *shown]
        table.add_row(Title(method.title), *cells, "yes" if method.title in front else "")
    notes = [
        f"loss ratio: relative to {study.base}, paired by seed, with its 95 % interval",
        "front: no other method has both fewer bytes and a lower loss, by geometric means over the seeds",
    ]
    if fronted:
        notes.append(
            "bytes ratio: relative to those with which FedAvg, at any interval, has the same test loss; <= and >= mark "
            "bounds, where the loss is outside of FedAvg's range"
        )
    return [table, *notes]


def diverged(study: Study) -> list[str]:
    """Return which runs diverged and why, and over how many seeds the means of their methods are; nothing without any.

    Args:
        study: The finished study.
    """
    count = len(study.seeds)
    means = [
        f"the means of {method.title} are over {len(method.runs)} of {count} seeds; {len(method.diverged)} diverged"
        if method.runs
        else f"{method.title} diverged under {f'all {count} seeds' if count > 1 else 'its seed'} and has no means"
        for method in study.methods
        if method.diverged
    ]
    return [*(each.show() for each in study.diverged), *means]


def in_words(method: Method, base: str) -> str:
    """Return a sentence about the difference of two methods' primary metric, and whether it may be noise.

    Args:
        method: The method.
        base: Title of the method that it is compared with.
    """
    difference, measure = method.difference, method.measure
    if difference is None or measure is None:
        return f"{method.title} has no seed under which both it and {base} were evaluated"
    better = (difference.mean >= 0) == (measure.direction == "higher")
    digits = ".2f" if measure.is_percent else ".4g"
    if measure.is_percent:
        side = "above" if difference.mean >= 0 else "below"
        start = f"{method.title} is {abs(difference.mean):.2f} points {side} {base}"
    else:
        start = (
            f"{method.title} has a {measure.name} of {difference.mean:+.4g} relative to {base}, which is "
            f"{'better' if better else 'worse'}"
        )
    if difference.half is None:
        return f"{start}; with one seed this may be noise, give --seeds 5"
    inside = f"95 % interval {difference.low:+{digits}} to {difference.high:+{digits}}, {difference.count} seeds"
    return f"{start} ({inside}): {'within noise' if difference.within_noise else 'beyond noise'}"


def command(method: Method, study: Study, words: Sequence[str], options: Sequence[str]) -> str:
    """Return the command line that reproduces a row.

    Args:
        method: The row.
        study: The study.
        words: As in :func:`study_table`.
        options: As in :func:`study_table`.
    """
    parts = ["fedlama", "compare", *words, "--methods", _methods(method, study)]
    parts += ["--seeds", ",".join(map(str, study.seeds)) + ("," if len(study.seeds) == 1 else "")]
    if study.target is not None:
        measure = study.measure
        parts += ["--target", f"{study.target if measure is None else measure.shown(study.target):g}"]
    return shlex.join([*parts, *options])


def _methods(method: Method, study: Study) -> str:
    """Return the base and the method as `--methods` reads them; the base alone if it is the method."""
    rows = {row.title: str(row.to_json()["written"]) for row in study.methods}
    return " ".join(dict.fromkeys([rows[study.base], rows[method.title]]))


def _shown(value: Interval | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return a value, with its interval on a second line unless that has no width."""
    if value is None:
        return "-"
    mean = f"{value.mean:{'+' if signed else ''}.{digits}f}"
    has_width = value.half is not None and value.half > 1e-9 * abs(value.mean)  # not by rounding alone
    return f"{mean}\n±{value.half:.{digits}f}" if has_width else mean


def _diverged(method: Method, seeds: int) -> str:
    """Return the mark of a method whose means leave seeds out."""
    return f"\n{len(method.diverged)} of {seeds} diverged" if method.diverged else ""


def _missed(method: Method) -> str:
    missed = len(method.runs) - len(method.reached)
    return f"\n{missed} missed" if missed and method.reached else ""
