"""The table of methods by seeds, its differences in words, and the command line of each row."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from fedlama.statistics import Interval
from fedlama.study import Method, Study
from fedlama.tables import reused


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
