"""Experiment files: TOML, then sections, names, types and ranges."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from random import Random

from fedlama.experiment import names, read, resolve
from tests.fuzz.damage import damage_text
from tests.fuzz.folder import scratch
from tests.fuzz.harness import Target
from tests.fuzz.targets.words import TOML


@cache
def _valid() -> list[bytes]:
    folder = resources.files("fedlama.experiment") / "library"
    return [(folder / f"{name}.toml").read_bytes() for name in names()]


def _make(draw: Random) -> bytes:
    return damage_text(draw, draw.choice(_valid()), TOML)


def _read(data: bytes) -> None:
    path = scratch("config_file") / "experiment.toml"
    path.write_bytes(data)
    json.dumps(resolve(read(str(path))).to_json(), allow_nan=False)


TARGET = Target("config-file", _make, _read)
