"""The configuration of a Flower run, as it reaches servers and clients: an experiment as JSON, and the rules."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any

from fedlama.errors import ConfigError
from fedlama.experiment import read, resolve
from fedlama.flower.settings import DEFAULTS, aggregation_of, client_number, experiment_of, policy_of, state_name
from tests.fuzz.damage import damage_json, damage_value
from tests.fuzz.harness import Target


@cache
def _experiment() -> bytes:
    return json.dumps(resolve(read("digits")).to_json()).encode()


def _make(draw: Random) -> bytes:
    given: dict[str, Any] = {**DEFAULTS, "partition-id": 3}
    if draw.random() < 0.7:
        given["experiment"] = damage_json(draw, _experiment()).decode("utf-8", "surrogateescape")
    else:
        given["experiment"] = _experiment().decode()
        given = {**given, **{key: damage_value(draw, value) for key, value in given.items() if draw.random() < 0.2}}
    return json.dumps(given).encode()


def _read(data: bytes) -> None:
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        given = None
    scalars = (bool, int, float, str)  # all that Flower lets into a configuration
    if not isinstance(given, dict) or not all(type(value) in scalars for value in given.values()):
        raise ConfigError("Flower delivers no such configuration")
    experiment_of(given)
    state_name(given, given)
    aggregation_of(given)
    policy_of(given)
    client_number(given)


TARGET = Target("run-config", _make, _read)
