"""A client's masked upload: its weighted changes in fixed point, of which the server learns the sum alone."""

from __future__ import annotations

from pathlib import Path

from fedlama.core import wire
from fedlama.flower.client.secrets import masked_upload
from fedlama.flower.client.state import ClientState
from fedlama.flower.client.trainer import ClientTrainer
from fedlama.flower.protocol import TrainReply, TrainRequest
from fedlama.flower.secure.agreement import LOSS, enveloped
from fedlama.flower.secure.fixed_point import NO_WORDS, FixedPoint, scalar_of, squared_change, weighted_change


def masked_reply(
    request: TrainRequest, trainer: ClientTrainer, state: ClientState, path: Path, *, replayed: bool
) -> TrainReply:
    """Return the reply to a request under secure aggregation.

    Args:
        request: The request.
        trainer: The client's model and data.
        state: The client's state after the round's training.
        path: File of the state.
        replayed: Whether the round had been trained before.

    Raises:
        DataError: A value does not fit, or the client has no keys for this round.
    """
    numbers = {LOSS: FixedPoint(NO_WORDS, scalar_of(state.loss, "the loss"))}
    for index in request.upload:
        layer = trainer.layers[index]
        square = squared_change(layer, state.values, state.reference)
        numbers[index] = weighted_change(layer, state.values, state.reference, request.weight, square)
    for index in request.evaluation:
        numbers[index] = weighted_change(trainer.layers[index], state.values, state.reference, request.weight)
    masked = masked_upload(path, request, numbers)
    address = request.round_index, request.client

    def packed(indices: tuple[int, ...]) -> bytes:
        payloads = {index: masked[index] for index in indices}
        return wire.pack(wire.Message(*address, payloads, samples=trainer.samples))

    return TrainReply(
        "done",
        *address,
        state.round_index,
        replayed,
        packed(request.upload),
        packed(request.evaluation) if request.evaluation else b"",
        masked_loss=enveloped(*address, masked[LOSS]),
    )
