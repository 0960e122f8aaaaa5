"""What a client uploads: two packed messages, taken in by the server or refused; then it is averaged."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import torch

from fedlama.choices.codecs import Float32
from fedlama.core import wire
from fedlama.core.layers import Layers, by_tensor
from fedlama.errors import DataError
from fedlama.flower.payloads import encode_layer
from fedlama.flower.protocol import TrainReply, TrainRequest
from fedlama.flower.server.aggregation import from_models, from_sums, summed
from fedlama.flower.server.replies import check
from tests.fuzz.damage import damage_bytes
from tests.fuzz.harness import Target
from tests.fuzz.targets.federations import small

ROUND, CLIENT = 5, 1
_FLOATS = (math.nan, math.inf, -math.inf, 3e38, -3e38, 1e30, 0.0, 1e-45)


@dataclass(frozen=True)
class Setting:
    """A server in the middle of a round, and the reply that it waits for."""

    layers: Layers
    values: dict[str, torch.Tensor]
    request: TrainRequest
    reply: TrainReply


@cache
def setting() -> Setting:
    """Return it; layers 0 and 2 are due, layer 1 comes up for an evaluation."""
    model = small().model
    layers, values = by_tensor(model), {name: value.clone() for name, value in model.state_dict().items()}
    request = TrainRequest("run", "print", ROUND, CLIENT, 4, 1, 5, (0, 2), (1,), (), True, b"")
    message = wire.Message(ROUND, CLIENT, payloads(layers, values, request.upload), {0: 0.5, 2: 0.25}, 6, 0.75)
    held = wire.Message(ROUND, CLIENT, payloads(layers, values, request.evaluation), {}, 6, 0.75)
    reply = TrainReply("done", ROUND, CLIENT, ROUND, False, wire.pack(message), wire.pack(held))
    return Setting(layers, values, request, reply)


def payloads(layers: Layers, values: dict[str, torch.Tensor], indices: tuple[int, ...]) -> dict[int, bytes]:
    """Encode layers."""
    return {index: encode_layer(layers[index], values, Float32()) for index in indices}


def _make(draw: Random) -> bytes:
    """Draw the length of the first message, then both."""
    reply = setting().reply
    upload, held = reply.payload, reply.evaluation
    if draw.random() < 0.3:
        held = damage_bytes(draw, held)
    elif draw.random() < 0.5:
        upload = damage_bytes(draw, upload)
    else:
        upload = _other(draw, wire.unpack(upload))
    return struct.pack("<I", len(upload)) + upload + held


def _other(draw: Random, message: wire.Message) -> bytes:
    """Pack a message that is well formed and wrong."""
    contents, scalars = dict(message.payloads), dict(message.scalars)
    index = draw.choice(list(contents))
    at = draw.randrange(len(contents[index]) // 4) * 4
    match draw.randrange(8):
        case 0:
            del contents[index]
        case 1:
            contents[draw.choice((1, 3, 99, 2**32 - 1))], scalars[99] = contents[index], 1.0
            scalars |= dict.fromkeys(contents, 1.0)
        case 2:
            contents[index] = contents[index][: draw.randrange(len(contents[index]))]
        case 3:
            scalars[index] = draw.choice((*_FLOATS, -1.0))
        case 4:
            message = replace(message, loss=draw.choice(_FLOATS), samples=draw.choice((0, 1, 2**63, 2**64 - 1)))
        case 5:
            message = replace(message, round_index=draw.choice((0, ROUND - 1, ROUND + 1, 2**32 - 1)))
        case 6:
            message = replace(message, client=draw.choice((0, 2, 2**32 - 1)))
        case _:
            number = struct.pack("<f", draw.choice(_FLOATS))
            contents[index] = contents[index][:at] + number + contents[index][at + 4 :]
    return wire.pack(replace(message, payloads=contents, scalars=scalars if draw.random() < 0.9 else {}))


def _read(data: bytes) -> None:
    given = setting()
    before = {name: value.clone() for name, value in given.values.items()}
    length = int.from_bytes(data[:4], "little")
    reply = replace(given.reply, payload=data[4 : 4 + length], evaluation=data[4 + length :])
    try:
        update = check(reply, given.request, given.layers, Float32())
        for index in (*given.request.upload, *given.request.evaluation):
            layer = given.layers[index]
            received = [update.layers[layer.name], given.values]
            assert all(torch.isfinite(received[0][spec.name]).all() for spec in layer.tensors), "NaN was taken in"
            from_models(layer, received, [0.5, 0.5])
            if index in given.request.upload:
                squares = [update.scalars[layer.name], 0.0]
                sums = summed(layer, received, [0.5, 0.5], squares, given.values)
                from_sums(layer, sums, [0.5, 0.5], given.values)
        assert math.isfinite(update.loss)
    finally:
        assert all(torch.equal(given.values[name], value) for name, value in before.items()), "the model was touched"


def refusal(data: bytes) -> str:
    """Return why an input is refused."""
    try:
        _read(data)
    except DataError as error:
        return str(error)
    return ""


TARGET = Target("upload", _make, _read)
