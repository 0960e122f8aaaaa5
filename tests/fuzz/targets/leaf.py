"""LEAF's FEMNIST: JSON of users."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fedlama.data import leaf
from tests.fuzz.damage import damage_json
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target


def _fill(folder: Path) -> None:
    for part, names in (("train", ("ann", "bob")), ("test", ("ann",))):
        (folder / part).mkdir()
        rows = {name: {"x": [[0.5] * 784], "y": [61]} for name in names}
        content = {"users": list(names), "num_samples": [1] * len(names), "user_data": rows}
        (folder / part / "all.json").write_text(json.dumps(content), encoding="utf-8")


def _damage(draw: Random, _name: str, content: bytes) -> bytes:
    return damage_json(draw, content)


_FOLDER = Folder(_fill)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        leaf.load(folder)


TARGET = Target("leaf", lambda draw: _FOLDER.make(draw, _damage), _read)
