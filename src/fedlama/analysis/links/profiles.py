"""A handful of documented links, and links written by the user on the command line or in a file.

The figures are round numbers for orientation, not measurements of a provider. Every profile takes 20 ms per local step,
so that links are compared and not machines; set `compute` to what your clients need.

==============  ============  ============  =========  ==========================================================
name            up            down          latency    stands for
==============  ============  ============  =========  ==========================================================
data-centre     10 Gbit/s     10 Gbit/s     0.1 ms     servers in one building
fibre           500 Mbit/s    1 Gbit/s      5 ms       fibre to the home
home-dsl        10 Mbit/s     50 Mbit/s     15 ms      VDSL at home
4g              10 Mbit/s     30 Mbit/s     35 ms      phones; rates spread by half (rate_spread 0.5)
lora-like       5.47 kbit/s   5.47 kbit/s   500 ms     LoRa at SF7 and 125 kHz, without any limit of the duty cycle
==============  ============  ============  =========  ==========================================================

Rates are bits per second with prefixes of 1000, latency is one way.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from fedlama.analysis.links.link import Link
from fedlama.analysis.links.units import parse_rate, parse_seconds
from fedlama.core.paths import expanded
from fedlama.data.files import decode_text, read_whole
from fedlama.errors import ConfigError, DataError, did_you_mean, shown

_STEP: Final = 0.02
_BUILT_IN: Final = (
    Link("data-centre", 10e9, 10e9, 0.0001, _STEP, note="servers in one building"),
    Link("fibre", 500e6, 1e9, 0.005, _STEP, note="fibre to the home"),
    Link("home-dsl", 10e6, 50e6, 0.015, _STEP, note="VDSL at home"),
    Link("4g", 10e6, 30e6, 0.035, _STEP, rate_spread=0.5, note="phones, rates spread by half"),
    Link("lora-like", 5470.0, 5470.0, 0.5, _STEP, note="LoRa at SF7 and 125 kHz, no limit of the duty cycle"),
)

PROFILES: Final[Mapping[str, Link]] = {link.name: link for link in _BUILT_IN}
"""The documented links by name."""

_KINDS: Final = {
    **dict.fromkeys(("up", "down", "server_up", "server_down"), parse_rate),
    **dict.fromkeys(("latency", "compute"), parse_seconds),
}
_KEYS: Final = tuple(field.name for field in fields(Link) if field.name not in ("name", "note"))
_LIMIT: Final = 1 << 20
_FIRST_COMMA: Final = re.compile(r"\s*,\s*")


def parse_link(text: str) -> Link:
    """Read a link from one line: a profile's name, settings, or a profile with settings that change it.

    Args:
        text: Such as ``"4g"``, ``"4g,up=5Mbit/s,compute=80ms"`` or ``"up=1MB/s,down=1MB/s,latency=20ms"``.

    Returns:
        The link; settings are part of its name.

    Raises:
        ConfigError: An unknown name or key, or a value without its unit; all problems at once.

    >>> parse_link("4g,up=5Mbit/s").up
    5000000.0
    """
    parts = [part for part in _FIRST_COMMA.split(text.strip()) if part]
    base = parts.pop(0) if parts and "=" not in parts[0] else None
    if base is not None and base not in PROFILES:
        raise ConfigError(f"there is no link {shown(base)}{did_you_mean(base, PROFILES)}")
    table: dict[str, Any] = {}
    for part in parts:
        key, equals, value = part.partition("=")
        if not equals:
            raise ConfigError(
                f"{shown(part)} in the link {shown(text)} is not a setting; write key=value, such as up=5Mbit/s"
            )
        table[key.strip().replace("-", "_")] = value.strip()
    return _build(text.strip(), {**table, "base": base} if base else table)


def parse_links(given: Sequence[str], file: Path | None = None) -> list[Link]:
    """Read the links of a command line.

    Args:
        given: The texts of `--link`, each as :func:`parse_link` reads it.
        file: A TOML file with one table per link: ``[name]``, the keys of :class:`Link` (rates and times as text with
            their unit, or lists of them by client) and ``base`` for a profile to start from.

    Returns:
        The links; every documented profile when none is given.

    Raises:
        ConfigError: Holds every problem found.
    """
    links = [parse_link(text) for text in given]
    if file is not None:
        try:
            tables = tomllib.loads(decode_text(read_whole(expanded(file), _LIMIT), str(file)))
        except DataError as error:  # not there, too large or not UTF-8
            raise ConfigError(f"{error}; --links takes a TOML file with one table per link") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"{file} cannot be read as TOML ({error}); give a file with one table per link"
            ) from error
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise ConfigError(f"{file}: {name} is {shown(table)}, expected a table; write [{name}]")
            links.append(_build(name, table))
    return links or list(PROFILES.values())


def _build(name: str, table: Mapping[str, Any]) -> Link:
    problems: list[str] = []
    values: dict[str, Any] = {}
    base = table.get("base")
    if base is not None and base not in PROFILES:
        problems.append(f"link {name!r}: there is no base {shown(base)}{did_you_mean(str(base), PROFILES)}")
    for key, value in table.items():
        if key in ("base", "note"):
            continue
        if key not in _KEYS:
            problems.append(f"link {name!r}: unknown key {shown(key)}{did_you_mean(key, _KEYS)}")
            continue
        try:
            values[key] = _value(key, value)
        except (ConfigError, TypeError, ValueError) as error:
            problems.append(f"link {name!r}: {key}: {error}")
    if base is None:
        problems += [
            f"link {name!r} lacks {key}; give it as {key}=5Mbit/s, or start from one of: {', '.join(PROFILES)}"
            for key in ("up", "down")
            if key not in table
        ]
    if problems:
        raise ConfigError(problems)
    start = PROFILES[base] if base is not None else Link(name, 1.0, 1.0)
    return replace(start, **{**values, "name": name, "note": str(table.get("note", start.note))})


def _value(key: str, value: object) -> float | tuple[float, ...]:
    if isinstance(value, list):
        if key not in ("up", "down", "latency", "compute"):
            raise ConfigError("is a list, expected one number; give one number")
        return tuple(_number(key, item) for item in value)
    return _number(key, value)


def _number(key: str, value: object) -> float:
    reader = _KINDS.get(key)
    if reader is not None:
        return reader(str(value))
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ConfigError(f"is {shown(value)}, expected a number; change it")
    return float(value)
