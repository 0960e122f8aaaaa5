"""Experiments that build on others: ``extends = "base.toml"`` takes from another experiment each key that is not set.

Sections are merged key by key. A section that names another option keeps of the base's keys those that both options
have in the same form. What a base extends itself comes below it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from fedlama.core.deprecations import modern_table, modernise
from fedlama.core.paths import expanded
from fedlama.errors import ConfigError, shown
from fedlama.experiment.catalogue import Catalogue
from fedlama.experiment.contracts import shared_keys
from fedlama.experiment.sections import SECTIONS

EXTENDS = "extends"
BUDGET = ("local_steps", "rounds", "epochs")
"""Keys of which an experiment has one."""
Parse = Callable[[str], dict[str, Any]]
"""Reads the plain keys of an experiment file, or of an experiment of the package."""


def extended(experiment: str, parse: Parse, catalogue: Catalogue, above: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plain keys of an experiment, with those of what it extends.

    Args:
        experiment: A name, or the path of a TOML file.
        parse: Reads the keys of one experiment.
        catalogue: The options; decides which keys two choices of a section share.
        above: The experiments that extend this one.

    Raises:
        ConfigError: A base cannot be read, or extends what extends it.
    """
    raw = modernise(parse(experiment))
    if EXTENDS not in raw:
        return raw
    base = raw.pop(EXTENDS)
    if not isinstance(base, str) or not base:
        raise ConfigError(
            f"extends is {shown(base)} in {experiment}, expected a TOML file or an experiment's name; change it"
        )
    folder = expanded(experiment).parent
    where = str(folder / expanded(base)) if base.endswith(".toml") else base
    chain = [*above, experiment]
    if any(_same(where, other) for other in chain):
        raise ConfigError(f"{experiment} extends {base!r}, which extends it in turn; remove one of the two")
    try:
        below = extended(where, parse, catalogue, chain)
    except ConfigError as error:
        if above:
            raise
        raise ConfigError([f"{problem} ({experiment} extends {base!r})" for problem in error.problems]) from error
    return merged(_moved(below, expanded(where).parent, folder) if base.endswith(".toml") else below, raw, catalogue)


def merged(base: Mapping[str, Any], raw: Mapping[str, Any], catalogue: Catalogue) -> dict[str, Any]:
    """Return the keys of two experiments; where both have one, that of the second counts.

    Args:
        base: The plain keys of the experiment below.
        raw: Those of the one that extends it.
        catalogue: The options.
    """
    keys = {key: value for key, value in base.items() if not (key in BUDGET and any(given in raw for given in BUDGET))}
    for key, value in raw.items():
        table = keys.get(key)
        if key in SECTIONS and isinstance(table, Mapping) and isinstance(value, Mapping):
            kept, value = dict(table), modern_table(key, value, choice=table.get("name"))
            if "name" in value:
                keep_what_fits(key, kept, value["name"], catalogue)
            keys[key] = kept | value
        else:
            keys[key] = value
    return keys


def keep_what_fits(section: str, table: dict[str, Any], name: object, catalogue: Catalogue) -> None:
    """Drop the keys that another choice of the section does not have in the same form: they belonged to the old one.

    Args:
        section: The section; nothing is dropped from other tables.
        table: Its keys, which are changed.
        name: The name of the other choice.
        catalogue: The options.
    """
    if section not in SECTIONS:
        return
    old, new = (
        catalogue.known(section, choice) for choice in (table.get("name", SECTIONS[section].default.name), name)
    )
    if new is None or new is old:
        return
    had, has = (get_type_hints(choice) if choice else {} for choice in (old, new))
    kept = {"name", *shared_keys(section, new)}
    for key in [key for key in table if key not in kept and (key not in has or has[key] != had.get(key, has[key]))]:
        del table[key]


def _moved(raw: dict[str, Any], here: Path, there: Path) -> dict[str, Any]:
    """Return keys whose files of the user's own count from another folder: that of the experiment that extends them."""
    if here.resolve() == there.resolve():
        return raw

    def rewritten(name: object) -> object:
        file, colon, rest = name.rpartition(":") if isinstance(name, str) else ("", "", "")
        if not (colon and file.endswith(".py")) or expanded(file).is_absolute():
            return name
        return f"{Path(os.path.relpath(here / file, there)).as_posix()}:{rest}"

    moved = dict(raw)
    for section in SECTIONS:
        table = moved.get(section)
        if isinstance(table, Mapping) and "name" in table:
            moved[section] = {**table, "name": rewritten(table["name"])}
    if "engine" in moved:
        moved["engine"] = rewritten(moved["engine"])
    return moved


def _same(base: str, other: str) -> bool:
    return base == other or (base.endswith(".toml") and expanded(base).resolve() == expanded(other).resolve())
