"""What a method is called, and its settings in plain types: for tables, charts and run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedlama.choices.strategies import Strategy
from fedlama.experiment.sections import options


def title(strategy: Strategy[Any]) -> str:
    """Return a method with its intervals and with the switches that differ from their defaults.

    >>> from fedlama import FedLAMA
    >>> title(FedLAMA(6, 4)), title(FedLAMA(6, 4, cutoff="printed"))
    ('FedLAMA(6, 4)', 'FedLAMA(6, 4, printed)')
    """
    given = [(value, field.default) for field in fields(strategy) for value in [getattr(strategy, field.name)]]
    values = [str(value) for value, default in given if type(value) in (int, str) and value != default]
    flags = [field.name for field in fields(strategy) if getattr(strategy, field.name) is True]
    return f"{type(strategy).__name__}({', '.join([*values, *flags])})"


def hyperparameters(strategy: Strategy[Any]) -> dict[str, object]:
    """Return a strategy's fields as plain JSON types."""
    return {
        field.name: dict(value) if isinstance(value := getattr(strategy, field.name), Mapping) else value
        for field in fields(strategy)
    }


def stored_title(config: Mapping[str, Any], summary: Mapping[str, Any], fallback: str) -> str:
    """Return the title of a run that was read back.

    Args:
        config: Its ``config.json``.
        summary: Its ``summary.json``, empty when it did not finish.
        fallback: What to call it when neither file names a known strategy.
    """
    settings = config.get("strategy")
    found = settings if isinstance(settings, Mapping) else summary.get("hyperparameters")
    given = dict(found) if isinstance(found, Mapping) else {}
    name = str(given.pop("name", summary.get("method", "")))
    try:
        return title(options("strategy")[name](**given))
    except (KeyError, TypeError, ValueError):
        return name or fallback
