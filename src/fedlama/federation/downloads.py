"""The codec of downloads on the server: what clients hold of a new value, and what is sent to those in sync.

With a codec that is not exact, the server's value of a layer is what its clients hold. A codec without a context
writes values, and the same ones to everybody. A codec with a context writes a change, once in a round and for all
clients; what it left out stays here, in its state.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlama.choices.codecs import (
    SERVER,
    Address,
    CodecState,
    CohortContext,
    changes_nothing,
    codec_of,
    download_codec,
)
from fedlama.core.layers import Layer, TensorSpec
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.uploads import first_states, state_of
from fedlama.errors import ConfigError


class Downloads:
    """Applies the codec of downloads.

    Args:
        setup: The federation's fixed parts.

    Attributes:
        state: The codec's state of every tensor, by tensor; empty without any.
        coded: What was written in the latest round, by layer; empty for codecs without a context.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._codec, self._seed, self._layers = download_codec(setup.codec), setup.seed, setup.layers
        first = first_states(setup.layers, self._codec, setup.device)
        self.state: dict[str, CodecState] = {
            name: state_of(first, name) for name in dict.fromkeys(name for named in first.values() for name in named)
        }
        self.coded: dict[str, bytes] = {}
        self._threads = WorkerThreads(cores())

    def first(self, values: Mapping[str, Tensor]) -> Values:
        """Return the initial model as its first clients receive it.

        Args:
            values: The initial values.

        Raises:
            ConfigError: The codec changes a value that it has sent before.
        """
        if self._codec.needs_context:
            return dict(values)  # a first download is not coded
        received = dict(values)
        for spec in (spec for layer in self._layers for spec in layer.tensors):
            received[spec.name] = self._value(spec, values[spec.name])
            if not torch.equal(self._value(spec, received[spec.name]), received[spec.name]):
                raise ConfigError(
                    f"the codec of downloads is {self._codec.name!r}, which changes the tensor {spec.name} again when "
                    "it is sent again; choose one that is idempotent, or leave downloads uncompressed"
                )
        return received

    def publish(
        self, layer: Layer, values: Mapping[str, Tensor], held: Mapping[str, Tensor], round_index: int
    ) -> Values:
        """Return what clients hold of a layer's new value once they have received it.

        Args:
            layer: The layer.
            values: Its new value.
            held: What clients hold before.
            round_index: The round, from 0.
        """
        if changes_nothing(self._codec):
            return dict(values)
        if not self._codec.needs_context:
            return {spec.name: self._value(spec, values[spec.name]) for spec in layer.tensors}
        received, parts = Values(), []
        for spec in layer.tensors:
            codec, value = codec_of(spec, self._codec), values[spec.name]
            address = Address(self._seed, "down", round_index, SERVER, spec.name)
            before = {kind: kept.unsqueeze(0) for kind, kept in self.state.get(spec.name, {}).items()}
            context = CohortContext(held[spec.name], before, address, (SERVER,), self._threads.map_strided)
            parts.append(codec.encode_with(value, context.row(0))[0])
            arrived, state = codec.transmit_with(value.unsqueeze(0), context)  # (1, ...)
            received[spec.name] = arrived[0]
            if state:
                self.state[spec.name] = {kind: kept[0] for kind, kept in state.items()}
        self.coded[layer.name] = b"".join(parts)
        return received

    def _value(self, spec: TensorSpec, value: Tensor) -> Tensor:
        return codec_of(spec, self._codec).transmit(value.unsqueeze(0))[0]
