"""Make an option of the user's own fit: functions become settings, and what a contract misses is named.

An option is a dataclass whose fields are its settings, as ours are. In the sections `data`, `model`, `partition` and
`layers`, which ask for one thing only, a function will do, and for a model the class of a network: their parameters are
the settings then.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any, TypeGuard, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from torch import nn
from typing_extensions import get_protocol_members

from fedlama.errors import ConfigError
from fedlama.experiment.options import settings_of as settings_of
from fedlama.experiment.sections import SECTIONS, Section

_NOT_MEMBERS = {"name", "always_stacked", "__dataclass_fields__"}


def adapt(section: str, given: str, option: object) -> type[Any]:
    """Return an option as a dataclass that meets its section's contract.

    Args:
        section: The section.
        given: How the user named the option, for messages.
        option: What was found under that name.

    Raises:
        ConfigError: The option is none, and the reason.
    """
    contract = SECTIONS[section]
    if isinstance(option, type) and dataclasses.is_dataclass(option):
        choice: type[Any] = option
    elif contract.function is not None and _has_parameters(section, option):
        choice = _from_callable(section, given, option)
    else:
        raise ConfigError(f"{section}.name is {given!r}, which is {_kind(option)}; {_expected(section, contract)}")
    missing = missing_members(choice, contract)
    if missing:
        fitting = [other for other, its in SECTIONS.items() if other != section and not missing_members(choice, its)]
        if fitting:
            raise ConfigError(f"{section}.name is {given!r}, but the class fits {fitting[0]}.name; use it there")
        base = f"{contract.contract.__module__}.{contract.contract.__name__}"
        if len(missing) < 4:
            remedy = f"define {'it' if len(missing) == 1 else 'them'} as in {base}"
        else:  # contracts with more members have defaults for all but one to three
            remedy = f"inherit from {base}, which has most of them"
        raise ConfigError(f"{section}.name is {given!r}, but the class lacks {', '.join(missing)}; {remedy}")
    _check_fields(section, given, choice)
    return choice


def shared_keys(section: str, choice: type[Any] | None) -> list[str]:
    """Return the keys that a section takes with every option, except those that the option has itself.

    Args:
        section: The section; the empty one has none.
        choice: The option; None to leave nothing out.
    """
    shared = SECTIONS[section].shared if section in SECTIONS else None
    taken = [] if choice is None else settings_of(choice)
    return [] if shared is None else [key for key in settings_of(shared) if key not in taken]


def missing_members(choice: type[Any], section: Section) -> list[str]:
    """Return the members of a contract that a class does not define, in alphabetical order.

    Args:
        choice: The class.
        section: The section, with its contract.
    """
    fields = {field.name for field in dataclasses.fields(choice)}

    def defines(member: str) -> bool:
        """Return whether a class has a member; methods of the contract that consist of a docstring do not count."""
        value = inspect.getattr_static(choice, member, None)
        return member in fields or not (value is None or _is_stub(value))

    def overrides(method: str) -> bool:
        return inspect.getattr_static(choice, method, None) is not inspect.getattr_static(section.contract, method)

    members = get_protocol_members(section.contract) - _NOT_MEMBERS
    needed = {name for name, method in section.fields.items() if not method or not overrides(method)}
    abstract: frozenset[str] = getattr(choice, "__abstractmethods__", frozenset()) - fields
    return sorted({member for member in members | needed if not defines(member)} | abstract)


def check_plain(section: str, value: object, plain: object) -> list[str]:
    """Report settings that cannot be written into ``config.json``.

    Args:
        section: The section.
        value: The option with its settings.
        plain: The same as plain types.
    """
    try:
        json.dumps(plain)
    except (TypeError, ValueError):
        return [
            f"{section}: the settings of {type(value).__name__} hold something that config.json cannot; use numbers, "
            "texts, lists and tables, and make other objects of them in the methods"
        ]
    return []


def _has_parameters(section: str, option: object) -> TypeGuard[Callable[..., Any]]:
    """Return whether the parameters of an option are its settings: a function, or for a model a network's class."""
    return isinstance(option, FunctionType) or (
        section == "model" and isinstance(option, type) and issubclass(option, nn.Module)
    )


def _kind(option: object) -> str:
    if isinstance(option, type):
        return "a class, but not a dataclass"
    if isinstance(option, FunctionType):
        return "a function"
    return f"an object of the class {type(option).__name__}"


