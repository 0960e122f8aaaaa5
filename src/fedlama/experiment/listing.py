"""What an experiment can name, with every setting's type, default and meaning: read from the options' own dataclasses.

Nothing is written twice: the sentences are the ones of the docstrings.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from fedlama.core.registry import options_of
from fedlama.engines import ENGINES
from fedlama.errors import ConfigError, did_you_mean, shown
from fedlama.experiment.options import options, plain, settings_of
from fedlama.experiment.sections import SECTIONS
from fedlama.experiment.settings import Settings
from fedlama.experiment.toml import inline

KINDS = {
    "experiments": "the experiments that come with the package",
    "settings": "keys outside of the sections",
    "engines": "values of the key `engine`",
}
"""What can be listed beside the options of a section."""
_PLURALS = {"data": "data", "layers": "layers", "strategy": "strategies", "availability": "availabilities"}
_ENTRY = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |^\S|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Setting:
    """One setting of an option.

    Attributes:
        name: Its key.
        type: What it takes, such as ``"int or none"``.
        default: Its default as it is written in TOML; ``"none"`` where leaving it out is the default, and None where
            there is no default.
        meaning: The first sentence about it.
    """

    name: str
    type: str
    default: str | None
    meaning: str


@dataclass(frozen=True)
class Option:
    """An option, or the keys outside of the sections.

    Attributes:
        name: What names it.
        meaning: The first sentence about it.
        settings: Its settings, in their order.
        is_default: Whether an experiment has it where the section is left out.
    """

    name: str
    meaning: str
    settings: tuple[Setting, ...]
    is_default: bool = False

    def only(self, names: Collection[str]) -> Option:
        """Return the option with some of its settings.

        Args:
            names: Their names.
        """
        return replace(self, settings=tuple(setting for setting in self.settings if setting.name in names))

    def to_json(self) -> dict[str, object]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


def kinds() -> list[str]:
    """Return what :func:`list_options` can list: experiments, settings, engines, and the options of each section."""
    return [*KINDS, *(plural(section) for section in SECTIONS)]


def plural(section: str) -> str:
    """Return the word for the options of a section.

    >>> plural("strategy"), plural("codec"), plural("data")
    ('strategies', 'codecs', 'data')
    """
    return _PLURALS.get(section, f"{section}s")


def section_of(kind: str) -> str | None:
    """Return the section whose options a word stands for, in the singular or plural; None for another kind.

    Args:
        kind: What is to be listed.

    Raises:
        ConfigError: There is nothing of that name.
    """
    word = kind.lower().replace("-", "_")
    by_word = {form: section for section in SECTIONS for form in (section, plural(section))}
    if word in by_word:
        return by_word[word]
    if word not in KINDS and f"{word}s" not in KINDS:
        raise ConfigError(f"{shown(kind)} cannot be listed{did_you_mean(word, kinds())}")
    return None


def list_options(kind: str) -> list[Option]:
    """Return the options of a section, the engines, or the keys outside of the sections.

    Args:
        kind: A section, in the singular or plural, ``"engines"`` or ``"settings"``.

    Raises:
        ConfigError: There is nothing of that name.

    >>> [option.name for option in list_options("samplers")]
    ['all', 'power-of-choice', 'uniform', 'weighted']
    >>> list_options("samplers")[2].settings[0]
    Setting(name='active', type='int', default=None, meaning='Clients in a cohort; 1 or more.')
    """
    section = section_of(kind)
    if section is not None:
        default = SECTIONS[section].default.name
        known = options(section)
        return [option_of(name, known[name], is_default=name == default) for name in sorted(known)]
    if kind.lower().startswith("setting"):
        return [option_of("", Settings)]
    return [_engine(name, ENGINES[name]) for name in sorted(ENGINES)]


def option_of(name: str, choice: type[Any], *, is_default: bool = False) -> Option:
    """Return what there is to know about an option.

    Args:
        name: What names it.
        choice: Its dataclass.
        is_default: Whether it is its section's default.
    """
    hints, meanings = get_type_hints(choice), _meanings(choice)
    keys = [field for field in dataclasses.fields(choice) if field.name in settings_of(choice) or not name]
    keys.sort(key=lambda field: field.name not in vars(choice).get("__annotations__", {}))  # inherited ones last
    settings: list[Setting] = []
    for field in keys:
        hint = hints[field.name]
        settings.append(Setting(field.name, type_text(hint), _default(field), meanings.get(field.name, "")))
        settings += _inner(field.name, hint)
    return Option(name, first_sentence(inspect.getdoc(choice) or ""), tuple(settings), is_default)


def _inner(name: str, hint: object) -> list[Setting]:
    """Return the settings of the table that a setting takes, or of each table of a list."""
    inner = name if get_origin(hint) in (Union, types.UnionType) else f"{name}[]"
    for dotted, part in ((name, hint), *((inner, argument) for argument in get_args(hint))):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return [replace(inner, name=f"{dotted}.{inner.name}") for inner in option_of("", part).settings]
    return []


def shared_option(section: str) -> Option | None:
    """Return the settings that go with every option of a section; None where there are none.

    Args:
        section: The section.
    """
    shared = SECTIONS[section].shared
    return None if shared is None else option_of(f"any {section}", shared)


def _engine(name: str, factory: Callable[..., Any]) -> Option:
    """Return an engine; in an experiment it has no settings of its own, in Python its options are `engine=`."""
    kind = factory if isinstance(factory, type) else type(factory)
    return Option(name, first_sentence(inspect.getdoc(kind) or ""), (), name == Settings.engine)


def type_text(hint: Any) -> str:  # noqa: ANN401  (any annotation)
    """Word a type as a configuration takes it.

    >>> type_text(int | None), type_text(Literal["a", "b"]), type_text(tuple[int, ...])
    ('int or none', '"a" or "b"', 'list of int')
    """
    arguments = [part for part in get_args(hint) if part is not Ellipsis]
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(type_text, arguments)))
    if origin is Literal:
        return " or ".join(f'"{value}"' for value in arguments)
    if origin is not None and issubclass(origin, Mapping):
        return f"table of {type_text(arguments[1])}"
    if origin is not None:
        return f"list of {' or '.join(dict.fromkeys(map(type_text, arguments)))}"
    words = {str: "text", bool: "true or false", type(None): "none", Path: "path", Any: "any value"}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return "table"
    return words.get(hint, getattr(hint, "__name__", str(hint)).lower())


def _default(field: dataclasses.Field[Any]) -> str | None:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    elif field.default is dataclasses.MISSING:
        return None
    else:
        value = field.default
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not options_of(type(value)):
        return "none"  # a table of settings that are all at their defaults
    return inline(plain(value))


def _meanings(choice: type[Any]) -> dict[str, str]:
    """Return the first sentence about each field, from the docstrings of a class and of its bases."""
    meanings: dict[str, str] = {}
    for kind in choice.__mro__:
        text = inspect.cleandoc(vars(kind).get("__doc__") or "")
        for heading in ("Args:\n", "Attributes:\n"):
            section = re.split(r"^(?=\S)", text.partition(heading)[2], maxsplit=1, flags=re.MULTILINE)[0]
            for name, sentence in _ENTRY.findall(section):
                meanings.setdefault(name, first_sentence(sentence))
    return meanings


def first_sentence(text: str) -> str:
    """Return the first sentence of a docstring, or of a part of one, with names in single backticks.

    >>> first_sentence('Keep a :class:`fedlama.core.plan.Plan` of `x`, ``"a"`` or ``b``; see :func:`make`.  More.')
    'Keep a Plan of `x`, "a" or `b`.'
    """
    paragraph = " ".join(text.strip().split("\n\n")[0].split())
    paragraph = re.sub(r"[;,:] see (also )?:\w+:`[^`]*`(?=\.)", "", paragraph)
    paragraph = re.sub(r":\w+:`~?([^`]*)`", lambda match: match[1].rpartition(".")[2], paragraph)
    paragraph = re.sub(r"``([^`]*)``", lambda match: match[1] if '"' in match[1] else f"`{match[1]}`", paragraph)
    return re.split(r"(?<=[.:])\s+(?=[A-Z(])", paragraph, maxsplit=1)[0]
