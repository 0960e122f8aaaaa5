"""Experiment files: those of the package, by name, those of the user, by path, and overrides from the command line."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from fedlama.core.deprecations import ignore_renamed, modern_choice, modern_key, modern_section, modernise
from fedlama.core.paths import expanded
from fedlama.data.files import decode_text
from fedlama.errors import ConfigError, DataError, cut, did_you_mean, shown
from fedlama.experiment.catalogue import Catalogue
from fedlama.experiment.extending import BUDGET, extended, keep_what_fits
from fedlama.experiment.options import library, names
from fedlama.experiment.resolution import resolve
from fedlama.experiment.sections import SECTIONS
from fedlama.experiment.settings import Experiment

_LIMIT = 1 << 20
_LARGEST_RUN = 1 << 24
_BESIDE = ("in_force", "environment", "frozen_layers")
"""Keys of ``config.json`` beside the experiment, see :mod:`fedlama.runs.configuration`."""


def load_experiment(experiment: str, overrides: Iterable[str] = (), plugins: Sequence[str] = ()) -> Experiment:
    """Read an experiment, apply overrides, and build it with its options, the user's own included.

    Args:
        experiment: A name that :func:`names` lists, the path of a TOML file, or of the ``config.json`` of a run.
        overrides: As for :func:`read`.
        plugins: Files or modules with registered options; see :mod:`fedlama.experiment.catalogue`.

    Returns:
        The experiment.

    Raises:
        ConfigError: As :func:`read` and :func:`fedlama.experiment.resolve`.

    >>> load_experiment("digits", ["seed=3"]).settings.seed
    3
    """
    catalogue = catalogue_for(experiment, plugins)
    return resolve(read(experiment, overrides, catalogue), catalogue)


def catalogue_for(experiment: str, plugins: Sequence[str] = ()) -> Catalogue:
    """Return the options that an experiment can name: paths of files count from its folder.

    Args:
        experiment: As for :func:`load_experiment`.
        plugins: As for :func:`load_experiment`.

    Raises:
        ConfigError: The file of a plug-in does not exist.
    """
    path = expanded(experiment)
    if path.suffix == ".json":  # of a run folder, which may come from another person and is not trusted to name code
        return Catalogue(plugins=tuple(plugins), trusted_only=True)
    return Catalogue(path.parent if path.suffix == ".toml" else Path(), tuple(plugins))


def read(experiment: str, overrides: Iterable[str] = (), catalogue: Catalogue | None = None) -> dict[str, Any]:
    """Read an experiment and apply overrides.

    Args:
        experiment: A name that :func:`names` lists, the path of a TOML file, or of the ``config.json`` of a run.
        overrides: ``key=value`` or ``section.key=value``; the value is read as TOML, or as text where it is not TOML.
            ``section=name`` is short for ``section.name=name``. Another name keeps of the section's keys those that
            both choices have in the same form.
        catalogue: Where options of the user's own are found; by default as :func:`catalogue_for` returns it.

    Returns:
        Plain keys and values for :func:`fedlama.experiment.resolve`, which needs the same catalogue.

    Raises:
        ConfigError: There is no such experiment, it is not valid TOML, or overrides are malformed.
    """
    catalogue = catalogue or catalogue_for(experiment)
    raw = _raw(experiment, catalogue)
    problems = []
    overrides = list(overrides)
    _replace_budget(raw, overrides)
    for override in sorted(overrides, key=_names_no_choice):
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            problems.append(
                f"{shown(override)} is not a valid override; write key=value, such as strategy.increase_factor=4"
            )
            continue
        try:
            parts = modern_key(key_parts(key.strip()), raw)
            value = value_of(text.strip())
            if _chooses(parts, value):
                parts = [parts[0], "name"]
            if not isinstance(value, str) and _is_path(parts, raw, catalogue):
                value = text.strip()
            _put(raw, parts, value, catalogue)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return raw


def _replace_budget(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drop the experiment's budget where overrides give one, in whatever unit."""
    keys = {override.partition("=")[0].strip().replace("-", "_") for override in overrides}
    if keys & {*BUDGET}:
        for key in {*BUDGET} - keys:
            raw.pop(key, None)


