"""A client's state on its disk: what cannot be read counts as none, and the server sends the full model."""

from __future__ import annotations

from functools import cache

import torch

from fedlama.errors import DataError
from fedlama.flower.client.state import ClientState, load, save
from tests.fuzz.folder import scratch
from tests.fuzz.harness import Target
from tests.fuzz.targets.checkpoint import damaged_safetensors


@cache
def _valid() -> bytes:
    path = scratch("client_state") / "valid.safetensors"
    weights = {"0.weight": torch.ones(2, 3)}
    save(ClientState("run", "print", 3, 0.25, weights, {"velocity/0.weight": torch.ones(2, 3)}, weights), path)
    return path.read_bytes()


def _read(data: bytes) -> None:
    path = scratch("client_state") / "state.safetensors"
    path.write_bytes(data)
    found = load(path)
    if found is None:
        raise DataError("none that can be read")
    assert type(found.round_index) is int
    assert type(found.run) is type(found.fingerprint) is str
    assert type(found.loss) is float


TARGET = Target("client-state", lambda draw: damaged_safetensors(draw, _valid()), _read)
