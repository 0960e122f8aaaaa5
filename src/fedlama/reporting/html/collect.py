"""The data of one run for the plots of the page: plain JSON types, rounded so that the file stays small."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any

from fedlama.analysis.timing import Timing
from fedlama.core.ledger import Direction
from fedlama.core.measures import Measure
from fedlama.core.records import RoundRecord, measure_of
from fedlama.errors import printable
from fedlama.reporting.html.adjustments import adjustments
from fedlama.reporting.html.local_work import local_work
from fedlama.runs.network_log import NAME, read_log
from fedlama.runs.reader import FROZEN
from fedlama.runs.stored import StoredRun

_DIGITS = 5


def collect(timing: Timing) -> dict[str, Any]:
    """Collect one run.

    Args:
        timing: The run, with its time on each link.

    Returns:
        Series by round, by layer, by client and by link. ``up``, ``down`` and ``seconds`` are sums since round 0.
    """
    run = timing.run
    rounds = run.rounds
    measure = measure_of(rounds)
    return {
        "name": timing.name,
        "title": timing.method,
        "plain": run.method.startswith("FedAvg(") and not any(" + " in name for name in (run.method, timing.method)),
        "seed": run.seed,
        "folder": printable(run.path.name),
        "finished": bool(run.summary),
        "steps": [record.local_steps for record in rounds],
        "up": list(accumulate(record.bytes_up for record in rounds)),
        "down": list(accumulate(record.bytes_down for record in rounds)),
        "seconds": _rounded(accumulate(record.seconds for record in rounds)),
        "trainLoss": _rounded(record.loss for record in rounds),
        "evaluated": [index for index, record in enumerate(rounds) if record.score],
        "metrics": _metrics(rounds),
        "primary": measure.name if measure else None,
        "testLoss": _rounded(record.score.loss for record in rounds if record.score),
        "cost": number(run.summary.get("cost_percent")),
        "perStep": number(timing.sent / rounds[-1].local_steps),
        "layers": _layers(run),
        "localLayers": _local_layers(run),
        "frozenLayers": _frozen_layers(run),
        "central": _is_central(run),
        "work": local_work(rounds),
        "adjustments": adjustments(run),
        "attendance": attendance(run),
        "directions": _directions(run),
        "clients": _clients(run),
        "clientScores": _client_scores(rounds),
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


def _metrics(rounds: Sequence[RoundRecord]) -> dict[str, list[float | None]]:
    """Return the series of every metric of the task at the evaluations, the primary one first; accuracy in percent."""
    scores = [record.score for record in rounds if record.score]
    names = dict.fromkeys(
        [*(score.primary for score in scores[-1:]), *(name for score in scores for name in score.metrics)]
    )
    return {
        name: _rounded(_shown(name, score.metrics.get(name)) for score in scores) for name in names if name != "loss"
    }


def _shown(name: str, value: float | None) -> float | None:
    return None if value is None else Measure(name, "higher").shown(value)


def number(value: object, digits: int = _DIGITS) -> float | None:
    """Return a number rounded to significant digits; None for anything else, NaN and infinity included.

    Args:
        value: Any value.
        digits: Number of significant digits.
    """
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    return [None if value is None else number(value) for value in values]


def _layers(run: StoredRun) -> list[dict[str, Any]]:
    """Return the size, bytes and intervals of each layer, the rounds of its synchronisations, and d_l in those."""
    sizes = {item.layer: item.parameters for transfer in run.ledger.transfers for item in transfer.payloads}
    moved = {way: _moved(run, way) for way in ("up", "down")}
    names = list(run.rounds[0].layers) or list(sizes)
    layers = []
    for name in names:
        records = [record.layers[name] for record in run.rounds if name in record.layers]
        synchronised = [index for index, record in enumerate(records) if record.synchronised]
        layers.append(
            {
                "name": name,
                "parameters": sizes.get(name, 0),
                "up": moved["up"][name],
                "down": moved["down"][name],
                "intervals": _changes([record.interval for record in records]),
                "synchronised": synchronised,
                "discrepancy": [number(records[index].unit_discrepancy, 4) for index in synchronised],
            }
        )
    return layers


def _local_layers(run: StoredRun) -> list[dict[str, Any]]:
    """Return the layers of which each client trains and keeps its own values; they are in no message."""
    layers = run.description.get("layers")
    described = layers.items() if isinstance(layers, Mapping) else ()
    return [
        {"name": str(name), "parameters": layer.get("parameters", 0)}
        for name, layer in described
        if isinstance(layer, Mapping) and layer.get("tag") == "local"
    ]


def _moved(run: StoredRun, way: Direction) -> Counter[str]:
    """Return payload bytes by layer, all clients together."""
    moved: Counter[str] = Counter()
    for transfer in run.ledger.transfers:
        if transfer.direction == way:
            for item in transfer.payloads:
                moved[item.layer] += len(transfer.clients) * item.payload_bytes
    return moved


def _frozen_layers(run: StoredRun) -> list[dict[str, Any]]:
    """Return the layers that are neither trained nor sent; folders of earlier versions do not name them."""
    layers = run.config.get(FROZEN)
    known = layers.items() if isinstance(layers, Mapping) else ()
    return [{"name": str(name), "parameters": parameters} for name, parameters in known]


def _is_central(run: StoredRun) -> bool:
    """Return whether a run trained on the pooled data in one place, so that nothing was sent."""
    strategy = run.description.get("strategy")
    return (
        isinstance(strategy, Mapping) and strategy.get("name") == "pooled"
    )  # the strategies import torch, a report need not


def _changes(values: list[int]) -> list[list[int]]:
    """Return [round, value] for the first value and for each one that differs from the value before."""
    return [[index, value] for index, value in enumerate(values) if index == 0 or value != values[index - 1]]


def _directions(run: StoredRun) -> dict[str, dict[str, int]]:
    """Return payload, header and scalar bytes of each direction."""
    scored = any(transfer.direction == "evaluation-down" for transfer in run.ledger.transfers)
    ways = ("down", "up", "evaluation", *(["evaluation-down"] if scored else []))
    sums = {way: Counter({"payload": 0, "headers": 0, "scalars": 0}) for way in ways}
    for transfer in run.ledger.transfers:
        sums[transfer.direction].update(
            payload=transfer.payload_bytes, headers=transfer.header_bytes, scalars=transfer.scalar_bytes
        )
    return {way: dict(parts) for way, parts in sums.items()}


def _client_scores(rounds: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return how far apart the clients' scores are at the last evaluation of single clients."""
    scores = next((record.client_scores for record in reversed(rounds) if record.client_scores), None)
    return [] if scores is None else [{"model": name, **spread.to_json()} for name, spread in scores.spreads().items()]


