"""Checks of single settings, worded alike everywhere; each returns the problems it finds instead of raising."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np

from fedlama.errors import ConfigError, did_you_mean, shown


def normalise_numbers(owner: object) -> None:
    """Replace NumPy numbers in the fields of a settings dataclass by the Python numbers that equal them.

    So ``FedAvg(np.int64(3))`` equals ``FedAvg(3)``, and both are written alike into ``config.json``. Call it first
    in ``__post_init__``, where nobody has seen the object yet; a frozen dataclass is changed too.

    Args:
        owner: The settings object. Tuples and mappings are searched one level deep; a list becomes a tuple where
            the field's default is one.
    """
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        value = getattr(owner, field.name)
        plain = _plain(tuple(value) if isinstance(value, list) and isinstance(field.default, tuple) else value)
        if plain is not value:
            object.__setattr__(owner, field.name, plain)


def _plain(value: object) -> object:
    """Return a value without NumPy scalars; the same object where there were none."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple) and type(value) is tuple and any(isinstance(item, np.generic) for item in value):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping) and any(isinstance(item, np.generic) for item in value.values()):
        return {key: _plain(item) for key, item in value.items()}
    return value


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


def whole(owner: object, *fields: str, minimum: int | None = None) -> list[str]:
    """Report the fields that are not integers, or are below a minimum.

    Args:
        owner: The settings object.
        fields: Names of its fields.
        minimum: The smallest value allowed; None allows every integer.

    Returns:
        One sentence per field that is wrong.
    """
    values = {field: getattr(owner, field) for field in fields}
    sound = [field for field, value in values.items() if isinstance(value, int) and not isinstance(value, bool)]
    problems = [
        f"{_kind(owner)}: {field} is {shown(value)}, but it must be a whole number; round it"
        for field, value in values.items()
        if field not in sound
    ]
    return problems + (at_least(owner, minimum, *sound) if minimum is not None else [])


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
