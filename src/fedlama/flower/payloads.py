"""Layers to bytes and back, with a layer's tensors packed one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedlama.choices.codecs import Codec
from fedlama.core import wire
from fedlama.core.layers import Layer, Layers
from fedlama.engines.api import Values
from fedlama.errors import DataError


def encode_layer(layer: Layer, values: Mapping[str, Tensor], codec: Codec) -> bytes:
    """Write a layer's tensors one after another.

    Args:
        layer: Which.
        values: Tensors by name.
        codec: How.
    """
    return b"".join(codec.encode(values[spec.name]) for spec in layer.tensors)


def decode_layer(layer: Layer, data: bytes, codec: Codec) -> Values:
    """Read what :func:`encode_layer` wrote.

    Raises:
        DataError: The length is not that of the layer.
    """
    sizes = [codec.payload_bytes(spec) for spec in layer.tensors]
    if len(data) != sum(sizes):
        raise DataError(
            f"layer {layer.name!r} takes {sum(sizes)} bytes, {len(data)} were sent; "
            "the sender's model or codec differs from ours"
        )
    values, at = {}, 0
    for spec, size in zip(layer.tensors, sizes, strict=True):
        values[spec.name] = codec.decode(data[at : at + size], spec)
        at += size
    return values


def decode_message(message: wire.Message, indices: Sequence[int], layers: Layers, codec: Codec) -> dict[str, Values]:
    """Read the layers of a message that must hold certain ones.

    Args:
        message: The message.
        indices: The layers that it must hold, no more and no fewer.
        layers: The labelling.
        codec: How it was written.

    Returns:
        Layer name to its tensors.

    Raises:
        DataError: Layers are missing, unasked for, or of the wrong length.
    """
    if set(message.payloads) != set(indices):
        sent = ", ".join(map(str, sorted(message.payloads))) or "none"
        due = ", ".join(map(str, sorted(indices))) or "none"
        raise DataError(f"the message holds the layers {sent}, but due are {due}; run the same fedlama on both sides")
    return {layers[i].name: decode_layer(layers[i], message.payloads[i], codec) for i in indices}
