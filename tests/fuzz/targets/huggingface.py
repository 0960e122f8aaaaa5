"""Splits of the Hugging Face library, with columns and values that are not expected; the library itself is not used."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from fedlama.data import huggingface
from fedlama.errors import DataError
from tests.fuzz.damage import damage_value
from tests.fuzz.harness import Target

_VALID = {
    "train": {"image": [[[0, 1], [2, 3]]] * 3, "label": [0, 1, 2], "writer": ["a", "b", "a"]},
    "test": {"image": [[[0, 1], [2, 3]]] * 2, "label": [0, 1], "writer": ["a", "c"]},
}


class _Split:
    """Columns by name, of whatever the input says."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self._columns = {name: value if isinstance(value, list) else [value] for name, value in columns.items()}
        self.features: dict[str, object] = dict.fromkeys(columns)

    def __len__(self) -> int:
        return min(map(len, self._columns.values()), default=0)

    def __getitem__(self, key: int | str) -> object:
        if isinstance(key, str):
            return self._columns[key][: len(self)]
        return {name: values[key] for name, values in self._columns.items()}


def _make(draw: Random) -> bytes:
    return json.dumps(damage_value(draw, _VALID)).encode()


def _read(data: bytes) -> None:
    try:
        given = json.loads(data)
        train, test = _Split(given["train"]), _Split(given["test"])
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as error:
        raise DataError("the library would hand over no such splits") from error
    huggingface.from_splits("fuzz", train, test, huggingface.Columns(group="writer"))


TARGET = Target("huggingface", _make, _read)
