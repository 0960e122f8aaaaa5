"""The client's side of a round: its reply to a request, given the state in its file.

===============================================  ==================================================================
the client's file holds                          what the client does
===============================================  ==================================================================
the request's round, already trained             replies from its file, without training again
anything, and the request carries all layers     starts from them with a new optimizer state, and trains
the round that the server expects, or a later    overwrites the layers that arrived, keeps its own values of the
one                                              others, and trains
nothing, an older round or another run           replies "stale": the server then sends the full model
===============================================  ==================================================================

The new state is on the disk before the reply is sent, so a round is never trained twice and never lost.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from fedlama.core import wire
from fedlama.core.averaging import squared_norm, wide_dtype
from fedlama.core.layers import Layer
from fedlama.engines.api import Values
from fedlama.engines.transfers import DOWNLOAD_CODEC
from fedlama.flower.client.state import ClientState, exclusive, load, save
from fedlama.flower.client.trainer import ClientTrainer, LocalRound
from fedlama.flower.payloads import decode_message, encode_layer
from fedlama.flower.protocol import NEVER, TrainReply, TrainRequest, fingerprint


def respond(request: TrainRequest, trainer: ClientTrainer, path: Path) -> TrainReply:
    """Do what a request asks for.

    Args:
        request: The request.
        trainer: The client's model and data.
        path: File of the client's state.

    Returns:
        The reply; the new state is already on the disk.
    """
    own_fingerprint = fingerprint(trainer.layers, trainer.codec)
    if request.fingerprint != own_fingerprint:
        return refusal(
            request,
            f"the model, the labelling or the codec differ from the server's (fingerprint {own_fingerprint}, expected "
            f"{request.fingerprint}); use the same experiment and the same files on both sides",
        )
    with exclusive(path):
        state = load(path)
        if state is not None and (state.run, state.fingerprint) != (request.run, own_fingerprint):
            state = None
        trained_round = state.round_index if state else NEVER
        if state is not None and trained_round == request.round_index:
            return _reply(request, trainer, state, replayed=True)
        if request.answered_round != NEVER and not request.answered_round <= trained_round < request.round_index:
            return TrainReply("stale", request.round_index, request.client, trained_round)
        state = _trained(request, trainer, state if request.answered_round != NEVER else None)
        save(state, path)
    return _reply(request, trainer, state, replayed=False)


def refusal(request: TrainRequest, reason: str) -> TrainReply:
    """Return the reply of a client that cannot do the work.

    Args:
        request: The request.
        reason: A sentence for the server's log.
    """
    return TrainReply("refused", request.round_index, request.client, NEVER, detail=reason)


def _trained(request: TrainRequest, trainer: ClientTrainer, state: ClientState | None) -> ClientState:
    """Apply the layers that arrived and take the local steps."""
    message = wire.unpack(request.payload)
    received: Values = {}
    for tensors in decode_message(message, tuple(message.payloads), trainer.layers, DOWNLOAD_CODEC).values():
        received |= tensors
    values, optimizer_state = (state.values, state.optimizer_state) if state else trainer.initial_state(received)
    values = values | received
    needs_reference = request.scalars or trainer.uses_reference
    reference = ((state.reference if state else {}) | received) if needs_reference else {}
    frozen = [trainer.layers[index] for index in request.frozen]
    frozen_values = {spec.name: values[spec.name].clone() for layer in frozen for spec in layer.tensors}
    names = frozenset(layer.name for layer in frozen)
    local_round = LocalRound(request.client, request.round_index, request.steps, request.steps_done, names)
    values, optimizer_state, loss = trainer.train(values, optimizer_state, reference, local_round)
    return ClientState(
        request.run,
        request.fingerprint,
        request.round_index,
        loss,
        values | frozen_values,
        optimizer_state,
        reference,
    )


def _reply(request: TrainRequest, trainer: ClientTrainer, state: ClientState, *, replayed: bool) -> TrainReply:
    upload = {index: trainer.layers[index] for index in request.upload}
    held = {index: trainer.layers[index] for index in request.evaluation}
    scalars = {i: _distance(layer, state, trainer) for i, layer in upload.items()} if request.scalars else {}

    def packed(layers: dict[int, Layer], scalars: dict[int, float]) -> bytes:
        payloads = {index: encode_layer(layer, state.values, trainer.codec) for index, layer in layers.items()}
        return wire.pack(
            wire.Message(request.round_index, request.client, payloads, scalars, trainer.samples, state.loss)
        )

    return TrainReply(
        "done",
        request.round_index,
        request.client,
        state.round_index,
        replayed,
        packed(upload, scalars),
        packed(held, {}) if held else b"",
    )


def _distance(layer: Layer, state: ClientState, trainer: ClientTrainer) -> float:
    """Return ||x_i - r||^2 over the layer's parameters: x_i as the server decodes it, r as it was received last."""
    total = 0.0
    for spec in layer.tensors:
        if spec.trainable:
            decoded: Tensor = trainer.codec.transmit(state.values[spec.name].unsqueeze(0))[0]
            wide = wide_dtype(spec.dtype)
            total += squared_norm(decoded.to(wide) - state.reference[spec.name].to(wide))
    return total
