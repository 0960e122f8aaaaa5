"""Experiment files: named ones that come with the package, the user's own, and overrides from the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from fedlama.errors import ConfigError, did_you_mean
from fedlama.experiment.registry import REGISTRY


def names() -> list[str]:
    """Names of the experiments that come with the package."""
    folder = resources.files("fedlama") / "experiments"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read(experiment: str, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read an experiment and apply overrides.

    Args:
        experiment: A name that :func:`names` lists, or the path of a TOML file.
        overrides: ``key=value`` or ``section.key=value``; the value is read as TOML, or as text where it is none.

    Returns:
        Plain keys and values for :func:`fedlama.experiment.resolve`.

    Raises:
        ConfigError: There is no such experiment, it is no TOML, or overrides are malformed.
    """
    raw = _parse(experiment)
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"{override!r} is no override; write key=value, such as strategy.increase_factor=4")
            continue
        _put(raw, key.strip().replace("-", "_"), _value(text.strip()))
    if problems:
        raise ConfigError(problems)
    return raw


def _parse(experiment: str) -> dict[str, Any]:
    path = Path(experiment)
    try:
        if path.suffix == ".toml":
            text = path.read_text(encoding="utf-8")
        else:
            text = (resources.files("fedlama") / "experiments" / f"{experiment}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)
    except (OSError, ValueError) as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise ConfigError(f"{experiment} is no valid TOML: {error}; correct that line") from error
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{experiment} is no UTF-8 text; an experiment is a TOML file") from error
        if path.suffix == ".toml":
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{experiment} cannot be read ({reason}); give the path of a TOML file") from error
        raise ConfigError(
            f"there is no experiment {experiment!r}{did_you_mean(experiment, names())}; "
            "name one of these, or give the path of a .toml file"
        ) from error


def _put(raw: dict[str, Any], dotted: str, value: object) -> None:
    section, dot, key = dotted.partition(".")
    if not dot:
        raw[section] = value
        return
    table = raw.setdefault(section, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{section} is {table!r}, so {dotted} cannot be set; make [{section}] a table")
    if key == "name" and table.get("name") != value:
        _keep_what_fits(section, table, value)
    *outer, last = key.split(".") if not isinstance(table.get(key), Mapping) else [key]
    for part in outer:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{dotted} reaches into {part!r}, which is {table!r} and no table")
    table[last] = value


def _keep_what_fits(section: str, table: dict[str, Any], name: object) -> None:
    """Drop the keys that another choice of the section does not have: they belonged to the one it replaces."""
    choice = REGISTRY.get(section, {}).get(str(name))
    known = getattr(choice, "__dataclass_fields__", {})
    for key in [key for key in table if key != "name" and key not in known]:
        del table[key]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
