"""The methods of the page in the plane of bytes and test loss: the points of the plot, and their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedlama.analysis.front import Outcome, Point, bytes_at_equal_loss, points
from fedlama.core.ledger import MEGABYTE
from fedlama.reporting.html.collect import number
from fedlama.reporting.html.tables import table
from fedlama.reporting.html.unlike import unlike
from fedlama.reporting.limits import front_limits

_NOTE = (
    "A method is on the front when no other one has both fewer bytes and a lower loss. MB and loss are geometric means "
    "over the seeds. The bytes ratio is relative to those with which FedAvg, at any interval, has the same loss, "
    "paired by seed, with its 95 % interval; &lt;= and &gt;= mark bounds."
)


def front(runs: Sequence[Mapping[str, Any]], diverged: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Return the points of the plot.

    Args:
        runs: As :func:`fedlama.reporting.html.collect.collect` returns them.
        diverged: The runs that diverged, as :func:`fedlama.runs.stored.diverged_beside` returns them.

    Returns:
        ``methods``: for each its title, MB and loss with those of every seed, whether it is on the front, the bytes at
        equal loss, and how many seeds diverged; ``limits``: the losses to show where outliers would squeeze the plot.
        Empty where the runs are of several experiments, or none has ended with an evaluation; ``why`` then says so.
    """
    whole = [run for run in runs if run["finished"] and run["testLoss"]]
    if unlike([run["config"] for run in whole]):
        return {"methods": [], "why": "The runs differ in data, model or length, so their losses are not compared."}
    by_title = _by_title(whole)
    placed = points(by_title)
    if not placed:
        return {"methods": [], "why": "No finished run has a test loss."}
    plain = _plain_fedavg(whole, by_title)
    lost = [str(run["title"]) for run in diverged]
    shown = front_limits([[run.loss for run in (point.mean, *point.runs.values())] for point in placed])
    methods = [_method(point, plain, lost.count(point.title)) for point in placed]
    return {"methods": methods, "limits": shown, "why": ""}


def front_table(content: Mapping[str, Any], diverged: Sequence[Mapping[str, Any]] = ()) -> str:
    """Return the table of the front, and one of the runs that diverged if there are any.

    Args:
        content: As :func:`front` returns it.
        diverged: As for :func:`front`.
    """
    rows = [
        (
            method["title"],
            len(method["seeds"]),
            method["diverged"],
            f"{method['megabytes']:.2f}",
            f"{method['loss']:.4g}",
            method["equalLoss"] or "-",
            "yes" if method["onFront"] else "no",
        )
        for method in content["methods"]
    ]
    lost = [(run["title"], run["seed"], run["reason"]) for run in diverged]
    headings = ("method", "seeds", "diverged", "MB", "test loss", "bytes ratio at equal loss", "on the front")
    return (
        (f"<p>{_NOTE}</p>" + _scrolled(table(headings, rows)) if rows else f"<p>{content['why']}</p>")
        + (_scrolled(table(("method", "seed", "why"), lost, "Runs that diverged; they are in no mean")) if lost else "")
        + "\n"
    )


def _method(point: Point, plain: Mapping[int, Sequence[Outcome]], lost: int) -> dict[str, Any]:
    """Return one method as the plot and the table take it."""
    ratio = bytes_at_equal_loss(point.runs, plain)
    return {
        "title": point.title,
        "megabytes": number(point.mean.bytes_sent / MEGABYTE),
        "loss": number(point.mean.loss),
        "seeds": [[number(run.bytes_sent / MEGABYTE), number(run.loss)] for run in point.runs.values()],
        "onFront": point.on_front,
        "equalLoss": None if ratio is None else ratio.show(),
        "diverged": lost,
    }


def _by_title(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[int, Outcome]]:
    """Return the ends of the runs by method and seed; a second run of a title and seed is another method."""
    outcomes: dict[str, dict[int, Outcome]] = {}
    for run in runs:
        count, title = 1, run["title"]
        while run["seed"] in outcomes.get(title, {}):
            count += 1
            title = f"{run['title']} #{count}"
        loss = run["testLoss"][-1]
        if loss is not None:
            outcomes.setdefault(title, {})[run["seed"]] = Outcome(run["up"][-1] + run["down"][-1], loss)
    return outcomes


def _plain_fedavg(
    runs: Sequence[Mapping[str, Any]], by_title: Mapping[str, Mapping[int, Outcome]]
) -> dict[int, list[Outcome]]:
    """Return the ends of the runs of FedAvg without codec or server optimizer, by seed; empty for one interval."""
    titles = {run["title"] for run in runs if run["plain"]}
    outcomes_by_seed: dict[int, list[Outcome]] = {}
    for title in titles if len(titles) > 1 else ():
        for seed, outcome in by_title.get(title, {}).items():
            outcomes_by_seed.setdefault(seed, []).append(outcome)
    return outcomes_by_seed


def _scrolled(inner: str) -> str:
    return f"<div class='scroll' tabindex='0' role='region' aria-label='Bytes and loss'>{inner}</div>"
