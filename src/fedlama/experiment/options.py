"""What can be named in an experiment, and what an option is called and set to, without importing all options.

Only the room of the section that is asked for is imported, and PyTorch only if that room needs it: the titles of run
folders need no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from fedlama.core.deprecations import is_left_out
from fedlama.core.registry import options_of, registered

ROOMS = {
    "data": "fedlama.data",
    "partition": "fedlama.data.partition",
    "model": "fedlama.models",
    "task": "fedlama.choices.tasks",
    "layers": "fedlama.core.labelling",
    "strategy": "fedlama.choices.strategies",
    "solver": "fedlama.choices.solvers",
    "sampler": "fedlama.choices.samplers",
    "availability": "fedlama.choices.availability",
    "codec": "fedlama.choices.codecs",
    "server_optimizer": "fedlama.choices.server_optimizers",
    "aggregator": "fedlama.choices.aggregators",
}
"""The package or module with a section's options; see :func:`fedlama.core.registry.registered`."""
ORIGIN = "__fedlama_origin__"
"""Attribute of a class of the user's own that says where it comes from."""


def options(section: str) -> dict[str, type[Any]]:
    """Return a section's options of this package, by name: dataclasses whose fields are the section's other keys.

    Args:
        section: A name in :data:`ROOMS`.

    >>> sorted(options("sampler"))
    ['all', 'power-of-choice', 'uniform', 'weighted']
    """
    return registered(section, ROOMS[section])


def settings_of(choice: type[Any]) -> list[str]:
    """Return the keys that an option takes; `name` chooses the option and is never a setting."""
    return [field.name for field in fields(choice) if field.name != "name" and field.init]


def names() -> list[str]:
    """Return the names of the experiments that come with the package."""
    entries = [entry.name for entry in library().iterdir()]
    return sorted(entry.removesuffix(".toml") for entry in entries if entry.endswith(".toml"))


def about(name: str) -> str:
    """Return the sentence about an experiment that comes with the package: the first comment of its file.

    Args:
        name: One of :func:`names`.

    >>> about("tinyshakespeare")
    'A character transformer on tinyshakespeare, one client per speaker.'
    """
    text = (library() / f"{name}.toml").read_text(encoding="utf-8")
    return text.partition("\n")[0].removeprefix("# ")


def library() -> Traversable:
    """Return the folder of the experiments that come with the package."""
    return resources.files("fedlama.experiment") / "library"


@dataclass(frozen=True)
class Origin:
    """Where an option of the user's own comes from.

    Attributes:
        reference: How it was named, such as ``"my_options.py:Mine"``.
        digest: SHA-256 of its code; see :class:`fedlama.experiment.loading.Loaded`.
        file: The file with its code, if there is one.
    """

    reference: str
    digest: str
    file: Path | None


def origin_of(option: object) -> Origin | None:
    """Return where an option's class comes from; None for an option of this package."""
    origin: Origin | None = vars(type(option)).get(ORIGIN)
    return origin


def name_of(option: Any) -> str:  # noqa: ANN401  (an option of any section)
    """Return what names an option in a configuration: its reference, or its name."""
    origin = origin_of(option)
    return str(option.name) if origin is None else origin.reference


def plain_choice(choice: Any) -> dict[str, object]:  # noqa: ANN401  (an option of any section)
    """Return an option's name and settings as plain JSON types."""
    return {"name": name_of(choice)} | plain_settings(choice)


def plain_settings(choice: Any) -> dict[str, object]:  # noqa: ANN401  (an option of any section)
    """Return the settings of an option as plain JSON types."""
    return {
        item.name: plain(getattr(choice, item.name))
        for item in fields(choice)
        if item.name in settings_of(type(choice)) and not is_left_out(choice, item)
    }


def plain(value: object) -> object:
    """Return a setting as plain JSON types."""
    if is_dataclass(value) and not isinstance(value, type):
        if options_of(type(value)):  # an option inside of another one
            return plain_choice(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
