"""Names that changed or came later: which word replaces which, since when, and when the old one stops working.

There is one table for configurations (:data:`SECTIONS`, :data:`CHOICES`, :data:`KEYS`) and one helper for public Python
names (:func:`renamed_attributes`). Three things are done with the table:

* :func:`modernise` translates a configuration with old words. Files, overrides and methods that a person wrote get one
  note for each old word; files that an older version wrote, such as ``config.json``, are translated without a note.
* :func:`modern_key` does the same for the dotted key of an override.
* :func:`with_first_words` translates back. The digest in the name of a run folder is taken over the words of the first
  version, so that neither a rename nor a new key gives the same settings another folder.

To rename a key, add a line to the table; a new key of an old choice is declared with the metadata
:data:`LEFT_OUT_AT_DEFAULT`, and is not written where it has its default.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from fedlama.errors import ConfigError

Note = Callable[["Renamed"], None]
"""What to do about an old word that was found."""


@dataclass(frozen=True)
class Renamed:
    """A word and the one that replaces it.

    Args:
        old: The word before.
        new: The word now.
        since: The version that brought the new word.
        removed_in: The version that refuses the old word.
        also: What else changed in that version.
    """

    old: str
    new: str
    since: str = "0.2"
    removed_in: str = "1.0"
    also: str = ""

    def __str__(self) -> str:
        """Return the note for a person who used the old word."""
        return (
            f"{self.old} is now called {self.new} (since version {self.since}); write {self.new}, "
            f"version {self.removed_in} will refuse {self.old}{self.also}"
        )


class RenamedWarning(DeprecationWarning):
    """An old word was used; it still works."""


SECTIONS = {"guard": "aggregator", "server_step": "server_optimizer"}
"""Sections of a configuration, by their old name."""

_ALSO_CHANGED = {
    "server_step": "; its defaults changed as well: write momentum = 0.9 for 'momentum', and beta1 = 0.9 for 'adam', "
    "to keep those of before"
}
"""What else a reader of the note has to know, by the old name of the section."""

CHOICES = {("aggregator", "none"): "mean"}
"""Names of choices, by section (the new word) and old name."""

_SOLVER_KEYS = {"memory_scope": "state_scope"}
KEYS: dict[tuple[str, str | None], dict[str, str]] = {
    ("server_optimizer", "adam"): {"first": "beta1", "second": "beta2", "adaptivity": "epsilon"},
    ("solver", "sgd"): _SOLVER_KEYS,
    ("solver", "fedprox"): _SOLVER_KEYS,
    ("solver", None): _SOLVER_KEYS,  # a table without a name is of the default choice
}
"""Keys of a section, by section and choice (both in new words): old key to new key.

A choice of the user's own may use any key, so only choices of this package are listed.
"""


def warn_renamed(renamed: Renamed) -> None:
    """Warn about an old word; the command line prints the warning as a note on standard error."""
    warnings.warn(str(renamed), RenamedWarning, stacklevel=2)


def ignore_renamed(renamed: Renamed) -> None:
    """Accept an old word without a note, where a program wrote it."""


def modernise(raw: Mapping[str, Any], note: Note = warn_renamed) -> dict[str, Any]:
    """Translate a configuration into today's words.

    Args:
        raw: Plain keys and values, as in an experiment file or in ``config.json``; it is not changed.
        note: Called for each old word.

    Returns:
        The same configuration in today's words; a table ``in_force`` is translated as well.

    Raises:
        ConfigError: An old and a new word for the same thing are both there.

    >>> modernise({"guard": {"name": "none"}}, note=ignore_renamed)
    {'aggregator': {'name': 'mean'}}
    """
    renamed = _rename(raw, {old: _renamed_section(old) for old in SECTIONS}, note)
    for section, table in renamed.items():
        if isinstance(table, Mapping):
            renamed[section] = modernise(table, note) if section == "in_force" else modern_table(section, table, note)
    return renamed


def modern_table(
    section: str, table: Mapping[str, Any], note: Note = warn_renamed, choice: object = None
) -> dict[str, Any]:
    """Translate the name and the keys of one section.

    Args:
        section: The section, in today's word.
        table: Its keys; they are not changed.
        note: Called for each old word.
        choice: The option that the keys belong to where the table does not name one.

    Raises:
        ConfigError: An old and a new word for the same thing are both there.
    """
    table = dict(table)
    if "name" in table:
        table["name"] = modern_choice(section, table["name"], note)
    return _rename(table, renamed_keys(section, table.get("name", choice)), note)


def modern_section(section: str, note: Note = warn_renamed) -> str:
    """Translate the name of a section.

    Args:
        section: The section, or any other key.
        note: Called for an old word.
    """
    if section in SECTIONS:
        note(_renamed_section(section))
    return SECTIONS.get(section, section)


def modern_key(parts: Sequence[str], raw: Mapping[str, Any], note: Note = warn_renamed) -> list[str]:
    """Translate the dotted key of an override.

    Args:
        parts: The key, such as ``["server_step", "first"]``.
        raw: The configuration that is overridden, in today's words; its choice of the section decides what keys mean.
        note: Called for each old word.

    >>> modern_key(["server_step", "first"], {"server_optimizer": {"name": "adam"}}, note=ignore_renamed)
    ['server_optimizer', 'beta1']
    """
    section, rest = modern_section(parts[0], note), list(parts[1:])
    table = raw.get(section)
    choice = table.get("name") if isinstance(table, Mapping) else None
    keys = renamed_keys(section, choice)
    if rest and rest[0] in keys:
        note(keys[rest[0]])
        rest = [keys[rest[0]].new.rpartition(".")[2], *rest[1:]]
    return [section, *rest]


def modern_choice(section: str, name: object, note: Note = warn_renamed) -> object:
    """Translate the name of a choice.

    Args:
        section: The section, in today's word.
        name: What ``name`` was set to.
        note: Called for an old word.
    """
    new = CHOICES.get((section, name)) if isinstance(name, str) else None
    if new is None:
        return name
    note(Renamed(f"{section}.name = {str(name)!r}", f"{section}.name = {new!r}"))
    return new


def with_first_words(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate a configuration into the words of the first version, whose digests name run folders.

    Args:
        config: A configuration in today's words; it is not changed.

    >>> with_first_words({"aggregator": {"name": "mean"}})
    {'guard': {'name': 'none'}}
    """
    sections = {new: old for old, new in SECTIONS.items()}
    choices = {(section, new): old for (section, old), new in CHOICES.items()}
    translated: dict[str, Any] = {}
    for section, value in config.items():
        if isinstance(value, Mapping):
            name = value.get("name")
            keys = {new: old for old, new in KEYS.get((section, name), {}).items()}
            value = {keys.get(key, key): item for key, item in value.items()}
            value |= {"name": choices[section, str(name)]} if (section, name) in choices else {}
        translated[sections.get(section, section)] = value
    return translated


