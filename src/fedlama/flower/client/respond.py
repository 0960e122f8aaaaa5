"""The client's side of a round: its reply to a request, given the state in its file.

===============================================  ==================================================================
the client's file holds                          what the client does
===============================================  ==================================================================
the request's round, already trained             replies from its file, without training again
anything, and the request carries all layers     starts from them with a new optimizer state, or with its own where
                                                 the solver's `state_scope` is "client", and with its own values of
                                                 local layers, and trains
the round that the server expects, or a later    overwrites the layers that arrived, keeps its own values of the
one                                              others, and trains
nothing, an older round or another run           replies "stale": the server then sends the full model
another round, where the request asks only for   replies "stale" and is left out of the round's averages
layers that the server chose
a round of this run from before it was taken     the same, until the request carries all layers
back to an earlier round
===============================================  ==================================================================

The new state is on the disk before the reply is sent, so a round is never trained twice and never lost.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from fedlama.choices.codecs import SERVER, Float32, download_codec, full_codec, shares_state
from fedlama.core import wire
from fedlama.core.averaging import distance
from fedlama.core.layers import Layer
from fedlama.core.scores import Score
from fedlama.core.state_dicts import join, split
from fedlama.engines.api import Values
from fedlama.engines.cohort.sizes import intra_op_threads
from fedlama.errors import DataError
from fedlama.flower.choice import asked_layers, reported_layers, write_report
from fedlama.flower.client.state import ClientState, exclusive, load, save, write_tensors
from fedlama.flower.client.trainer import ClientTrainer, LocalRound
from fedlama.flower.payloads import Known, decode_layer, decode_message, write_layer
from fedlama.flower.protocol import (
    NEVER,
    EvaluateReply,
    EvaluateRequest,
    TrainReply,
    TrainRequest,
    fingerprint,
    is_same_run,
    model_digest,
)
from fedlama.flower.secure.fixed_point import squared_change

_LOG = logging.getLogger("fedlama.flower")


def respond(request: TrainRequest, trainer: ClientTrainer, path: Path) -> TrainReply:
    """Do what a request asks for.

    Args:
        request: The request.
        trainer: The client's model and data.
        path: File of the client's state.

    Returns:
        The reply; the new state is already on the disk.
    """
    own_fingerprint = fingerprint(trainer.layers, trainer.codec, trainer.privacy, trainer.personal)
    if request.fingerprint != own_fingerprint:
        return refusal(request, _other_model(own_fingerprint, request.fingerprint))
    with intra_op_threads(trainer.threads), exclusive(path):
        state = load(path)
        if state is not None and not (is_same_run(state.run, request.run) and state.fingerprint == own_fingerprint):
            state = None
        trained_round = state.round_index if state and state.run == request.run else NEVER
        if state is not None and trained_round == request.round_index:  # NEVER after the run was taken back
            return _reply(request, trainer, state, path, replayed=True)[0]
        if request.stage == "chosen":  # of a round that this client has not trained, or has lost
            return TrainReply("stale", request.round_index, request.client, trained_round)
        if request.answered_round != NEVER and not request.answered_round <= trained_round < request.round_index:
            return TrainReply("stale", request.round_index, request.client, trained_round)
        state = _trained(request, trainer, state)
        reply, codec_next = _reply(request, trainer, state, path, replayed=False)
        save(replace(state, codec_next=codec_next), path)
    return reply


def evaluate(request: EvaluateRequest, trainer: ClientTrainer, folder: Path) -> EvaluateReply:
    """Score the global model on the client's own test set, or keep it where it is the run's final one.

    Args:
        request: The request.
        trainer: The client's model and data.
        folder: For the final model, ``final-CLIENT.safetensors``.
    """
    own_fingerprint = fingerprint(trainer.layers, trainer.codec, trainer.privacy, trainer.personal)
    if request.fingerprint != own_fingerprint:
        reason = _other_model(own_fingerprint, request.fingerprint)
        return EvaluateReply(request.round_index, request.client, detail=reason)
    with intra_op_threads(trainer.threads):
        # What a solver exchanges beside the model comes after the model's layers, and a score does not need it.
        indices = [index for index, layer in enumerate(trainer.layers) if not any(t.extra for t in layer.tensors)]
        layers = decode_message(wire.unpack(request.payload), indices, trainer.layers, Float32())
        model = {name: value for values in layers.values() for name, value in values.items()}
        if request.digest:
            return _keep_final(request, model, folder)
        score = trainer.score(model)
    missing = "" if score else "this client has no test set of its own"
    return EvaluateReply(request.round_index, request.client, score, missing)


def _keep_final(request: EvaluateRequest, model: Values, folder: Path) -> EvaluateReply:
    """Keep a run's final model, if it is the one that the server names."""
    digest = model_digest(model)
    if digest != request.digest:
        return EvaluateReply(request.round_index, request.client, detail="the final model arrived with another digest")
    path = folder / f"final-{request.client}.safetensors"
    write_tensors(model, {"digest": digest, "rounds": str(request.round_index + 1)}, path)
    _LOG.info("the final model is in %s; its digest is %s", path, digest)
    return EvaluateReply(request.round_index, request.client, digest=digest)


def _other_model(here: str, expected: str) -> str:
    return (
        f"the model, the labelling or the codec differ from the server's, or privacy or personal (fingerprint {here}, "
        f"expected {expected}); use the same experiment and the same files on both sides"
    )


def refusal(request: TrainRequest, reason: str) -> TrainReply:
    """Return the reply of a client that cannot do the work.

    Args:
        request: The request.
        reason: A sentence for the server's log.
    """
    return TrainReply("refused", request.round_index, request.client, NEVER, detail=reason)


