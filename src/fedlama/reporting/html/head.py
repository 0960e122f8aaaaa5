"""The head of the page: what was trained, on which data, for how long, and the command that repeats it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

from fedlama.analysis.timing import Timing
from fedlama.errors import printable
from fedlama.reporting.html.tables import scrolled, table
from fedlama.runs.reader import is_built_in_python
from fedlama.runs.stored import StoredRun, left_out_sentences

_BUDGETS = {"local_steps": "local steps", "rounds": "rounds", "epochs": "epochs"}
_SHOWN = 3
"""Different values of one row, or settings of an option, that are written out."""


def head(timings: Sequence[Timing], left_out: Mapping[str, str]) -> str:
    """Return the table of what was trained, the command that repeats a run, and which runs are not on the page.

    Args:
        timings: The runs.
        left_out: Run folders that are not on the page, each with the reason.
    """
    runs = [timing.run for timing in timings]
    rows = [(name, _joined(text(run) for run in runs)) for name, text in _FACTS.items()]
    facts = table(("what was trained", ""), [row for row in rows if row[1]])
    parts = [f"<div class='facts'>{scrolled(facts, 'What was trained')}</div>"]
    repeated = next((run for run in runs if run.config and not is_built_in_python(run.config)), None)
    if repeated is not None:
        file = shlex.quote(printable(repeated.path / "config.json"))
        parts.append(f"<p>Repeat a run: <code>fedlama run --config {escape(file)}</code></p>")
    parts += [f"<p>{escape(sentence)}</p>" for sentence in left_out_sentences(left_out)]
    return "\n".join(parts) + "\n"


def _joined(values: Iterator[str]) -> str:
    """Return the different values of all runs; "digits" is left out beside "digits, 1,437 training rows"."""
    known = dict.fromkeys(value for value in values if value)
    different = [value for value in known if not any(other.startswith(f"{value}, ") for other in known)]
    more = f" and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
    return ", ".join(different[:_SHOWN]) + more


def _inner(run: StoredRun, *keys: str) -> Any:  # noqa: ANN401  (any JSON type)
    """Return a value of the configuration by its keys; None where there is none."""
    value: Any = run.config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _choice(run: StoredRun, section: str) -> str:
    """Return the name of an option with its plain settings."""
    given = _inner(run, section)
    if not isinstance(given, Mapping):
        return ""
    numbers = [f"{key}={value}" for key, value in given.items() if key != "name" and type(value) in (int, float)]
    settings = numbers[:_SHOWN]
    listed = f" ({', '.join(settings)})" if settings else ""
    return f"{given.get('name', '')}{listed}"


def _data(run: StoredRun) -> str:
    name, count = _inner(run, "data", "name"), _inner(run, "in_force", "clients", "samples")
    return ", ".join([*([str(name)] if name else []), *([f"{count:,} training rows"] if type(count) is int else [])])


def _model(run: StoredRun) -> str:
    name = _inner(run, "model", "name") or str(_inner(run, "in_force", "model", "class") or "").rpartition(":")[2]
    count = _inner(run, "in_force", "model", "parameters")
    return ", ".join([*([str(name)] if name else []), *([f"{count:,} parameters"] if type(count) is int else [])])


def _clients(run: StoredRun) -> str:
    count, active = _inner(run, "in_force", "clients", "count"), _inner(run, "sampler", "active")
    if type(count) is not int:
        return ""
    return f"{count}, {active} of them active at a time" if type(active) is int else f"{count}, all of them active"


def _budget(run: StoredRun) -> str:
    steps = run.rounds[-1].local_steps
    given = [f"{_inner(run, key)} {word}" for key, word in _BUDGETS.items() if _inner(run, key) is not None]
    return (given or [f"{steps} local steps"])[0]


def _date(run: StoredRun) -> str:
    """Return the day on which the last file was written."""
    try:
        return datetime.fromtimestamp((run.path / "metrics.jsonl").stat().st_mtime, tz=UTC).date().isoformat()
    except (OSError, ValueError, OverflowError):
        return ""


def _version(run: StoredRun) -> str:
    versions = _inner(run, "environment", "versions")
    known = versions if isinstance(versions, Mapping) else {}
    return ", ".join(f"{name} {known[name]}" for name in ("fedlama", "torch") if known.get(name))


_FACTS: Mapping[str, Callable[[StoredRun], str]] = {
    "data set": _data,
    "model": _model,
    "clients": _clients,
    "partition": lambda run: _choice(run, "partition"),
    "solver": lambda run: _choice(run, "solver"),
    "budget": _budget,
    "seeds": lambda run: "" if run.seed is None else str(run.seed),
    "date": _date,
    "version": _version,
}
