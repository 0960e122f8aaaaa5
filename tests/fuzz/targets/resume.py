"""A whole checkpoint with something else in it: a run takes it up and goes on, or refuses it and is as before."""

from __future__ import annotations

import json
from functools import cache
from random import Random

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from fedlama import RoundRecord, Run
from fedlama.errors import DataError
from fedlama.runs.checkpoint import Snapshot
from tests.fuzz.damage import damage_value
from tests.fuzz.harness import Target
from tests.fuzz.targets.federations import small


@cache
def _valid() -> tuple[Snapshot, list[RoundRecord]]:
    run = Run(small())
    records = [run.advance() for _ in range(3)]
    return run.state_dict(), records


def _make(draw: Random) -> bytes:
    """Draw facts as a line of JSON, then tensors as safetensors."""
    snapshot = _valid()[0]
    facts, tensors = dict(snapshot.facts), dict(snapshot.tensors)
    if draw.random() < 0.6:
        facts = damage_value(draw, facts)
    else:
        _damage_tensors(draw, tensors)
    return json.dumps(facts).encode() + b"\n" + save({name: value.clone() for name, value in tensors.items()})


def _damage_tensors(draw: Random, tensors: dict[str, torch.Tensor]) -> None:
    name, other = draw.choice(list(tensors)), draw.choice(list(tensors))
    match draw.randrange(7):
        case 0:
            del tensors[name]
        case 1:
            tensors[name] = tensors[other]
        case 2:
            tensors[name] = tensors[name].to(draw.choice((torch.float64, torch.int8, torch.bool, torch.float16)))
        case 3:
            tensors[name] = tensors[name].reshape(-1)[: draw.randrange(3)].clone()
        case 4:
            tensors[f"{draw.choice(('global', 'client', 'server', 'memory/x', 'update', 'x'))}/{other}"] = tensors[name]
        case 5:
            tensors[name] = tensors[name].unsqueeze(0)
        case _:
            tensors[name] = torch.full_like(tensors[name], draw.choice((0, 1, 3)))


def _read(data: bytes) -> None:
    line, _, rest = data.partition(b"\n")
    try:
        facts, tensors = json.loads(line), load(rest)
    except (ValueError, RecursionError, SafetensorError) as error:
        raise DataError("no whole checkpoint, see the target for these") from error
    if not isinstance(facts, dict):
        raise DataError("no whole checkpoint, see the target for these")
    run = Run(small())
    before = {name: value.clone() for name, value in run.values.items()}
    try:
        run.load_state_dict(Snapshot(3, tensors, facts), _valid()[1])
    except DataError:
        assert run.round_index == 0
        assert all(torch.equal(run.values[name], value) for name, value in before.items()), (
            "half a checkpoint was taken"
        )
        raise
    run.advance()


TARGET = Target("resume", _make, _read)