def _trained(request: TrainRequest, trainer: ClientTrainer, state: ClientState | None) -> ClientState:
    """Apply the layers that arrived and take the local steps."""
    kept = state.optimizer_state if state and trainer.keeps_optimizer_state else None
    personal = {name: value for name, value in state.values.items() if name in trainer.local_names} if state else {}
    state = state if request.answered_round != NEVER else None  # with the full model, the client starts again
    received = _received(request, trainer, state)
    values, optimizer_state = (state.values, state.optimizer_state) if state else trainer.initial_state(received)
    optimizer_state = optimizer_state if kept is None else kept
    common = {name: value for name, value in received.items() if name not in trainer.local_names}
    values = values | common | personal
    codec, down = trainer.codec, download_codec(trainer.codec)
    measures = request.scalars or request.stage == "distances"
    needs_reference = measures or trainer.uses_reference or codec.uses_reference or down.uses_reference
    reference = ((state.reference if state else {}) | received) if needs_reference else {}
    frozen = [trainer.layers[index] for index in request.frozen]
    # A head is the client's own: its blend stays where the global one is frozen.
    fixed = [spec.name for layer in frozen for spec in layer.tensors if spec.name not in trainer.local_names]
    frozen_values = {name: values[name].clone() for name in fixed}
    names = frozenset(layer.name for layer in frozen)
    arrived = frozenset(layer.name for layer in trainer.layers if any(spec.name in received for spec in layer.tensors))
    local_round = LocalRound(
        request.client, request.round_index, request.steps, request.steps_done, names, arrived, request.score
    )
    values, optimizer_state, loss = trainer.train(values, optimizer_state, reference, local_round)
    return ClientState(
        request.run,
        request.fingerprint,
        request.round_index,
        loss,
        values | frozen_values,
        optimizer_state,
        reference,
        codec_state=state.codec_state_after(request.answered_round) if state else _first_codec_state(trainer),
        score=trainer.own_score,
    )


def _received(request: TrainRequest, trainer: ClientTrainer, state: ClientState | None) -> Values:
    """Return the tensors that arrived."""
    message, codec, known = wire.unpack(request.payload), full_codec(trainer.codec), Known()
    if request.coded and state is not None:
        codec = download_codec(trainer.codec)
        known = Known(request.seed, "down", request.round_index - 1, SERVER, state.reference)
    received: Values = {}
    for tensors in decode_message(message, tuple(message.payloads), trainer.layers, codec, known).values():
        received |= tensors
    return received


def _first_codec_state(trainer: ClientTrainer) -> Values:
    specs = [spec for layer in trainer.layers for spec in layer.tensors if spec.trainable]
    return join({spec.name: trainer.codec.init(spec) for spec in specs})


def _reply(
    request: TrainRequest, trainer: ClientTrainer, state: ClientState, path: Path, *, replayed: bool
) -> tuple[TrainReply, Values]:
    """Return the reply, and the codec's states that count once the server has it."""
    if request.agreement:
        from fedlama.flower.client.masked import masked_reply  # only where it is used: it needs more libraries

        try:
            return masked_reply(request, trainer, state, path, replayed=replayed), state.codec_state
        except DataError as error:
            return refusal(request, str(error)), state.codec_state
    upload = {index: trainer.layers[index] for index in asked_layers(request, trainer.layers)}
    held = {index: trainer.layers[index] for index in request.evaluation}
    states = split(state.codec_state, at_last=True)
    known = Known(request.seed, "up", request.round_index, request.client, state.reference, states)

    def packed(layers: dict[int, Layer], *, scalars: bool, report: bytes = b"") -> tuple[bytes, Values]:
        payloads: dict[int, bytes] = {}
        distances: dict[int, float] = {}
        new: Values = {}
        for index, layer in layers.items():
            payloads[index], states = write_layer(layer, state.values, trainer.codec, known)
            new |= join(states)
            if scalars:
                distances[index] = _distance(layer, payloads[index], trainer, known)
        if report:
            payloads[len(trainer.layers)] = report
        address = request.round_index, request.client
        return wire.pack(wire.Message(*address, payloads, distances, trainer.samples, state.loss)), new

    report = _report(request, trainer, state) if request.stage == "distances" else b""
    payload, new_states = packed(upload, scalars=request.scalars, report=report)
    reply = TrainReply(
        "done",
        request.round_index,
        request.client,
        state.round_index,
        replayed,
        payload,
        packed(held, scalars=False)[0] if held else b"",
        score=_score(trainer, state) if request.score and trainer.has_test_set else None,
    )
    return reply, state.codec_state | new_states


def _report(request: TrainRequest, trainer: ClientTrainer, state: ClientState) -> bytes:
    """Return how far each layer moved from the values that were received last."""
    layers = reported_layers(request, trainer.layers)
    return write_report([distance(layer, state.values, state.reference) for layer in layers])


def _score(trainer: ClientTrainer, state: ClientState) -> Score | None:
    """Return the score of the client's own model: a personal one is scored before its local steps."""
    return trainer.score(state.values) if trainer.personal is None else state.score


def _distance(layer: Layer, payload: bytes, trainer: ClientTrainer, known: Known) -> float:
    """Return ||x_i - r||^2 over the layer's parameters: x_i as the server decodes it, r as it was received last.

    Numbers that are not sent count as unchanged.
    """
    server = known if shares_state(trainer.codec) else replace(known, state={})
    received = decode_layer(layer, payload, trainer.codec, server)
    if getattr(trainer.codec, "leaves_out", False):
        names = [spec.name for spec in layer.tensors if spec.trainable]
        received |= {name: received[name].where(~received[name].isnan(), known.reference[name]) for name in names}
    return squared_change(layer, received, known.reference)
