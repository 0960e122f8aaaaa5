"""Whether runs are of different experiments, by what their ``config.json`` say; an old one says less."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fedlama.core.deprecations import default_of, left_out_fields
from fedlama.experiment.options import options, plain
from fedlama.runs.reader import is_built_in_python

_SECTIONS = ("data", "partition", "model", "task")
_KEYS = ("batch_size", "local_steps", "rounds", "epochs")
"""What runs must share, or their losses cannot be compared; a missing key is null."""


def unlike(configs: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether runs differ in data, model, task or length.

    A section or a setting that a configuration lacks came later than the version that wrote it: it is unknown, not
    different. Missing keys make equality of two runs intransitive, so all values of a key are compared.

    Args:
        configs: The content of each ``config.json``; one that is missing is empty, and says nothing.
    """
    known = [config for config in configs if config]
    if len({is_built_in_python(config) for config in known}) > 1 or any(
        _differ([config.get(key) for config in known]) for key in _KEYS
    ):
        return True
    return any(_sections_differ(key, [config[key] for config in known if key in config]) for key in _SECTIONS)


def _sections_differ(section: str, values: Sequence[Any]) -> bool:
    tables = [value for value in values if isinstance(value, Mapping)]
    names = {table["name"] for table in tables if isinstance(table.get("name"), str)}
    if len(tables) < len(values) or len(names) != 1:
        return _differ(values)
    alike = all(table.keys() == tables[0].keys() for table in tables)
    return _differ(tables if alike else _completed(section, str(*names), tables))


def _completed(section: str, name: str, tables: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the settings of an option with those that are not written because they have their default."""
    from fedlama.experiment.sections import SECTIONS  # imports PyTorch, which a report seldom needs

    classes = (SECTIONS[section].shared, options(section).get(name))
    unwritten = {
        field.name: plain(default_of(field))
        for settings in classes
        if settings is not None
        for field in left_out_fields(settings)
    }
    return [{**unwritten, **table} for table in tables]


def _differ(values: Sequence[Any]) -> bool:
    """Return whether there are two different values; of tables, only keys that both have are compared."""
    tables = [value for value in values if isinstance(value, Mapping)]
    if len(tables) < len(values):
        return len({json.dumps(value, sort_keys=True, default=str) for value in values}) > 1
    keys = dict.fromkeys(key for table in tables for key in table)
    return any(_differ([table[key] for table in tables if key in table]) for key in keys)