def _expected(section: str, contract: Section) -> str:
    function = "" if contract.function is None else ", or give a function whose parameters are the settings"
    network = " or the class of a network" if section == "model" else ""
    return f"write @dataclass(frozen=True) above a class with the settings as its fields{function}{network}"


@cache  # a function is one option, however often it is named
def _from_callable(section: str, given: str, function: Callable[..., Any]) -> type[Any]:
    """Return a dataclass whose fields are a callable's parameters and whose one method calls it.

    Args:
        section: The section; its contract names the method and the method's arguments. A parameter named like one of
            these gets the argument and is not a setting.
        given: How the user named the callable.
        function: A function, or a network's class.
    """
    contract = SECTIONS[section]
    assert contract.function is not None
    method, passed = contract.function
    parameters = inspect.signature(function).parameters.values()
    if wrong := [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_ONLY]:
        raise ConfigError(f"{given}: the parameter {wrong[0]!r} takes a position only; remove the '/' behind it")
    takes = [parameter.name for parameter in parameters if parameter.name in passed]
    fields: list[tuple[str, Any, Any]] = []
    for parameter in parameters:
        name, kind, default = parameter.name, parameter.kind, parameter.default
        if name in passed or kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        needed = default is parameter.empty
        if name == "name" and needed:
            raise ConfigError(f"{given}: a setting cannot be called 'name', which chooses the option; rename it")
        if name != "name" and (needed or _is_plain(default)):  # other defaults stay as they are
            hint = Any if parameter.annotation is parameter.empty else parameter.annotation
            fields.append((name, hint, dataclasses.field() if needed else _default(default)))
    hints = _hints(given, _annotated(function, {name: hint for name, hint, _ in fields}))
    fields = [(name, hints.get(name, Any), default) for name, _, default in fields]

    def call(self: object, *arguments: object) -> object:
        values = {field[0]: getattr(self, field[0]) for field in fields}
        given_by_name = dict(zip(passed, arguments, strict=True))
        return function(**values, **{name: given_by_name[name] for name in takes})

    namespace = {method: call, "__module__": function.__module__, "__doc__": function.__doc__}
    return dataclasses.make_dataclass(
        function.__name__, fields, bases=(contract.contract,), frozen=True, kw_only=True, namespace=namespace
    )


def _annotated(function: Callable[..., Any], annotations: dict[str, Any]) -> type[Any]:
    """Return a class with some of a callable's annotations: those of other parameters need not be known."""
    return type("_Annotated", (), {"__annotations__": annotations, "__module__": function.__module__})


def _default(value: object) -> Any:  # noqa: ANN401  (what `field` returns)
    if isinstance(value, (list, dict)):
        text = json.dumps(value)
        return dataclasses.field(default_factory=lambda: json.loads(text))
    return dataclasses.field(default=value)


def _is_plain(value: object) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True


def _hints(given: str, annotated: Any) -> dict[str, Any]:  # noqa: ANN401  (a class or a function)
    try:
        return get_type_hints(annotated)
    except Exception as error:  # whatever the user's annotations raise
        raise ConfigError(f"{given}: the type of a setting is not known ({error}); import it in that file") from error


def _check_fields(section: str, given: str, choice: type[Any]) -> None:
    """Refuse fields that a configuration cannot give."""
    hints = _hints(given, choice)
    name = next((field for field in dataclasses.fields(choice) if field.name == "name"), None)
    if name is not None and name.default is dataclasses.MISSING:
        raise ConfigError(f"{given}: 'name' is a field; write name: ClassVar[str] = '...' instead")
    for key in settings_of(choice):
        try:
            TypeAdapter(hints[key])
        except PydanticUserError as error:
            raise ConfigError(
                f"{section}.name is {given!r}, but its field {key!r} has the type {hints[key]}, which a configuration "
                "cannot give; use numbers, texts, lists and tables, and make other objects of them in the methods"
            ) from error


def _stub() -> None:
    """Do nothing, as the methods of a contract."""


def _is_stub(member: object) -> bool:
    """Return whether a method or property consists of its docstring alone."""
    function = member.fget if isinstance(member, property) else member
    if not isinstance(function, FunctionType):
        return False
    code = function.__code__
    return code.co_code == _stub.__code__.co_code and code.co_consts in ((code.co_consts[0], None), (None,))