def _raw(experiment: str, catalogue: Catalogue) -> dict[str, Any]:
    """Return the plain keys of an experiment in today's words, with those of what it extends."""
    if expanded(experiment).suffix == ".json":
        return _of_run(experiment)
    return extended(experiment, _parse, catalogue)


def _of_run(file: str) -> dict[str, Any]:
    """Return the experiment in the ``config.json`` of a run."""
    try:
        content = json.loads(_small(expanded(file), _LARGEST_RUN))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else cut(error)
        raise ConfigError(f"{file} cannot be read ({reason}); give the config.json of a run folder") from error
    if not isinstance(content, dict) or "partition" not in content:  # a section of every experiment
        what = "the run of a federation that was built in Python, which only its code can repeat"
        what = what if isinstance(content, dict) and "in_force" in content else "no experiment"
        raise ConfigError(f"{file} holds {what}; give the config.json of a run of `fedlama run` or `fedlama compare`")
    settings = {key: value for key, value in content.items() if key not in _BESIDE}
    return modernise(settings, ignore_renamed)


def _parse(experiment: str) -> dict[str, Any]:
    path = expanded(experiment)
    try:
        if path.suffix == ".toml":
            text = _small(path)
        else:
            text = (library() / f"{experiment}.toml").read_text(encoding="utf-8")
        return tomllib.loads(text)
    except DataError as error:
        raise ConfigError(f"{error}; an experiment is a TOML file") from error
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, tomllib.TOMLDecodeError):
            raise ConfigError(f"{experiment} is not valid TOML: {error}; correct that line") from error
        if path.suffix == ".toml":
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ConfigError(f"{experiment} cannot be read ({reason}); give the path of a TOML file") from error
        raise ConfigError(
            f"the experiment is {shown(experiment)}{did_you_mean(experiment, names())}; "
            "use one of these names, or the path of a .toml file"
        ) from error


def _small(path: Path, limit: int = _LIMIT) -> str:
    """Read a text of bounded size."""
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return decode_text(content, str(path))


def key_parts(dotted: str) -> list[str]:
    """Split a key at its dots; parts may be quoted as in TOML, such as ``strategy.intervals."*.bias"``."""
    if '"' in dotted or "'" in dotted:
        table = value_of(f"{{{dotted} = 0}}")
        parts = []
        while isinstance(table, dict):
            part, table = next(iter(table.items()))
            parts.append(part)
        if parts:
            return parts
    return [part.replace("-", "_") for part in dotted.split(".")]


def _chooses(parts: list[str], value: object) -> bool:
    """Return whether a section is set to a name, as in ``model=resnet20``."""
    return len(parts) == 1 and parts[0] in SECTIONS and isinstance(value, str) and value != ""


def _names_no_choice(override: str) -> bool:
    """Return the sort key that puts choices first, so that no other key is dropped together with the old choice."""
    key, _, text = override.partition("=")
    key = modern_section(key.strip().replace("-", "_"), ignore_renamed)
    return not (key.endswith(".name") or _chooses([key], value_of(text.strip())))


def _put(raw: dict[str, Any], parts: list[str], value: object, catalogue: Catalogue) -> None:
    """Set a value; tables that are missing are made."""
    if len(parts) == 2 and parts[1] == "name":
        value = modern_choice(parts[0], value)
        if isinstance(table := raw.get(parts[0]), dict):
            keep_what_fits(parts[0], table, value, catalogue)
    table = raw
    for depth, part in enumerate(parts[:-1], 1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            outer = ".".join(parts[:depth])
            raise ConfigError(
                f"{outer} is {shown(table)}, so {'.'.join(parts)} cannot be set; make {outer} a table first"
            )
    table[parts[-1]] = value


def _is_path(parts: list[str], raw: Mapping[str, Any], catalogue: Catalogue) -> bool:
    """Return whether a key names a file or folder, whose text is never read as a number, as in ``data.path=2024``."""
    section, key = parts[0], parts[-1]
    if len(parts) != 2 or section not in SECTIONS:
        return False
    table = raw.get(section)
    name = table.get("name") if isinstance(table, dict) else SECTIONS[section].default.name
    choice = catalogue.known(section, name)
    return choice is not None and get_type_hints(choice).get(key) is Path


def value_of(text: str) -> object:
    """Return the value of an override: as TOML reads it, or else the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):  # not TOML, or numbers and brackets beyond what Python reads
        return text