def _clients(run: StoredRun) -> list[list[int]]:
    """Return [client, bytes up, bytes down, rounds in which it answered], in the order of the clients' numbers."""
    up: Counter[int] = Counter()
    down: Counter[int] = Counter()
    active: Counter[int] = Counter()
    for record in run.rounds:
        active.update(record.answered)
        for transfer in record.transfers:
            if transfer.direction not in ("up", "down") or not transfer.clients:
                continue
            each = transfer.total_bytes // len(transfer.clients)
            (up if transfer.direction == "up" else down).update(dict.fromkeys(transfer.clients, each))
    return [[client, up[client], down[client], active[client]] for client in sorted({*up, *down, *active})]


def attendance(run: StoredRun) -> list[dict[str, Any]]:
    """Return the rounds of a run in which clients were missing or something went wrong.

    Args:
        run: A run; the ``network.jsonl`` of a deployment also says what went wrong.

    Returns:
        For each of these rounds its number from 0, the size of its cohort, the missing clients, and one sentence for
        each incident.
    """
    log = read_log(run.path / NAME)
    rounds = []
    for record in run.rounds:
        logged = log.get(record.round_index, {}).get("incidents", [])
        incidents = [str(sentence) for sentence in logged] if isinstance(logged, list) else []
        if record.missing or incidents:
            rounds.append(
                {
                    "round": record.round_index,
                    "cohort": len(record.cohort),
                    "missing": list(record.missing),
                    "incidents": incidents,
                }
            )
    return rounds
