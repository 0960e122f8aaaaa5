"""From a file's plain keys to an experiment, with every problem found told at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedlama.errors import ConfigError, did_you_mean
from fedlama.experiment.experiment import DEFAULTS, Experiment, Settings
from fedlama.experiment.registry import REGISTRY

Raw = Mapping[str, object]


def resolve(raw: Raw) -> Experiment:
    """Build an experiment from plain keys and values.

    Args:
        raw: As read from TOML: settings, and one table per section.

    Returns:
        The experiment, with defaults filled in.

    Raises:
        ConfigError: With one sentence for each problem: unknown keys and names (with the nearest known), missing keys,
            wrong types, values out of range.

    >>> resolve({"strategy": {"name": "fedlama", "base_interval": 0, "increase_factor": 0}})
    Traceback (most recent call last):
        ...
    fedlama.errors.ConfigError: FedLAMA: base_interval is 0, but it must be 1 or more; raise it
    FedLAMA: increase_factor is 0, but it must be 1 or more; raise it
    """
    problems: list[str] = []
    known = [field.name for field in fields(Settings)] + list(REGISTRY)
    problems += [f"unknown key {key!r}{did_you_mean(key, known)}" for key in raw if key not in known]
    own = {key: value for key, value in raw.items() if key in known and key not in REGISTRY}
    settings = _build("", Settings, own, problems)
    choices = {section: _section(section, raw.get(section), problems) for section in REGISTRY}
    if problems:
        raise ConfigError(problems)
    return Experiment(settings=settings, **choices)


def _section(section: str, given: object, problems: list[str]) -> Any:  # noqa: ANN401  (one of the registry's classes)
    if given is None:
        return DEFAULTS[section]
    if not isinstance(given, Mapping):
        problems.append(f"{section} is {given!r}, but it must be a table; write [{section}] with name = '...' below")
        return None
    values = dict(given)
    name = values.pop("name", DEFAULTS[section].name)
    choice = REGISTRY[section].get(name) if isinstance(name, str) else None
    if choice is None:
        problems.append(f"{section}.name is {name!r}{did_you_mean(str(name), REGISTRY[section])}")
        return None
    return _build(section, choice, values, problems)


def _build(section: str, choice: type[Any], values: dict[str, object], problems: list[str]) -> Any:  # noqa: ANN401
    dotted = f"{section}." if section else ""
    known = [field.name for field in fields(choice)]
    unknown = [key for key in values if key not in known]
    problems += [f"unknown key {dotted + key!r}{did_you_mean(key, known)}" for key in unknown]
    accepted = {key: value for key, value in values.items() if key in known}
    try:
        return TypeAdapter(choice).validate_python(accepted)
    except ValidationError as error:
        for detail in error.errors():
            problems += _sentences(dotted, detail)
        return None


def _sentences(dotted: str, detail: Any) -> list[str]:  # noqa: ANN401  (pydantic's own record)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return list(cause.problems)
    where = dotted + ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return [f"{where} is missing; give it a value"]
    expected = detail["msg"][0].lower() + detail["msg"][1:]
    return [f"{where} is {detail['input']!r}: {expected}; change it"]
