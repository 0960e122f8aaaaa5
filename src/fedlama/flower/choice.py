"""How far each layer moved, and the server's choice by it: what two exchanges of a round carry beside layers.

Each is the only content of a message, under an index that no layer has: the number of layers.

=========  ===========================================================================================================
direction  content
=========  ===========================================================================================================
up         ||x_i - u|| in float64 of every layer that is due and has parameters, in the model's order
down       a bit for every layer that is due, the first in the lowest bit of the first byte: whether to upload it
=========  ===========================================================================================================
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Sequence

from fedlama.core import wire
from fedlama.core.layers import Layer, Layers
from fedlama.core.wire import SCALAR_BYTES
from fedlama.errors import DataError
from fedlama.flower.protocol import TrainRequest


def reported_layers(request: TrainRequest, layers: Layers) -> list[Layer]:
    """Return the layers of which a client reports how far they moved: those that are due and have parameters.

    Args:
        request: The request.
        layers: The labelling.
    """
    due = (layers[index] for index in request.upload)
    return [layer for layer in due if any(spec.trainable for spec in layer.tensors)]


def write_report(distances: Sequence[float]) -> bytes:
    """Write a report.

    >>> len(write_report([0.5, 2.0]))
    16
    """
    return struct.pack(f"<{len(distances)}d", *distances)


def read_report(message: wire.Message, request: TrainRequest, layers: Layers) -> dict[str, float]:
    """Read a report, by layer.

    Args:
        message: The message.
        request: What it answers.
        layers: The labelling.

    Raises:
        DataError: It is not one finite number of 0 or more for each layer.
    """
    reported = reported_layers(request, layers)
    data = message.payloads.get(len(layers), b"")
    sound = message.payloads.keys() == {len(layers)} and len(data) == SCALAR_BYTES * len(reported)
    distances = struct.unpack(f"<{len(reported)}d", data) if sound else ()
    if not sound or not all(0 <= number < math.inf for number in distances):
        raise DataError(
            f"the reply's distances are not one finite number of 0 or more for each of {len(reported)} layers; install "
            "the same version of fedlama on both sides"
        )
    return {layer.name: number for layer, number in zip(reported, distances, strict=True)}


def write_choice(due: Sequence[int], chosen: Collection[int]) -> bytes:
    """Write which of the layers that are due a client uploads.

    Args:
        due: Indices of the layers that are due.
        chosen: Indices of those to upload.

    >>> write_choice([0, 2, 3, 5, 6, 7, 8, 9, 10], {2, 10}).hex()
    '0201'
    """
    bits = sum(1 << position for position, index in enumerate(due) if index in chosen)
    return bits.to_bytes(-(-len(due) // 8), "little")


def asked_layers(request: TrainRequest, layers: Layers) -> tuple[int, ...]:
    """Return the indices of the layers whose values the reply holds.

    Args:
        request: The request.
        layers: The labelling.

    Raises:
        DataError: Its payload is not a choice.
    """
    if request.stage == "distances":
        return ()
    if request.stage == "whole":
        return request.upload
    data = wire.unpack(request.payload).payloads.get(len(layers), b"")
    bits = int.from_bytes(data, "little")
    if len(data) != -(-len(request.upload) // 8) or bits >> len(request.upload):
        raise DataError(
            f"the request's choice is not one bit for each of {len(request.upload)} layers; install the same version "
            "of fedlama on both sides"
        )
    return tuple(index for position, index in enumerate(request.upload) if bits >> position & 1)
