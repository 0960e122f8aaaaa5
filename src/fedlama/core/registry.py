"""The open registry: one decorator makes an option known by its name.

An option is a class (for an engine also a function) in a file of its own. :func:`register` marks it with its section,
and :func:`registered` lists the marked options of a package or module by importing it. There is no table to edit and
no global state: what a module holds is what it offers.

    @register("codec")
    @dataclass(frozen=True)
    class Float16:
        name: ClassVar[str] = "float16"

A file of the user's own may use the same decorator; see :mod:`fedlama.experiment.plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T", bound=Callable[..., Any])

_MARK = "__fedlama_option__"


def shown_name(choice: object) -> str:
    """Return the name of a choice, or that of its class: a choice of the user's own may have none.

    >>> shown_name(object())
    'object'
    """
    return str(getattr(choice, "name", type(choice).__name__))


def is_ours(kind: object) -> bool:
    """Return whether a class or function is of this package, and not a user's own.

    >>> is_ours(shown_name), is_ours(int)
    (True, False)
    """
    return str(getattr(kind, "__module__", "")).startswith("fedlama.")


def register(section: str, name: str | None = None) -> Callable[[T], T]:
    """Mark a class or function as an option of a section.

    Args:
        section: The section of an experiment, such as ``"codec"``.
        name: The option's name; by default the attribute ``name`` of the class.

    Returns:
        A decorator that returns what it decorates.

    Raises:
        TypeError: There is no name, or the class has another one.

    >>> from typing import ClassVar
    >>> @register("codec")
    ... class Nothing:
    ...     name: ClassVar[str] = "nothing"
    >>> options_of(Nothing)
    [('codec', 'nothing')]
    """

    def mark(option: T) -> T:
        class_name = vars(option).get("name") if isinstance(option, type) else None
        if name is None and class_name is None:
            raise TypeError(f"{option.__qualname__} has no name; write register({section!r}, '...')")
        if name is not None and class_name not in (None, name):
            raise TypeError(
                f"{option.__qualname__} is registered as {name!r}, but its attribute name is {class_name!r}"
            )
        if isinstance(option, type) and class_name is None:
            type.__setattr__(option, "name", name)
        setattr(option, _MARK, [*options_of(option), (section, name or class_name)])
        return option

    return mark


def options_of(option: object) -> list[tuple[str, str]]:
    """Return the sections and names that an object was registered under; what its base classes were is not counted."""
    marks: list[tuple[str, str]] = getattr(option, "__dict__", {}).get(_MARK, [])
    return marks


def marked(module: ModuleType, section: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and options of a section that a module defines; what it imports is not counted."""
    for value in list(vars(module).values()):
        if getattr(value, "__module__", None) == module.__name__:
            yield from ((name, value) for marked_section, name in options_of(value) if marked_section == section)


@cache
def registered(section: str, room: str) -> dict[str, Any]:
    """Return the options of a section that a package of ours offers, by name.

    Args:
        section: The section.
        room: Name of a package, whose modules are imported, or of a module.

    Raises:
        TypeError: Two options have the same name.
    """
    package = import_module(room)
    names = [info.name for info in iter_modules(getattr(package, "__path__", ()))]
    modules = [package, *(import_module(f"{room}.{name}") for name in names)]
    options: dict[str, Any] = {}
    for module in modules:
        for name, option in marked(module, section):
            if name in options:
                raise TypeError(f"{section} {name!r} is registered by {options[name]!r} and by {option!r}")
            options[name] = option
    return options
