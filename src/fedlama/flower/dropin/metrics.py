"""The metrics of ClientApps: which replies fit together, and what they say of a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from fedlama.core.client_scores import ClientScores
from fedlama.core.scores import Score

Metrics = Mapping[str, Any]
"""The content of one MetricRecord."""


def misfits(replies: Mapping[int, Mapping[str, Metrics]], weight: str) -> dict[int, str]:
    """Return the clients whose metrics cannot be combined with the others', each with the reason.

    Flower's own strategies end the run where one reply differs from the others.

    Args:
        replies: Client to its records of metrics, by name.
        weight: The metric by which replies are weighted.

    >>> good = {"metrics": {"num-examples": 5, "loss": 0.5}}
    >>> misfits({0: good, 1: good, 2: {"metrics": {"loss": 0.5}}, 3: {}}, "num-examples")
    {2: "its metrics lack 'num-examples'", 3: 'it has 0 records of metrics, expected one'}
    """
    reasons = {}
    for client, records in replies.items():
        if len(records) != 1:
            reasons[client] = f"it has {len(records)} records of metrics, expected one"
        elif weight not in next(iter(records.values())):
            reasons[client] = f"its metrics lack {weight!r}"
    shapes = {client: _shape(records) for client, records in replies.items() if client not in reasons}
    usual = Counter(shapes.values()).most_common(1)
    for client, shape in shapes.items():
        if shape != usual[0][0]:
            reasons[client] = "its metrics have other names than those of most clients"
    return reasons


def score_of(metrics: Metrics, primary: str, weight: str = "") -> Score | None:
    """Return what some metrics say of a model, as a score; None where they hold no finite number.

    Args:
        metrics: The metrics.
        primary: The one by which scores are compared, higher being better; the loss where it is empty or missing.
        weight: A metric that is left out.

    >>> score_of({"eval_loss": 0.5, "eval_acc": 0.75, "num-examples": 8}, "eval_acc", "num-examples")
    Score(loss=0.5, metrics={'eval_acc': 0.75}, primary='eval_acc', direction='higher')
    """
    numbers = {
        name: float(value)
        for name, value in metrics.items()
        if name != weight and isinstance(value, int | float) and math.isfinite(value)
    }
    if not numbers:
        return None
    losses = [name for name in numbers if _is_loss(name)]
    size = metrics.get(weight)
    count = float(size) if isinstance(size, int | float) and 0 < size < 2**53 else 0.0
    others = {name: value for name, value in numbers.items() if name not in losses[:1]}
    loss = numbers[losses[0]] if losses else math.nan
    if primary in others:
        return Score(loss, others, primary, "higher", count)
    return Score(loss, others, weight=count) if losses else None


def client_scores(replies: Mapping[int, Mapping[str, Metrics]], primary: str, weight: str) -> ClientScores | None:
    """Return the scores of the global model by the clients; None where there are none.

    Args:
        replies: As for :func:`misfits`.
        primary: As for :func:`score_of`, like `weight`.
        weight: The metric by which replies are weighted.
    """
    scores = {
        client: score_of(next(iter(records.values())), primary, weight) for client, records in sorted(replies.items())
    }
    known = {client: score for client, score in scores.items() if score is not None}
    return ClientScores(known) if known else None


def loss_of(records: Mapping[str, Metrics]) -> float | None:
    """Return the first number of some metrics whose name has "loss" in it; None where there is none.

    Args:
        records: Metrics by the names of their records.

    >>> loss_of({"metrics": {"num-examples": 5, "train_loss": 0.25}})
    0.25
    """
    named = (value for record in records.values() for name, value in record.items() if _is_loss(name))
    return next((float(value) for value in named if isinstance(value, int | float)), None)


def _is_loss(name: str) -> bool:
    return "loss" in name.lower()


def _shape(records: Mapping[str, Metrics]) -> tuple[object, ...]:
    (name, metrics), *_ = records.items()
    return name, *sorted((key, len(value) if isinstance(value, list) else -1) for key, value in metrics.items())
