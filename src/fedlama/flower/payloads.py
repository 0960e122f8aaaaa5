"""Layers to bytes and back: the tensors of a layer are packed one after another.

What both sides know of a message beside its bytes (:class:`Known`) is the same on both sides, so codecs that send
differences or draw random numbers are read as they were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from fedlama.choices.codecs import (
    SERVER,
    Address,
    Codec,
    CodecContext,
    CodecState,
    codec_of,
    length_of,
    received_state,
)
from fedlama.core import wire
from fedlama.core.layers import Layer, Layers, TensorSpec
from fedlama.core.ledger import LayerPayload
from fedlama.engines.api import Values
from fedlama.errors import DataError


@dataclass(frozen=True)
class Known:
    """What a codec may use beside the tensors of a message.

    Attributes:
        seed: The run's seed.
        direction: ``"up"`` or ``"down"``.
        round_index: The round, from 0, at whose end the values were computed.
        client: The client's number; :data:`fedlama.choices.codecs.SERVER` in downloads.
        reference: The values that both sides hold, by tensor; only codecs that send differences need them.
        state: The sender's states, by tensor; a receiver has none, unless the codec lets both sides keep them.
    """

    seed: int = 0
    direction: Literal["up", "down"] = "up"
    round_index: int = 0
    client: int = SERVER
    reference: Mapping[str, Tensor] = field(default_factory=dict)
    state: Mapping[str, CodecState] = field(default_factory=dict)

    def context(self, name: str) -> CodecContext:
        """Return the context of one tensor."""
        address = Address(self.seed, self.direction, self.round_index, self.client, name)
        return CodecContext(self.reference.get(name), self.state.get(name, {}), address)


def encode_layer(layer: Layer, values: Mapping[str, Tensor], codec: Codec) -> bytes:
    """Write a layer's tensors one after another, each by itself.

    Args:
        layer: The layer.
        values: Tensors by name.
        codec: How parameters are written; see :func:`fedlama.choices.codecs.codec_of`.
    """
    return write_layer(layer, values, codec, Known())[0]


def write_layer(
    layer: Layer, values: Mapping[str, Tensor], codec: Codec, known: Known
) -> tuple[bytes, dict[str, CodecState]]:
    """Write a layer's tensors one after another.

    Args:
        layer: The layer.
        values: Tensors by name.
        codec: As for :func:`encode_layer`.
        known: What the receiver knows too, and the sender's states.

    Returns:
        The bytes, and the sender's new states by tensor, without those that are empty.
    """
    parts, states = [], {}
    for spec in layer.tensors:
        data, state = codec_of(spec, codec).encode_with(values[spec.name], known.context(spec.name))
        parts.append(data)
        if state:
            states[spec.name] = state
    return b"".join(parts), states


def decode_layer(layer: Layer, data: bytes, codec: Codec, known: Known | None = None) -> Values:
    """Read what :func:`encode_layer` or :func:`write_layer` wrote.

    Raises:
        DataError: The bytes are not as many as the layer takes.
    """
    known = known or Known()
    return {
        spec.name: codec_of(spec, codec).decode_with(part, spec, known.context(spec.name))
        for spec, part in _parts(layer, data, codec)
    }


def received_states(layer: Layer, data: bytes, codec: Codec, known: Known) -> dict[str, CodecState]:
    """Return what a receiver keeps of a layer for its sender's next upload, by tensor; empty for most codecs.

    Args:
        layer: The layer.
        data: What :func:`write_layer` wrote.
        codec: As for :func:`encode_layer`.
        known: As for :func:`decode_layer`.

    Raises:
        DataError: The bytes are not as many as the layer takes.
    """
    states = {
        spec.name: received_state(part, spec, codec_of(spec, codec), known.context(spec.name))
        for spec, part in _parts(layer, data, codec)
    }
    return {name: state for name, state in states.items() if state}


def _parts(layer: Layer, data: bytes, codec: Codec) -> Iterator[tuple[TensorSpec, bytes]]:
    """Return a layer's tensors, each with its own part of a payload.

    Raises:
        DataError: The bytes are not as many as the layer takes.
    """
    parts, offset = [], 0
    for spec in layer.tensors:
        size = length_of(data[offset : offset + 1], spec, codec_of(spec, codec))
        parts.append((spec, data[offset : offset + size]))
        offset += size
    if len(data) != offset:
        raise DataError(
            f"the payload of layer {layer.name!r} has {len(data)} bytes, expected {offset}; use the same model and "
            "codec on both sides"
        )
    return iter(parts)


def decode_message(
    message: wire.Message, indices: Sequence[int], layers: Layers, codec: Codec, known: Known | None = None
) -> dict[str, Values]:
    """Read the layers of a message.

    Args:
        message: The message.
        indices: The layers that it must hold, and no others.
        layers: The labelling.
        codec: How they were written.
        known: What the sender knew too.

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
    return {layers[i].name: decode_layer(layers[i], message.payloads[i], codec, known) for i in indices}


def layer_payloads(message: wire.Message, layers: Layers) -> tuple[LayerPayload, ...]:
    """Return the layers of a message with the bytes that they take in it, in the order of the labelling.

    Args:
        message: The message; all its layers are in the labelling.
        layers: The labelling.
    """
    sizes = sorted((index, len(payload)) for index, payload in message.payloads.items())
    return tuple(LayerPayload(layers[index].name, layers[index].parameters, size) for index, size in sizes)
