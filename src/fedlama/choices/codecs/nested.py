"""Codecs inside of codecs: from a table of settings, as an experiment has it, to the codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from fedlama.choices.codecs.base import Codec
from fedlama.core.registry import registered
from fedlama.errors import ConfigError, did_you_mean, shown


def codec_from(where: str, given: Any) -> Codec:  # noqa: ANN401  (a codec, or a table)
    """Return a codec, made of a table where it is one.

    Args:
        where: The setting, for messages.
        given: A codec, or a table with its ``name`` and settings; only codecs of this package have a name here.

    Raises:
        ConfigError: There is no such codec, or it does not take these settings.
    """
    if not isinstance(given, Mapping):
        if hasattr(given, "needs_context"):
            codec: Codec = given
            return codec
        raise ConfigError(f"{where} is {shown(given)}, expected a table such as {{name = 'float16'}}; write one")
    known: dict[str, Any] = registered("codec", "fedlama.choices.codecs")
    settings = {key: value for key, value in given.items() if key != "name"}
    name = given.get("name")
    if name not in known:
        raise ConfigError(f"{where}: the codec is {shown(name)}{did_you_mean(str(name), known)}")
    keys = [item.name for item in fields(known[name])]
    if unknown := [key for key in settings if key not in keys]:
        raise ConfigError(f"{where}: codec {name!r} has no setting {unknown[0]!r}{did_you_mean(unknown[0], keys)}")
    made: Codec = known[name](**settings)
    return made
