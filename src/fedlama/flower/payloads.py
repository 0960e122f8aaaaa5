"""Layers to bytes and back: the tensors of a layer are packed one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedlama.choices.codecs import Codec, codec_of
from fedlama.core import wire
from fedlama.core.layers import Layer, Layers
from fedlama.core.ledger import LayerPayload
from fedlama.engines.api import Values
from fedlama.errors import DataError


def encode_layer(layer: Layer, values: Mapping[str, Tensor], codec: Codec) -> bytes:
    """Write a layer's tensors one after another.

    Args:
        layer: The layer.
        values: Tensors by name.
        codec: How parameters are written; see :func:`fedlama.choices.codecs.codec_of`.
    """
    return b"".join(codec_of(spec, codec).encode(values[spec.name]) for spec in layer.tensors)


def decode_layer(layer: Layer, data: bytes, codec: Codec) -> Values:
    """Read what :func:`encode_layer` wrote.

    Raises:
        DataError: The bytes are not as many as the layer takes.
    """
    sizes = [codec_of(spec, codec).payload_bytes(spec) for spec in layer.tensors]
    if len(data) != sum(sizes):
        raise DataError(
            f"the payload of layer {layer.name!r} has {len(data)} bytes, expected {sum(sizes)}; use the same model and "
            "codec on both sides"
        )
    values, offset = {}, 0
    for spec, size in zip(layer.tensors, sizes, strict=True):
        values[spec.name] = codec_of(spec, codec).decode(data[offset : offset + size], spec)
        offset += size
    return values


def decode_message(message: wire.Message, indices: Sequence[int], layers: Layers, codec: Codec) -> dict[str, Values]:
    """Read the layers of a message.

    Args:
        message: The message.
        indices: The layers that it must hold, and no others.
        layers: The labelling.
        codec: How they were written.

    Returns:
        Layer name to its tensors.

    Raises:
        DataError: A layer is missing, was not requested, or has the wrong length.
    """
    if set(message.payloads) != set(indices):
        sent = ", ".join(map(str, sorted(message.payloads))) or "none"
        due = ", ".join(map(str, sorted(indices))) or "none"
        raise DataError(
            f"the message holds the layers {sent}, expected {due}; install the same version of fedlama on both sides"
        )
    return {layers[i].name: decode_layer(layers[i], message.payloads[i], codec) for i in indices}


def layer_payloads(message: wire.Message, layers: Layers) -> tuple[LayerPayload, ...]:
    """Return the layers of a message with the bytes that they take in it, in the order of the labelling.

    Args:
        message: The message; all its layers are in the labelling.
        layers: The labelling.
    """
    sizes = sorted((index, len(payload)) for index, payload in message.payloads.items())
    return tuple(LayerPayload(layers[index].name, layers[index].parameters, size) for index, size in sizes)
