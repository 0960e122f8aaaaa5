"""A folder of checkpoints: the newest one damaged, under its old name or under one that vouches for the damage."""

from __future__ import annotations

import hashlib
import json
import struct
from functools import cache
from random import Random

import torch

from fedlama.errors import DataError
from fedlama.runs.checkpoint import Snapshot, save_snapshot, whole_snapshots
from tests.fuzz.damage import damage_bytes, damage_json
from tests.fuzz.folder import scratch
from tests.fuzz.harness import Target


@cache
def _valid() -> bytes:
    tensors = {"global/w": torch.arange(6.0).reshape(2, 3), "client/w": torch.ones(2, 6), "n": torch.tensor(3)}
    facts = {"cohort": [0, 1], "steps_done": {"0": 4}, "engine": {}}
    return save_snapshot(Snapshot(4, tensors, facts), scratch("checkpoint")).read_bytes()


def _make(draw: Random) -> bytes:
    """Draw a byte that says whether the name vouches for the content, and the content."""
    return bytes([draw.random() < 0.8]) + damaged_safetensors(draw, _valid())


def damaged_safetensors(draw: Random, content: bytes) -> bytes:
    """Damage a safetensors file: its bytes, its header's JSON, or the JSON inside its metadata."""
    length = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + length], content[8 + length :]
    match draw.randrange(3):
        case 0:
            return damage_bytes(draw, content)
        case 1:
            header = damage_json(draw, header)
        case _:
            parsed = json.loads(header)
            inner = parsed["__metadata__"]
            key = draw.choice(list(inner))
            damaged = damage_json(draw, inner[key].encode()) if inner[key][:1] == "{" else draw.randbytes(3)
            inner[key] = damaged.decode("utf-8", "replace")
            header = json.dumps(parsed).encode()
    return struct.pack("<Q", len(header)) + header + body


def _read(data: bytes) -> None:
    _valid()
    folder = scratch("checkpoint")
    for stale in folder.iterdir():
        stale.unlink()
    digest = hashlib.sha256(data[1:] if data[:1] == b"\x01" else b"").hexdigest()[:16]
    (folder / f"round-00000004-{digest}.safetensors").write_bytes(data[1:])
    said: list[str] = []
    found = list(whole_snapshots(folder, said.append))
    assert len(found) + len(said) == 1
    if said:
        raise DataError(said[0])
    assert found[0].rounds_done == 4
    assert isinstance(found[0].facts, dict)


TARGET = Target("checkpoint", _make, _read)
