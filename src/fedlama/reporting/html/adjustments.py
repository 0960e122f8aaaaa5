"""FedLAMA's adjustments of the intervals in a finished run, computed again from its recorded discrepancies."""

from __future__ import annotations

from typing import Any

from fedlama.choices.strategies import FedLAMA
from fedlama.choices.strategies.fedlama import FedLAMAState
from fedlama.errors import ConfigError
from fedlama.runs.stored import StoredRun


def adjustments(run: StoredRun) -> list[dict[str, Any]]:
    """Return the two curves at every adjustment of a FedLAMA run.

    Args:
        run: A run of any strategy.

    Returns:
        For each adjustment its round, the layers in sorted order, both curves of Algorithm 2 (delta and 1 - lambda; for
        the accelerating variant 1 - delta and lambda) and the selected layers. Empty for other strategies, and for
        folders without a description of the layers.
    """
    description = run.description
    strategy, layers = _strategy(description.get("strategy")), description.get("layers")
    if strategy is None or not isinstance(layers, dict):
        return []
    try:
        state = FedLAMAState(
            parameters={name: int(layer["parameters"]) for name, layer in layers.items()},
            adaptive=frozenset(name for name, layer in layers.items() if layer["adaptive"]),
            intervals=dict.fromkeys(layers, 1),
            unit_discrepancy=dict.fromkeys(layers, 0.0),
        )
    except (KeyError, TypeError, ValueError):
        return []
    adjusted = []
    measured = dict(state.unit_discrepancy)
    for record in run.rounds:
        fresh = {name: layer.unit_discrepancy for name, layer in record.layers.items() if name in measured}
        measured.update({name: value for name, value in fresh.items() if value is not None})
        if strategy.adjusts_after(record.round_index):
            adjusted.append(_adjustment(strategy, state, measured, record.round_index))
    return adjusted


def _adjustment(strategy: FedLAMA, state: FedLAMAState, measured: dict[str, float], round_index: int) -> dict[str, Any]:
    curves = strategy.curves(FedLAMAState(state.parameters, state.adaptive, state.intervals, measured))
    falling, rising = curves.rest, curves.delta
    if strategy.accelerate:
        falling, rising = tuple(1 - d for d in curves.delta), tuple(1 - rest for rest in curves.rest)
    return {
        "round": round_index,
        "order": list(curves.order),
        "rising": [round(value, 5) for value in rising],
        "falling": [round(value, 5) for value in falling],
        "labels": ["lambda", "1 - delta"] if strategy.accelerate else ["delta", "1 - lambda"],
        "chosen": [name for name in curves.order if name in curves.chosen],
    }


def _strategy(described: object) -> FedLAMA | None:
    settings = dict(described) if isinstance(described, dict) else {}
    if settings.pop("name", None) != FedLAMA.name:
        return None
    try:
        return FedLAMA(**settings)
    except (TypeError, ConfigError):
        return None
