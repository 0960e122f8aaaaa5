"""From a file's plain keys to an experiment, with every problem found told at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from fedlama.core.deprecations import modernise
from fedlama.errors import ConfigError, did_you_mean, shown
from fedlama.experiment.files import read
from fedlama.experiment.sections import SECTIONS, options
from fedlama.experiment.settings import Experiment, Settings
from fedlama.federation.checks import check_budget

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
    fedlama.errors.ConfigError: FedLAMA: base_interval is 0, expected 1 or more; use a larger number
    FedLAMA: increase_factor is 0, expected 1 or more; use a larger number
    """
    raw = modernise(raw)
    problems: list[str] = []
    known = [field.name for field in fields(Settings)] + list(SECTIONS)
    problems += [f"unknown key {shown(key)}{_outer_hint(key, known)}" for key in raw if key not in known]
    own = {key: value for key, value in raw.items() if key in known and key not in SECTIONS}
    settings = _build("", Settings, own, problems)
    choices = {section: _section(section, raw.get(section), problems) for section in SECTIONS}
    if settings is not None and choices["strategy"] is not None:
        problems += check_budget(settings.local_steps, choices["strategy"])
    if problems:
        raise ConfigError(problems)
    return Experiment(settings=settings, **choices)


def load_experiment(experiment: str, overrides: Iterable[str] = ()) -> Experiment:
    """Read an experiment and resolve it, as the command line does.

    Args:
        experiment: Path of a TOML file, or the name of an experiment that comes with the package.
        overrides: Changes such as ``"strategy.increase_factor=2"``.

    Raises:
        ConfigError: With one sentence for each problem.

    >>> load_experiment("digits", ["local_steps=96", "seed=3"]).settings.seed
    3
    """
    return resolve(read(experiment, overrides))


def _section(section: str, given: object, problems: list[str]) -> Any:  # noqa: ANN401  (one of the registry's classes)
    if given is None:
        return SECTIONS[section].default
    if not isinstance(given, Mapping):
        problems.append(f"{section} is {shown(given)}, expected a table; write [{section}] with name = '...' below")
        return None
    values = dict(given)
    name = values.pop("name", SECTIONS[section].default.name)
    choice = options(section).get(name) if isinstance(name, str) else None
    if choice is None:
        problems.append(f"{section}.name is {shown(name)}{did_you_mean(str(name), options(section))}")
        return None
    return _build(section, choice, values, problems)


def _build(section: str, choice: type[Any], values: dict[str, object], problems: list[str]) -> Any:  # noqa: ANN401
    dotted = f"{section}." if section else ""
    kinds = {field.name: get_type_hints(choice)[field.name] for field in fields(choice)}
    accepted = {}
    for key, value in values.items():
        if key not in kinds:
            problems.append(f"unknown key {shown(dotted + key)}{_hint(section, choice, key)}")
        elif strange := _strange(value, kinds[key] is bool):
            problems.append(f"{dotted + key} is {shown(value)}: {strange}; change it")
        else:
            accepted[key] = value
    sound = len(accepted) == len(values)
    while True:
        try:
            built = TypeAdapter(choice).validate_python(accepted)
        except ValidationError as error:
            details = error.errors()
            for detail in details:
                if detail["type"] != "missing" or detail["loc"][0] not in values:
                    problems += _sentences(dotted, detail)
            wrong = {detail["loc"][0] for detail in details if detail["loc"]} & accepted.keys()
            if not wrong:
                return None
            # Once more without them: values out of range are only seen when every type is right.
            accepted = {key: value for key, value in accepted.items() if key not in wrong}
            sound = False
        else:
            return built if sound else None


def _keys(choice: type[Any]) -> list[str]:
    return [field.name for field in fields(choice)]


def _hint(section: str, choice: type[Any], key: str) -> str:
    """Word what was meant: a key of another choice of the section, or the nearest key of this one."""
    owners = [name for name, other in options(section).items() if key in _keys(other)]
    if owners:
        others = " or ".join(repr(name) for name in owners)
        return f": {section} {choice.name!r} has no such key; it belongs to {section}.name = {others}"
    return did_you_mean(key, _keys(choice))


def _outer_hint(key: str, known: list[str]) -> str:
    """Word what was meant: a key of some section, or the nearest key outside all sections."""
    sections = [section for section in SECTIONS if any(key in _keys(choice) for choice in options(section).values())]
    if sections:
        return f"; did you mean {' or '.join(repr(f'{section}.{key}') for section in sections)}?"
    return did_you_mean(key, known)


def _strange(value: object, switch: bool) -> str:
    """Tell what is wrong with a value that pydantic would let pass: true for 1, and numbers without bounds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        return next((told for item in value if (told := _strange(item, switch))), "")
    if isinstance(value, bool) and not switch:
        return "true and false are no numbers or names"
    return "it does not fit into 64 bits" if isinstance(value, int) and not -(2**63) <= value < 2**63 else ""


def _sentences(dotted: str, detail: Any) -> list[str]:  # noqa: ANN401  (pydantic's own record)
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return list(cause.problems)
    where = dotted + ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return [f"{where} is missing; give it a value"]
    expected = detail["msg"][0].lower() + detail["msg"][1:]
    return [f"{where} is {shown(detail['input'])}: {expected}; change it"]
