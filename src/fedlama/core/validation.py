"""Checks of settings, with one wording everywhere: "<field> is <value>, expected <what>; use <remedy>".

Each check returns the problems that it finds, one sentence each, so that a settings class reports all of them at once:

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "base_interval", minimum=1) + between(self, 0, 1, "momentum"))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TypeGuard

import numpy as np

from fedlama.errors import ConfigError, did_you_mean, shown

_NUMBER_TYPES = ("int", "float", "int | None", "float | None")
"""Types of numeric fields as annotations spell them, which are not evaluated."""


def normalise_numbers(owner: object) -> None:
    """Replace NumPy numbers in the fields of a settings dataclass by the Python numbers that equal them.

    So ``FedAvg(np.int64(3))`` equals ``FedAvg(3)``, and both are written alike into ``config.json``. To be called first
    in ``__post_init__``, before anything can have seen the object: it changes frozen dataclasses too.

    Args:
        owner: The settings object. Items of tuples and values of mappings are replaced as well; a list becomes a tuple
            in a field whose default is a tuple.

    Raises:
        ConfigError: A field of type ``int`` or ``float``, or one of these or None, holds True or False, which Python
            would take for 1 or 0.
    """
    problems = []
    for field in dataclasses.fields(owner):  # type: ignore[arg-type]
        if field.name not in vars(owner):
            continue
        value = vars(owner)[field.name]  # as it was given: to read an attribute may compute it
        if isinstance(value, list) and isinstance(field.default, tuple):
            value = tuple(value)
        object.__setattr__(owner, field.name, _plain(value))
        if isinstance(value, bool | np.bool_) and field.type in _NUMBER_TYPES:
            kind = "an integer" if str(field.type).startswith("int") else "a number"
            problems.append(_problem(owner, field.name, bool(value), kind, "give one, not true or false"))
    refuse(problems)


def at_least(owner: object, minimum: float, *fields: str) -> list[str]:
    """Return the problems of fields that are not finite numbers of a minimum or more.

    Args:
        owner: The settings object; its type's name begins each sentence.
        minimum: The smallest value allowed.
        fields: Names of its numeric fields.
    """
    problems = []
    for field, value in _values(owner, fields):
        expected, remedy = f"{minimum} or more", "use a larger number"
        if not _is_number(value):
            expected, remedy = "a number", f"use one of {minimum} or more"
        elif math.isnan(value):
            expected, remedy = "a finite number", f"use one of {minimum} or more"
        elif value == math.inf:
            expected, remedy = "a finite number", "use a smaller one"
        elif value >= minimum:
            continue
        problems.append(_problem(owner, field, value, expected, remedy))
    return problems


def between(owner: object, low: float, high: float, *fields: str) -> list[str]:
    """Return the problems of fields that are not numbers in [low, high).

    Args:
        owner: The settings object.
        low: The smallest value allowed.
        high: The smallest value that is too large.
        fields: Names of its numeric fields.
    """
    return [
        _problem(owner, field, value, f"a number in [{low}, {high})", "use one in this range")
        for field, value in _values(owner, fields)
        if not (_is_number(value) and low <= value < high)
    ]


def share_problems(owner: object, *fields: str) -> list[str]:
    """Return the problems of fields that are not numbers in (0, 1].

    Args:
        owner: The settings object.
        fields: Names of its numeric fields.
    """
    return [
        _problem(owner, field, value, "a number above 0 and up to 1", "use one in this range")
        for field, value in _values(owner, fields)
        if not (_is_number(value) and 0 < value <= 1)
    ]


def whole(owner: object, *fields: str, minimum: int | None = None) -> list[str]:
    """Return the problems of fields that are not integers, or are below a minimum.

    Args:
        owner: The settings object.
        fields: Names of its integer fields.
        minimum: The smallest value allowed; None allows every integer.
    """
    problems = []
    for field, value in _values(owner, fields):
        if isinstance(value, int) and not isinstance(value, bool):
            problems += at_least(owner, minimum, field) if minimum is not None else []
            continue
        near = math.floor(value) if isinstance(value, float) and math.isfinite(value) else 1
        remedy = f"use an integer such as {near if minimum is None else max(near, minimum)}"
        problems.append(_problem(owner, field, value, "an integer", remedy))
    return problems


def one_of(owner: object, field: str, known: Iterable[str]) -> list[str]:
    """Return the problem of a field that is not one of the known words.

    Args:
        owner: The settings object.
        field: Name of its field.
        known: The words that are accepted.
    """
    value, words = getattr(owner, field), list(known)
    # Worded as for names in files: only the nearest word, where one is near, since some lists are long.
    return [] if value in words else [f"{_kind(owner)}: {field} is {shown(value)}{did_you_mean(str(value), words)}"]


def check_seed(seed: int) -> list[str]:
    """Return the problem of a seed that is not an integer of 64 bits, as random addresses need it.

    Args:
        seed: The seed.
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        return [f"seed is {shown(seed)}, expected an integer; use one such as 0"]
    if -(2**63) <= seed < 2**63:
        return []
    return [f"seed is {shown(seed)}, expected an integer that fits into 64 bits; use one between 0 and {2**63 - 1}"]


def refuse(problems: list[str]) -> None:
    """Raise all problems at once, if there are any.

    Args:
        problems: One sentence each.

    Raises:
        ConfigError: With every problem.
    """
    if problems:
        raise ConfigError(problems)


def _plain(value: object) -> object:
    """Return a value with Python numbers in the place of NumPy's; the same object where it has none."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is tuple and any(isinstance(item, np.generic) for item in value):
        return tuple(_plain(item) for item in value)
    if isinstance(value, Mapping) and any(isinstance(item, np.generic) for item in value.values()):
        return {key: _plain(item) for key, item in value.items()}
    return value


def _values(owner: object, fields: Iterable[str]) -> list[tuple[str, object]]:
    return [(field, getattr(owner, field)) for field in fields]


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _problem(owner: object, field: str, value: object, expected: str, remedy: str) -> str:
    return f"{_kind(owner)}: {field} is {shown(value)}, expected {expected}; {remedy}"


def _kind(owner: object) -> str:
    return type(owner).__name__
