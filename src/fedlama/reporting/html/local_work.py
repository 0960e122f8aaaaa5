"""How many local steps each client took in a run whose clients did unequal work, and the tables of it.

Work is unequal with epochs of each client's own data, limits, and stragglers; see :mod:`fedlama.core.local_work`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from fedlama.core.records import RoundRecord
from fedlama.reporting.html.tables import Runs, scrolled, table

_MOST_ROWS = 200
"""A run with more clients gets no row for each."""


def local_work(rounds: Sequence[RoundRecord]) -> dict[str, Any] | None:
    """Return how many local steps each client took; None where every client took the strategy's in every round.

    Args:
        rounds: The records of a run.

    Returns:
        ``unequal``, the number of a client's rounds with another number of steps than the strategy's, and ``clients``:
        [client, rounds in which it answered, local steps in these, fewest and most of a round], by number.
    """
    if not any(record.client_steps for record in rounds):
        return None
    taken: dict[int, list[int]] = {}
    unequal = before = 0
    for record in rounds:
        usual, before = record.local_steps - before, record.local_steps
        for client in record.answered:
            taken.setdefault(client, []).append(record.client_steps.get(client, usual))
            unequal += client in record.client_steps
    if not taken:  # central training, whose records name no clients
        return None
    clients = [[client, len(each), sum(each), min(each), max(each)] for client, each in sorted(taken.items())]
    return {"unequal": unequal, "clients": clients}


def work_tables(runs: Runs) -> str:
    """Return how many local steps the clients took, of the runs in which these were unequal.

    Args:
        runs: As :func:`fedlama.reporting.html.collect.collect` returns them.
    """
    unequal = [(run["name"], run["work"]["unequal"], run["work"]["clients"]) for run in runs if run["work"]]
    if not unequal:
        return "<p>In every round, each client took the local steps of the strategy.</p>\n"
    rows = [
        (
            name,
            len(clients),
            sum(client[1] for client in clients),
            count,
            *(shown(client[2] for client in clients) for shown in (min, _mean, max)),
        )
        for name, count, clients in unequal
    ]
    headings = ("run", "clients", "rounds of a client", "of these with unequal work")
    steps = ("fewest local steps of a client", "mean", "most")
    single = [
        (name, *client) for name, _, clients in unequal for client in (clients if len(clients) <= _MOST_ROWS else ())
    ]
    captions = "Local steps over the whole run", "Each client: its rounds, and the local steps in these"
    text = scrolled(table((*headings, *steps), rows, captions[0]), "Local work")
    if single:
        columns = ("run", "client", "rounds", "local steps", "fewest of a round", "most of a round")
        each = scrolled(table(columns, single, captions[1]), "Table: clients")
        text += f"<details><summary>Table: clients</summary>{each}</details>\n"
    if any(len(clients) > _MOST_ROWS for _, _, clients in unequal):
        text += f"<p>For runs of more than {_MOST_ROWS} clients, see client_steps in metrics.jsonl.</p>\n"
    return text


def _mean(values: Iterable[int]) -> str:
    numbers = list(values)
    return f"{sum(numbers) / len(numbers):,.1f}"
