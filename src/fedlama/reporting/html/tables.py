"""The tables of the page: they have every value that the plots show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from fedlama.analysis.links import show_rate, show_seconds
from fedlama.analysis.timing import Timing
from fedlama.core.measures import Measure

Runs = Sequence[Mapping[str, Any]]


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """Return a table; the first cell of each row is its heading.

    Args:
        headings: Headings of the columns.
        rows: The cells; text is escaped.
        caption: The caption; none by default.
    """
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = []
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(_cell(value))}</td>" for value in rest)
        body.append(f'<tr><th scope="row">{escape(_cell(first))}</th>{cells}</tr>')
    above = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def scrolled(inner: str, label: str = "Settings") -> str:
    """Return a table that scrolls sideways, also by keyboard.

    Args:
        inner: The table.
        label: Its name for readers of the screen.
    """
    return f"<div class='scroll' tabindex='0' role='region' aria-label='{label}'>{inner}</div>"


def summary_table(runs: Runs) -> str:
    """Return one row per run, with the share of missing replies if there are any.

    Args:
        runs: As :func:`fedlama.reporting.html.collect.collect` returns them.
    """
    absent = any(run["missing"] for run in runs)
    primary = measures(runs, primary=True)
    headings = [
        "run",
        *(Measure(name, "higher").label for name in primary),
        "test loss",
        "C %",
        "kB/step",
        "MB up",
        "MB down",
        "rounds",
        "seconds",
        "state",
    ]
    headings += ["replies missing %"] if absent else []
    rows = [
        (
            run["name"],
            *(_metric(name, _last(run["metrics"].get(name, ()))) for name in primary),
            _fixed(_last(run["testLoss"]), 4),
            _fixed(run["cost"], 2),
            _fixed(None if run["perStep"] is None else run["perStep"] / 1e3, 2),
            _mb(run["up"][-1]),
            _mb(run["down"][-1]),
            len(run["steps"]),
            _fixed(run["seconds"][-1], 1),
            "finished" if run["finished"] else "not finished",
            *([_fixed(100 * run["missing"] / max(run["expected"], 1), 1)] if absent else []),
        )
        for run in runs
    ]
    return f"<div class='scroll' tabindex='0' role='region' aria-label='Summary'>{table(headings, rows)}</div>\n"


def measures(runs: Runs, *, primary: bool = False) -> list[str]:
    """Return the names of the metrics that runs have, each once.

    Args:
        runs: As for :func:`summary_table`.
        primary: Return only those by which evaluations are compared.
    """
    names = dict.fromkeys(name for run in runs for name in run["metrics"])
    chosen = {run["primary"] for run in runs}
    return [name for name in names if name in chosen] if primary else list(names)


def client_table(runs: Runs) -> str:
    """Return how well single clients do on their own test sets; empty where no run scored them.

    Args:
        runs: As for :func:`summary_table`.
    """
    parts = ("worst", "lower_quartile", "median", "upper_quartile", "best")
    rows = [
        (
            run["name"],
            spread["model"],
            measure.label,
            *(measure.text(spread[part]) for part in parts),
            spread["clients"],
        )
        for run in runs
        for spread in run["clientScores"]
        for measure in (Measure(spread["primary"], spread["direction"]),)
    ]
    if not rows:
        return ""
    headings = ("run", "model", "metric", "worst", "25 %", "median", "75 %", "best", "clients")
    caption = "On the clients' own test sets, at the last evaluation"
    return (
        f"<div class='scroll' tabindex='0' role='region' aria-label='Clients'>{table(headings, rows, caption)}</div>\n"
    )


def metric_table(runs: Runs) -> str:
    """Return every evaluation of every run.

    Args:
        runs: As for :func:`summary_table`.
    """
    names = measures(runs)
    rows = [
        (
            run["name"],
            at + 1,
            run["steps"][at],
            _mb(run["up"][at] + run["down"][at]),
            run["seconds"][at],
            *(_metric(name, run["metrics"][name][index] if name in run["metrics"] else None) for name in names),
            _fixed(loss, 4),
            _fixed(run["trainLoss"][at], 4),
        )
        for run in runs
        for index, (at, loss) in enumerate(zip(run["evaluated"], run["testLoss"], strict=True))
    ]
    labels = [Measure(name, "higher").label for name in names]
    return table(("run", "rounds", "local steps", "MB", "seconds", *labels, "test loss", "training loss"), rows)


def layer_table(runs: Runs) -> str:
    """Return every layer of every run: how often it was synchronised, and its last interval.

    Args:
        runs: As for :func:`summary_table`.
    """
    rows = [
        (
            run["name"],
            layer["name"],
            layer["parameters"],
            f"{len(layer['synchronised'])} of {len(run['steps'])}",
            layer["intervals"][-1][1] if layer["intervals"] else "-",
            "-" if not layer["discrepancy"] or layer["discrepancy"][-1] is None else f"{layer['discrepancy'][-1]:.3g}",
        )
        for run in runs
        for layer in run["layers"]
    ]
    rows += [
        (run["name"], layer["name"], layer["parameters"], "never: each client keeps its own", "-", "-")
        for run in runs
        for layer in run["localLayers"]
    ]
    rows += [
        (run["name"], layer["name"], layer["parameters"], "never: neither trained nor sent", "-", "-")
        for run in runs
        for layer in run["frozenLayers"]
    ]
    return table(("run", "layer", "parameters", "rounds synchronised", "last interval", "last discrepancy d"), rows)


def adjustment_table(runs: Runs) -> str:
    """Return the layers selected at every adjustment.

    Args:
        runs: As for :func:`summary_table`.
    """
    rows = [
        (
            run["name"],
            adjustment["round"] + 1,
            f"{len(adjustment['chosen'])} of {len(adjustment['order'])}",
            ", ".join(adjustment["chosen"]),
        )
        for run in runs
        for adjustment in run["adjustments"]
    ]
    return (
        table(("run", "after round", "layers selected", "which"), rows)
        if rows
        else "<p>No run adjusts its intervals.</p>"
    )


def byte_tables(runs: Runs) -> str:
    """Return bytes by direction and kind, and by layer.

    Args:
        runs: As for :func:`summary_table`.
    """
    kinds = ("payload", "headers", "scalars")
    directions = [
        (run["name"], way, *(parts[kind] for kind in kinds), sum(parts.values()))
        for run in runs
        for way, parts in run["directions"].items()
    ]
    layers = [(run["name"], layer["name"], layer["up"], layer["down"]) for run in runs for layer in run["layers"]]
    central = [escape(str(run["name"])) for run in runs if run["central"]]
    note = (
        f"<p>0 bytes: {', '.join(central)} trained on the data of all clients in one place, so nothing was sent. What "
        "it would cost to bring the data there is not counted.</p>"
    )
    return (
        table(("run", "direction", *kinds, "bytes"), directions, "Bytes by direction")
        + table(("run", "layer", "bytes up", "bytes down"), layers, "Payload by layer, all clients together")
        + (note if central else "")
    )


def attendance_table(runs: Runs) -> str:
    """Return the rounds in which clients were missing or something went wrong.

    Args:
        runs: As for :func:`summary_table`.
    """
    rows = [
        (
            run["name"],
            entry["round"] + 1,
            f"{entry['cohort'] - len(entry['missing'])} of {entry['cohort']}",
            ", ".join(map(str, entry["missing"])) or "-",
            "; ".join(entry["incidents"]) or "-",
        )
        for run in runs
        for entry in run["attendance"]
    ]
    if not rows:
        return "<p>In every round, all clients of the cohort replied.</p>\n"
    body = table(("run", "round", "replies", "missing clients", "incidents"), rows)
    return f"<div class='scroll' tabindex='0' role='region' aria-label='Replies of the clients'>{body}</div>\n"


def link_table(timings: Sequence[Timing]) -> str:
    """Return the time of every run on every link, and the links.

    Args:
        timings: The runs, with their time on each link.
    """
    rows = [
        (
            timed.link.name,
            timing.name,
            *map(show_seconds, (timed.total, timed.down.sum(), timed.compute.sum(), timed.up.sum())),
        )
        for position in range(len(timings[0].clocks))
        for timing in timings
        for timed in [timing.clocks[position]]
    ]
    links = [
        (
            link.name,
            *(_each(rate, show_rate) for rate in (link.up, link.down)),
            *(_each(time, show_seconds) for time in (link.latency, link.compute)),
            link.note,
        )
        for link in [timed.link for timed in timings[0].clocks]
    ]
    return table(("link", "run", "time", "down", "computing", "up"), rows, "Time of the whole run") + table(
        ("link", "up", "down", "latency", "local step", "stands for"), links, "The links"
    )


def config_table(runs: Runs) -> str:
    """Return every setting of every run; those that differ between the runs come first.

    Args:
        runs: As for :func:`summary_table`.
    """
    flat = [_without_repetition(dict(_flat("", run["config"]))) for run in runs]
    keys = list(dict.fromkeys(key for settings in flat for key in settings))
    differ = [key for key in keys if len({settings.get(key, "") for settings in flat}) > 1]
    parts = []
    if len(runs) > 1 and differ:
        rows = [(key, *(settings.get(key, "") for settings in flat)) for key in differ]
        parts.append(
            scrolled(table(("setting that differs", *(run["name"] for run in runs)), rows), "Settings that differ")
        )
    same = [(key, flat[0][key]) for key in keys if key in flat[0] and (key not in differ or len(runs) == 1)]
    caption = "The same for all runs" if len(runs) > 1 else ""
    body = scrolled(table(("setting", "value"), same, caption))
    return "".join(parts) + f"<details><summary>All settings, versions and commit</summary>{body}</details>\n"


def _without_repetition(settings: dict[str, str]) -> dict[str, str]:
    """Return settings without those under ``in_force`` that are as they were set."""
    inner = "in_force."
    return {
        key: value
        for key, value in settings.items()
        if not (key.startswith(inner) and settings.get(key.removeprefix(inner)) == value)
    }


def _flat(prefix: str, value: object) -> Iterable[tuple[str, str]]:
    """Yield dotted keys and values without the layers, which have a table of their own, and the files' digests."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if (prefix, key) not in (("in_force", "layers"), ("in_force", "labelling"), ("environment", "files")):
                yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, str(value)


def _each(value: float | tuple[float, ...], show: Any) -> str:  # noqa: ANN401  (a function from number to text)
    return f"{show(min(value))} to {show(max(value))}" if isinstance(value, tuple) else str(show(value))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _last(values: Sequence[float | None]) -> float | None:
    return values[-1] if values else None


def _metric(name: str, value: float | None) -> str:
    """Return a metric's value; accuracies are in percent already."""
    if value is None:
        return "-"
    return f"{value:.2f}" if Measure(name, "higher").is_percent else f"{value:.4g}"


def _fixed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _mb(number: int) -> str:
    return f"{number / 1e6:.2f}"
