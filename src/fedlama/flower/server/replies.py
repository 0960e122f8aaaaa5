"""Replies, checked: what is taken in from a client, and why something is not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from fedlama.choices.codecs import Codec
from fedlama.core import wire
from fedlama.core.layers import Layers
from fedlama.engines.api import Values
from fedlama.errors import DataError
from fedlama.flower.payloads import decode_message
from fedlama.flower.protocol import Answer, Order

_LARGEST = 1e18
"""Beyond it, squares in float32 overflow, and with them the discrepancy: no client may end a run that way."""


@dataclass(frozen=True)
class Receipt:
    """A client's accepted reply.

    Attributes:
        layers: Uploaded layers, those for evaluation included, by name.
        scalars: ||x_i - r||^2 by layer; empty when none were asked for.
        loss: Mean training loss.
        samples: Number of training samples n_i, as the client says.
        replayed: Whether the client had trained the round before and sent it again.
    """

    layers: dict[str, Values]
    scalars: dict[str, float]
    loss: float
    samples: int
    replayed: bool


def check(answer: Answer, order: Order, layers: Layers, codec: Codec) -> Receipt:
    """Take a reply in, or refuse it.

    Args:
        answer: The reply, with status ``"done"``.
        order: What was ordered.
        layers: The labelling.
        codec: How uploads are compressed.

    Returns:
        The reply's content.

    Raises:
        DataError: Wrong round, client, layers or shapes, or values that are not finite; the sentence says which.
    """
    message = wire.unpack(answer.payload)
    _addressed("", answer.round_index, answer.client, order)
    _addressed(" in the payload", message.round_index, message.client, order)
    values = decode_message(message, order.upload, layers, codec)
    if order.evaluation:
        held = wire.unpack(answer.evaluation)
        _addressed(" in the evaluation", held.round_index, held.client, order)
        values |= decode_message(held, order.evaluation, layers, codec)
    expected = set(order.upload) if order.scalars else set()
    if set(message.scalars) != expected or not all(0 <= value < math.inf for value in message.scalars.values()):
        raise DataError("the reply's discrepancy scalars are not those of the layers that were ordered")
    _refuse_infinite(values, message.loss)
    scalars = {layers[index].name: value for index, value in message.scalars.items()}
    return Receipt(values, scalars, message.loss, message.samples, answer.replayed)


def _addressed(where: str, round_index: int, client: int, order: Order) -> None:
    for what, found, wanted in (("round", round_index, order.round_index), ("client", client, order.client)):
        if found != wanted:
            raise DataError(f"the reply is for {what}{where} {found}, but {wanted} was ordered")


def _refuse_infinite(layers: Mapping[str, Values], loss: float) -> None:
    """Refuse what would make the average worthless, while nothing has been averaged yet."""
    for layer, values in layers.items():
        if not all(bool((value.abs() <= _LARGEST).all()) for value in values.values() if value.is_floating_point()):
            raise DataError(
                f"layer {layer!r} holds NaN, infinity or values beyond {_LARGEST:g}; lower the learning rate or look "
                "at that client"
            )
    if not math.isfinite(loss):
        raise DataError(f"the loss is {loss}; lower the learning rate or look at that client")