def renamed_attributes(module: str, names: Sequence[Renamed], find: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that hands out renamed public names with a warning.

    Args:
        module: The module's ``__name__``.
        names: What was renamed.
        find: Returns the module's attribute of a name.

    Returns:
        A function to assign to ``__getattr__`` at the end of the module.
    """
    by_old = {renamed.old: renamed for renamed in names}

    def __getattr__(name: str) -> Any:  # noqa: ANN401, N807  (what a module's attribute may be)
        if name not in by_old:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        renamed = by_old[name]
        full = Renamed(f"{module}.{renamed.old}", f"{module}.{renamed.new}", renamed.since, renamed.removed_in)
        warnings.warn(str(full), RenamedWarning, stacklevel=2)
        return find(renamed.new)

    return __getattr__


LEFT_OUT_AT_DEFAULT = {"left_out_at_default": True}
"""Metadata of a settings field that came after the first version.

Configurations and descriptions are written without it where it has its default, so run folders of the same settings
keep their names.
"""


def is_left_out(owner: object, field: Field[Any]) -> bool:
    """Return whether a configuration or a description is written without a field.

    Args:
        owner: The settings.
        field: One of the fields of its dataclass.
    """
    if not field.metadata.get("left_out_at_default"):
        return False
    return bool(getattr(owner, field.name) == default_of(field))


def left_out_fields(owner: Any) -> list[Field[Any]]:  # noqa: ANN401  (a dataclass)
    """Return the fields of a dataclass that came after the first version, which are not written at their default."""
    return [field for field in fields(owner) if field.metadata.get("left_out_at_default")]


def default_of(field: Field[Any]) -> Any:  # noqa: ANN401  (of any type)
    """Return the default of a field that has one."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def renamed_keys(section: str, choice: object) -> dict[str, Renamed]:
    """Return the old keys of an option, each with what replaces it.

    Args:
        section: The section, in today's word.
        choice: The option's name; None where the section names none.
    """
    keys = KEYS.get((section, choice), {}) if choice is None or isinstance(choice, str) else {}
    return {old: Renamed(f"{section}.{old}", f"{section}.{new}") for old, new in keys.items()}


def _renamed_section(old: str) -> Renamed:
    return Renamed(old, SECTIONS[old], also=_ALSO_CHANGED.get(old, ""))


def _rename(table: Mapping[str, Any], words: Mapping[str, Renamed], note: Note) -> dict[str, Any]:
    """Rename keys of a table; keys keep their order."""
    renamed = {}
    for key, value in table.items():
        if key not in words:
            renamed[key] = value
            continue
        word = words[key]
        new = word.new.rpartition(".")[2]
        if new in table:
            raise ConfigError(f"{word.old} and {word.new} are both given, but they mean the same; remove {word.old}")
        note(word)
        renamed[new] = value
    return renamed
