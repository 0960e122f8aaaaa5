"""The check of a client's reply: what the server accepts from it, what it was sent, and why a reply is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlama.choices.codecs import Codec, CodecState, codec_of
from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.core.ledger import DISTANCES, Direction, LayerPayload, Transfer
from fedlama.core.scores import Score
from fedlama.engines.api import Values
from fedlama.errors import DataError
from fedlama.flower.choice import asked_layers, read_report, reported_layers
from fedlama.flower.payloads import Known, decode_message, layer_payloads, received_states
from fedlama.flower.protocol import TrainReply, TrainRequest
from fedlama.flower.secure.agreement import LOSS, content_of
from fedlama.flower.secure.fixed_point import SCALAR_BYTES, payload_length

_LARGEST = 1e18
"""The square of a larger value overflows float32, and the discrepancy with it: no client may end a run that way."""


@dataclass(frozen=True)
class Held:
    """What the server holds when a round's replies arrive.

    Attributes:
        values: The global values that the clients began with, by tensor name. Codecs that send differences count from
            them, and statistics may keep an infinity of these, such as the -inf of a mask, as in a simulation.
        states: What it keeps of earlier uploads, by client and tensor, where the codec lets both sides keep a state.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    states: Mapping[int, Mapping[str, CodecState]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClientUpdate:
    """The content of an accepted reply.

    Attributes:
        layers: Layer to its tensors, the layers for evaluation included.
        scalars: Layer to ||x_i - r||^2; empty when none were requested.
        upload: Uploaded layers and their bytes, as they arrived.
        evaluation: The same of the layers that were uploaded for an evaluation only.
        loss: Mean training loss.
        samples: Number of training samples n_i that the client claims.
        replayed: Whether the client had trained the round before and sent its result again.
        score: The score of its own model on its own test set; None where it has none, or the request asked for none.
        masked: Under secure aggregation, index of the layer to its masked numbers; then there are no `layers`.
        states: What the server keeps of this upload for the client's next one, by tensor; empty for most codecs.
        distances: Layer to how far it moved, where that was asked for in place of layers.
    """

    layers: dict[str, Values]
    scalars: dict[str, float]
    upload: tuple[LayerPayload, ...]
    evaluation: tuple[LayerPayload, ...]
    loss: float
    samples: int
    replayed: bool
    score: Score | None = None
    masked: Mapping[int, bytes] = field(default_factory=dict)
    states: Mapping[str, CodecState] = field(default_factory=dict)
    distances: Mapping[str, float] = field(default_factory=dict)


def check(
    reply: TrainReply, request: TrainRequest, layers: Layers, codec: Codec, held: Held | None = None
) -> ClientUpdate:
    """Check a reply against its request.

    Args:
        reply: The reply, with status ``"done"``.
        request: The request.
        layers: The labelling.
        codec: How uploads are compressed.
        held: What the server holds; by default nothing.

    Returns:
        The reply's content.

    Raises:
        DataError: The round, the client, the layers or their shapes are not those of the request, or a value is not
            finite.
    """
    message, held = wire.unpack(reply.payload), held or Held()
    _check_address("the reply", reply.round_index, reply.client, request)
    _check_address("the reply's payload", message.round_index, message.client, request)
    states = held.states.get(request.client, {})
    known = Known(request.seed, "up", request.round_index, request.client, held.values, states)
    due, distances = asked_layers(request, layers), dict[str, float]()
    upload: tuple[LayerPayload, ...]
    if request.stage == "distances":
        distances, values = read_report(message, request, layers), dict[str, Values]()
        upload = (LayerPayload(DISTANCES, 0, len(message.payloads[len(layers)])),)
    else:
        values, upload = decode_message(message, due, layers, codec, known), layer_payloads(message, layers)
    evaluation: tuple[LayerPayload, ...] = ()
    if request.evaluation:
        apart = wire.unpack(reply.evaluation)
        _check_address("the reply's evaluation", apart.round_index, apart.client, request)
        values |= decode_message(apart, request.evaluation, layers, codec, known)
        evaluation = layer_payloads(apart, layers)
    expected = set(due) if request.scalars else set()
    if set(message.scalars) != expected or not all(0 <= value < math.inf for value in message.scalars.values()):
        raise DataError(
            "the reply's discrepancy scalars are not one finite number of 0 or more per requested layer; install the "
            "same version of fedlama on both sides"
        )
    _check_finite(values, layers, held.values, getattr(codec, "leaves_out", False))
    if not math.isfinite(message.loss):
        raise DataError(
            f"the loss is {message.loss}, expected a finite number; lower the learning rate or check that client's data"
        )
    scalars = {layers[index].name: value for index, value in message.scalars.items()}
    score = reply.score if request.score else None
    new: dict[str, CodecState] = {}
    for index in due:
        new |= received_states(layers[index], message.payloads[index], codec, known)
    facts = message.loss, message.samples, reply.replayed, score
    return ClientUpdate(values, scalars, upload, evaluation, *facts, states=new, distances=distances)


def check_masked(reply: TrainReply, request: TrainRequest, layers: Layers) -> ClientUpdate:
    """Check a reply under secure aggregation; of masked numbers only the lengths can be checked.

    Args:
        reply: The reply, with status ``"done"``.
        request: The request.
        layers: The labelling.

    Returns:
        The reply's content.

    Raises:
        DataError: The round, the client, the layers or their lengths are not those of the request.
    """
    _check_address("the reply", reply.round_index, reply.client, request)
    message = wire.unpack(reply.payload)
    held = wire.unpack(reply.evaluation) if request.evaluation else None
    messages = [(message, request.upload), *([] if held is None else [(held, request.evaluation)])]
    masked = {LOSS: content_of(reply.masked_loss)}
    for part, indices in messages:
        _check_address("the reply's payload", part.round_index, part.client, request)
        if set(part.payloads) != set(indices) or part.scalars:
            raise DataError("the reply holds other layers than the request asks for, or scalars that are not masked")
        masked |= part.payloads
    for index, data in masked.items():
        expected = SCALAR_BYTES if index == LOSS else payload_length(layers[index])
        if len(data) != expected:
            raise DataError(
                f"layer {index} of the masked upload has {len(data)} bytes, expected {expected}; install the same "
                "version of fedlama on both sides"
            )
    upload, evaluation = layer_payloads(message, layers), () if held is None else layer_payloads(held, layers)
    return ClientUpdate({}, {}, upload, evaluation, 0.0, message.samples, reply.replayed, masked=masked)


def reply_bytes(request: TrainRequest, layers: Layers, codec: Codec) -> int:
    """Return the bytes of the payloads of a reply that does what a request asks for; the most, where codecs vary.

    Args:
        request: The request.
        layers: The labelling.
        codec: How uploads are compressed.
    """
    masked = bool(request.agreement)

    def most(index: int) -> int:
        layer = layers[index]
        coded = sum(codec_of(spec, codec).payload_bytes(spec) for spec in layer.tensors)
        return payload_length(layer) if masked else coded

    if request.stage == "distances":
        upload = [wire.SCALAR_BYTES * len(reported_layers(request, layers))]
    else:
        upload = [most(index) for index in asked_layers(request, layers)]
    evaluation = [most(index) for index in request.evaluation]
    total = wire.message_bytes(upload, scalars=request.scalars and not masked and request.stage != "distances")
    total += wire.message_bytes(evaluation, scalars=False) if evaluation else 0
    return total + (wire.message_bytes([SCALAR_BYTES], scalars=False) if masked else 0)


def uploads(round_index: int, updates: Mapping[int, ClientUpdate], *, scalars: bool) -> list[Transfer]:
    """Return the transfers from the clients: one for each direction and list of layers and sizes.

    Args:
        round_index: The round, from 0.
        updates: Client to the content of its accepted reply, in the cohort's order.
        scalars: Whether the uploads carried a discrepancy scalar with each layer.
    """
    groups: dict[tuple[Direction, tuple[LayerPayload, ...]], list[int]] = {}
    for client, update in updates.items():
        groups.setdefault(("up", update.upload), []).append(client)
    for client, update in updates.items():
        if update.evaluation:
            groups.setdefault(("evaluation", update.evaluation), []).append(client)
    return [
        Transfer(round_index, direction, tuple(clients), payloads, scalars and direction == "up")
        for (direction, payloads), clients in groups.items()
    ]


def _check_address(part: str, round_index: int, client: int, request: TrainRequest) -> None:
    if round_index != request.round_index:
        raise DataError(f"{part} is for round {round_index}, expected round {request.round_index}")
    if client != request.client:
        raise DataError(f"{part} is for client {client}, expected client {request.client}")


def _check_finite(
    received: Mapping[str, Values], layers: Layers, current: Mapping[str, Tensor], leaves_out: bool
) -> None:
    """Refuse values that would make the average useless, before anything has been averaged.

    Args:
        received: The layers' tensors, by layer.
        layers: The labelling.
        current: The global values that the client began with, by tensor name.
        leaves_out: Whether parameters are NaN where the client did not send them.
    """
    trainable = {spec.name: spec.trainable for layer in layers for spec in layer.tensors}
    for layer, values in received.items():
        for name, value in values.items():
            if not (value.is_floating_point() or value.is_complex()):
                continue
            usable = value.abs() <= _LARGEST
            if leaves_out and trainable[name]:
                usable |= torch.isnan(value)
            if name in current and not trainable[name] and not usable.all():
                usable |= value == current[name].to(value.device)
            if not usable.all():
                raise DataError(
                    f"layer {layer!r} holds NaN, infinity or values beyond {_LARGEST:g}; lower the learning rate or "
                    "check that client's data"
                )
