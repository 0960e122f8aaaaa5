"""The client's side of a round: what it does with an order, given what it has on its disk.

===========================================  ======================================================================
what the client has                          what it does
===========================================  ======================================================================
the order's round, trained before            replays: trains nothing, answers from its file
anything, but the order brings all layers    begins anew from them with fresh buffers, trains
the round that the server expects, or later  overwrites the layers that came, keeps its own for the others, trains
nothing, something older or of another run   answers "stale": the server then sends the full model
===========================================  ======================================================================

The new state is on the disk before the answer leaves, so a round is never trained twice and never lost.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fedlama.choices.codecs import Float32
from fedlama.core import wire
from fedlama.core.layers import Layer
from fedlama.engines.api import Values
from fedlama.engines.loop import squared_norm
from fedlama.flower.client.state import Resident, exclusive, load, save
from fedlama.flower.client.trainer import Assignment, Local
from fedlama.flower.payloads import decode_message, encode_layer
from fedlama.flower.protocol import NEVER, Answer, Order, fingerprint

_DOWNLOAD = Float32()


def respond(order: Order, local: Local, path: Path) -> Answer:
    """Carry out an order.

    Args:
        order: The order.
        local: The client's model and data.
        path: File of the client's state.

    Returns:
        The answer; the state behind it is on the disk already.
    """
    ours = fingerprint(local.layers, local.codec)
    if order.fingerprint != ours:
        detail = f"model, labelling or codec differ: fingerprint {ours} here, {order.fingerprint} at the server"
        return Answer("mismatch", order.round_index, order.client, NEVER, detail=detail)
    with exclusive(path):
        resident = load(path)
        if resident is not None and (resident.run, resident.fingerprint) != (order.run, ours):
            resident = None
        have = resident.round_index if resident else NEVER
        if resident is not None and have == order.round_index:
            return _answer(order, local, resident, replayed=True)
        if order.expected != NEVER and not order.expected <= have < order.round_index:
            return Answer("stale", order.round_index, order.client, have)
        resident = _trained(order, local, resident if order.expected != NEVER else None)
        save(resident, path)
    return _answer(order, local, resident, replayed=False)


def _trained(order: Order, local: Local, resident: Resident | None) -> Resident:
    """Apply what came down and take the local steps."""
    message = wire.unpack(order.payload)
    received: Values = {}
    for values in decode_message(message, tuple(message.payloads), local.layers, _DOWNLOAD).values():
        received |= values
    values, optimizer_state = (resident.values, resident.optimizer_state) if resident else local.begin(received)
    values = values | received
    looks_back = order.scalars or local.uses_reference
    reference = ((resident.reference if resident else {}) | received) if looks_back else {}
    frozen = [local.layers[index] for index in order.frozen]
    still = {spec.name: values[spec.name].clone() for layer in frozen for spec in layer.tensors}
    names = frozenset(layer.name for layer in frozen)
    work = Assignment(order.client, order.round_index, order.steps, order.steps_done, names)
    values, optimizer_state, loss = local.train(values, optimizer_state, reference, work)
    return Resident(order.run, order.fingerprint, order.round_index, loss, values | still, optimizer_state, reference)


def _answer(order: Order, local: Local, resident: Resident, *, replayed: bool) -> Answer:
    upload = {index: local.layers[index] for index in order.upload}
    held = {index: local.layers[index] for index in order.evaluation}
    scalars = {index: _moved(layer, resident, local) for index, layer in upload.items()} if order.scalars else {}
    return Answer(
        "done",
        order.round_index,
        order.client,
        resident.round_index,
        replayed,
        _pack(order, local, resident, upload, scalars),
        _pack(order, local, resident, held, {}) if held else b"",
    )


def _pack(order: Order, local: Local, resident: Resident, layers: dict[int, Layer], scalars: dict[int, float]) -> bytes:
    payloads = {index: encode_layer(layer, resident.values, local.codec) for index, layer in layers.items()}
    return wire.pack(wire.Message(order.round_index, order.client, payloads, scalars, local.samples, resident.loss))


def _moved(layer: Layer, resident: Resident, local: Local) -> float:
    """Return ||x_i - r||^2 over the layer's parameters: x_i as it arrives, r as it was last received."""
    total = 0.0
    for spec in layer.tensors:
        if spec.trainable:
            arrives: Tensor = local.codec.transmit(resident.values[spec.name].unsqueeze(0))[0]
            total += squared_norm(arrives.to(torch.float64) - resident.reference[spec.name].to(torch.float64))
    return total
