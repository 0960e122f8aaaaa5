"""Checks of single settings, worded alike everywhere; each returns the problems it finds instead of raising."""

from __future__ import annotations

import math
from collections.abc import Iterable

from fedlama.errors import ConfigError, did_you_mean, shown


def at_least(owner: object, minimum: float, *fields: str) -> list[str]:
    """Report the fields that lie below a minimum, or are infinite or no number at all.

    Args:
        owner: The settings object.
        minimum: The smallest value allowed.
        fields: Names of its numeric fields.

    Returns:
        One sentence per field that is too small.
    """
    values = {field: getattr(owner, field) for field in fields}
    problems = [
        f"{_kind(owner)}: {field} is {shown(value)}, but it must be {minimum} or more; raise it"
        for field, value in values.items()
        if not value >= minimum
    ]
    return problems + [
        f"{_kind(owner)}: {field} is {shown(value)}, but it must be a finite number; lower it"
        for field, value in values.items()
        if value == math.inf
    ]


def between(owner: object, low: float, high: float, *fields: str) -> list[str]:
    """Report the fields that lie outside [low, high)."""
    return [
        f"{_kind(owner)}: {field} is {shown(value)}, but it must lie in [{low}, {high}); change it"
        for field in fields
        if not low <= (value := getattr(owner, field)) < high
    ]


def whole(owner: object, *fields: str) -> list[str]:
    """Report the fields that hold no whole number."""
    return [
        f"{_kind(owner)}: {field} is {shown(value)}, but it must be a whole number; round it"
        for field in fields
        if isinstance(value := getattr(owner, field), bool) or not isinstance(value, int)
    ]


def one_of(owner: object, field: str, known: Iterable[str]) -> list[str]:
    """Report a field that holds none of the known words."""
    value, known = getattr(owner, field), list(known)
    return [] if value in known else [f"{_kind(owner)}: {field} is {shown(value)}{did_you_mean(str(value), known)}"]


def check_seed(seed: int) -> list[str]:
    """Report a seed that does not fit into the 64 bits of a random address."""
    if -(2**63) <= seed < 2**63:
        return []
    return [f"seed is {seed}, but it must fit into 64 bits; choose one between 0 and {2**63 - 1}"]


def refuse(problems: list[str]) -> None:
    """Raise all problems at once, if there are any.

    Raises:
        ConfigError: With every problem.
    """
    if problems:
        raise ConfigError(problems)


def _kind(owner: object) -> str:
    return type(owner).__name__
