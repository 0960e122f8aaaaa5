"""Write plain values as TOML: the standard library reads TOML and does not write it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(config: Mapping[str, object]) -> str:
    """Write a configuration as TOML: keys first, then one table per section.

    What is None is left out, since TOML has no word for it.

    Args:
        config: Plain JSON types by key; tables inside of tables are written on one line.

    Returns:
        The text, which ``tomllib`` reads back.

    >>> print(to_toml({"seed": 1, "rounds": None, "strategy": {"name": "fixed", "intervals": {"*.bias": 2}}}), end="")
    seed = 1
    <BLANKLINE>
    [strategy]
    name = "fixed"
    intervals = {"*.bias" = 2}
    """
    return "\n".join(_lines(config)) + "\n"


def inline(value: object, *, compact: bool = False) -> str:
    r"""Write a value on one line.

    Args:
        value: A plain JSON type.
        compact: Whether to write no spaces, as for an argument of a command.

    >>> inline([1, 2.5, "a, b", {"b": True}]), inline([1, {"b": "a, b"}], compact=True)
    ('[1, 2.5, "a, b", {b = true}]', '[1,{"b"="a, b"}]')
    """
    comma, equals = (",", "=") if compact else (", ", " = ")
    if isinstance(value, Mapping):
        given = {key: item for key, item in value.items() if item is not None}
        keys = {key: json.dumps(str(key), ensure_ascii=False) if compact else _key(key) for key in given}
        return (
            "{" + comma.join(f"{keys[key]}{equals}{inline(item, compact=compact)}" for key, item in given.items()) + "}"
        )
    if isinstance(value, (list, tuple)):
        return "[" + comma.join(inline(item, compact=compact) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _lines(config: Mapping[str, object]) -> Iterator[str]:
    tables = {key: value for key, value in config.items() if isinstance(value, Mapping)}
    for key, value in config.items():
        if value is not None and key not in tables:
            yield f"{_key(key)} = {inline(value)}"
    for key, table in tables.items():
        yield ""
        yield f"[{_key(key)}]"
        yield from (f"{_key(inner)} = {inline(value)}" for inner, value in table.items() if value is not None)


def _key(key: object) -> str:
    return str(key) if _BARE.fullmatch(str(key)) else json.dumps(str(key), ensure_ascii=False)
