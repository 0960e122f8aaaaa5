"""What the page's plots need of one run, as plain JSON types, rounded so that the file stays small."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from fedlama.analysis.timing import Timing
from fedlama.core.ledger import Direction
from fedlama.reporting.html.adjustments import adjustments
from fedlama.runs.network_log import NAME, read_log
from fedlama.runs.stored import StoredRun

_DIGITS = 5


def collect(timing: Timing) -> dict[str, Any]:
    """Collect one run.

    Args:
        timing: The run with its time on each link.

    Returns:
        Series by round (cumulative where the name says so), by layer, by client and by link.
    """
    run = timing.run
    rounds = run.rounds
    return {
        "name": timing.name,
        "title": run.title,
        "seed": run.seed,
        "folder": run.path.name,
        "finished": bool(run.summary),
        "steps": [record.local_steps for record in rounds],
        "up": list(accumulate(record.bytes_up for record in rounds)),
        "down": list(accumulate(record.bytes_down for record in rounds)),
        "seconds": _rounded(accumulate(record.seconds for record in rounds)),
        "trainLoss": _rounded(record.loss for record in rounds),
        "evaluated": [index for index, record in enumerate(rounds) if record.score],
        "accuracy": _rounded(record.score.percent for record in rounds if record.score),
        "testLoss": _rounded(record.score.loss for record in rounds if record.score),
        "cost": number(run.summary.get("cost_percent")),
        "layers": _layers(run),
        "adjustments": adjustments(run),
        "attendance": attendance(run),
        "directions": _directions(run),
        "clients": _clients(run),
        "missing": sum(len(record.missing) for record in rounds),
        "expected": sum(len(record.cohort) for record in rounds),
        "links": {
            clock.link.name: {
                "elapsed": _rounded(clock.elapsed.tolist()),
                "down": number(float(clock.down.sum())),
                "compute": number(float(clock.compute.sum())),
                "up": number(float(clock.up.sum())),
            }
            for clock in timing.clocks
        },
        "config": dict(run.config),
    }


def number(value: object, digits: int = _DIGITS) -> float | None:
    """Round to significant digits; None for what is no finite number."""
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else number(value) for value in values]


def _layers(run: StoredRun) -> list[dict[str, Any]]:
    """Return each layer's size, bytes, intervals, the rounds in which it travelled, and d_l in those."""
    sizes = {item.layer: item.parameters for one in run.ledger.transfers for item in one.payloads}
    moved = {way: _moved(run, way) for way in ("up", "down")}
    names = list(run.rounds[0].layers) or list(sizes)
    layers = []
    for name in names:
        records = [record.layers[name] for record in run.rounds if name in record.layers]
        travelled = [index for index, record in enumerate(records) if record.synchronised]
        layers.append(
            {
                "name": name,
                "parameters": sizes.get(name, 0),
                "up": moved["up"][name],
                "down": moved["down"][name],
                "intervals": _changes([record.interval for record in records]),
                "travelled": travelled,
                "discrepancy": [number(records[index].unit_discrepancy, 4) for index in travelled],
            }
        )
    return layers


def _moved(run: StoredRun, way: Direction) -> Counter[str]:
    """Return payload bytes by layer, all clients together."""
    moved: Counter[str] = Counter()
    for transfer in run.ledger.transfers:
        if transfer.direction == way:
            for item in transfer.payloads:
                moved[item.layer] += len(transfer.clients) * item.payload_bytes
    return moved


def _changes(values: list[int]) -> list[list[int]]:
    """Return [round, value] wherever a value differs from the one before."""
    return [[index, value] for index, value in enumerate(values) if index == 0 or value != values[index - 1]]


def _directions(run: StoredRun) -> dict[str, dict[str, int]]:
    """Return payload, header and scalar bytes of each direction."""
    found = {way: Counter({"payload": 0, "headers": 0, "scalars": 0}) for way in ("down", "up", "evaluation")}
    for one in run.ledger.transfers:
        found[one.direction].update(payload=one.payload_bytes, headers=one.header_bytes, scalars=one.scalar_bytes)
    return {way: dict(parts) for way, parts in found.items()}


def _clients(run: StoredRun) -> list[list[int]]:
    """Return [client, bytes up, bytes down, rounds taken part], in the order of the clients' numbers."""
    up: Counter[int] = Counter()
    down: Counter[int] = Counter()
    active: Counter[int] = Counter()
    for record in run.rounds:
        active.update(record.answered)
        for one in record.transfers:
            if one.direction == "evaluation" or not one.clients:
                continue
            each = one.total_bytes // len(one.clients)
            (up if one.direction == "up" else down).update(dict.fromkeys(one.clients, each))
    return [[client, up[client], down[client], active[client]] for client in sorted({*up, *down, *active})]


def attendance(run: StoredRun) -> list[dict[str, Any]]:
    """Return the rounds of a run in which not all went well.

    Args:
        run: A run; a deployment's ``network.jsonl`` tells more than who was missing.

    Returns:
        Per round: its number from 0, the size of its cohort, who was missing, and what happened, one sentence each.
    """
    log = read_log(run.path / NAME)
    found = []
    for record in run.rounds:
        incidents = log.get(record.round_index, {}).get("incidents", [])
        told = [str(one) for one in incidents] if isinstance(incidents, list) else []
        if record.missing or told:
            found.append(
                {
                    "round": record.round_index,
                    "cohort": len(record.cohort),
                    "missing": list(record.missing),
                    "incidents": told,
                }
            )
    return found
