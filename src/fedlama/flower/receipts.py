"""Replies, checked: what is taken in from a client, and why something is not."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fedlama import wire
from fedlama.codecs import Codec
from fedlama.engines.base import Values
from fedlama.errors import DataError
from fedlama.flower.payloads import decode_message
from fedlama.flower.protocol import Answer, Order
from fedlama.layers import Layers


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
        DataError: Wrong round, client, layers or shapes; the sentence says which.
    """
    message = wire.unpack(answer.payload)
    for what, found, wanted in (
        ("round", answer.round_index, order.round_index),
        ("client", answer.client, order.client),
        ("round in the payload", message.round_index, order.round_index),
        ("client in the payload", message.client, order.client),
    ):
        if found != wanted:
            raise DataError(f"the reply is for {what} {found}, but {wanted} was ordered")
    values = decode_message(message, order.upload, layers, codec)
    if order.evaluation:
        values |= decode_message(wire.unpack(answer.evaluation), order.evaluation, layers, codec)
    expected = set(order.upload) if order.scalars else set()
    if set(message.scalars) != expected or not all(v >= 0 or math.isnan(v) for v in message.scalars.values()):
        raise DataError("the reply's discrepancy scalars are not those of the layers that were ordered")
    scalars = {layers[index].name: value for index, value in message.scalars.items()}
    return Receipt(values, scalars, message.loss, message.samples, answer.replayed)
