"""What the server receives of a layer: the codec of uploads, applied to a cohort, with the state of every client.

The engines keep the states beside the local models, by the codec's names and by tensor; this module only says what they
are at first and what becomes of them. An upload of the round's plan moves them on, an upload for an evaluation does
not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlama.choices.codecs import (
    Address,
    Codec,
    CodecState,
    CohortContext,
    changes_nothing,
    codec_of,
    payload_lengths,
    varies,
)
from fedlama.core.layers import Layer, Layers, TensorSpec
from fedlama.engines.api import CohortState, EngineSetup, RoundOrder, Values
from fedlama.engines.cohort.threads import WorkerThreads


@dataclass(frozen=True)
class Arrived:
    """One tensor of several clients, as it arrives.

    Attributes:
        values: The tensors, (clients, ...).
        state: The codec's new states, stacked, by name; to be kept only where `counts` is true.
        counts: Whether the upload is one of the round's plan.
    """

    values: Tensor
    state: CodecState
    counts: bool


class Uploads:
    """Applies the codec of uploads.

    Args:
        setup: The federation's fixed parts.

    Attributes:
        first: One client's first states, by the codec's name of the state and by tensor; empty without any.
        changes_nothing: Whether all tensors arrive as they are.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._codec, self._seed = setup.codec, setup.seed
        self.first = first_states(setup.layers, setup.codec, setup.device)
        self._order: RoundOrder | None = None
        self.changes_nothing, self._varies = changes_nothing(setup.codec), varies(setup.codec)
        self._lengths: dict[tuple[str, int], dict[str, int]] = {}  # of the round, by layer and client, by tensor

    def begin(self, order: RoundOrder) -> None:
        """Remember the round whose uploads follow."""
        self._order, self._lengths = order, {}

    def sent_bytes(self) -> dict[tuple[str, int], int]:
        """Return what each layer took in each client's upload of the round, by layer and client.

        Only a codec whose payloads differ in length is measured; for others it is empty.
        """
        return {key: sum(lengths.values()) for key, lengths in self._lengths.items()}

    def receive(
        self,
        layer: Layer,
        spec: TensorSpec,
        stacked: Tensor,
        clients: Sequence[int],
        state: CodecState,
        threads: WorkerThreads,
    ) -> Arrived:
        """Return what arrives of one tensor of a layer.

        Args:
            layer: The layer.
            spec: The tensor.
            stacked: Its values on the clients, (clients, ...); never changed.
            clients: The clients, row by row.
            state: The codec's states of this tensor, stacked, by name; never changed.
            threads: Who helps with large tensors on the CPU.
        """
        codec = codec_of(spec, self._codec)
        if self._varies and not codec.needs_context:
            self._note(layer, spec, clients, [codec.payload_bytes(spec)] * len(clients))
        if not codec.needs_context or self._order is None:
            return Arrived(codec.transmit(stacked), {}, counts=False)
        plan = self._order.plan
        context = CohortContext(
            reference=self._order.values[spec.name].to(stacked.device),
            state=state,
            address=Address(self._seed, "up", plan.round_index, clients[0], spec.name),
            clients=clients,
            spread=threads.map_strided,
        )
        if self._varies:
            self._note(layer, spec, clients, payload_lengths(stacked, spec, codec, context))
        values, new = codec.transmit_with(stacked, context)
        return Arrived(values, new, counts=layer.name in plan.upload)

    def _note(self, layer: Layer, spec: TensorSpec, clients: Sequence[int], lengths: Sequence[int]) -> None:
        for client, length in zip(clients, lengths, strict=True):
            self._lengths.setdefault((layer.name, client), {})[spec.name] = length


def first_states(layers: Layers, codec: Codec, device: torch.device) -> dict[str, Values]:
    """Return one sender's first states of all tensors, by the codec's name of the state and by tensor.

    Args:
        layers: The labelling.
        codec: The codec of uploads or of downloads.
        device: Where the states are.
    """
    by_kind: dict[str, Values] = {}
    for spec in (spec for layer in layers for spec in layer.tensors):
        for kind, value in codec_of(spec, codec).init(spec).items():
            by_kind.setdefault(kind, {})[spec.name] = value.to(device)
    return by_kind


def stacked_states(setup: EngineSetup, senders: Sequence[Mapping[str, CodecState]]) -> dict[str, Values]:
    """Return the states of several senders, (senders, ...) by the codec's name of the state and by tensor.

    Args:
        setup: The federation's fixed parts.
        senders: The states of each by tensor; one that is missing is the first state.
    """
    first = first_states(setup.layers, setup.codec, setup.device)
    return {
        kind: {
            name: torch.stack([sender.get(name, {}).get(kind, value) for sender in senders])
            for name, value in named.items()
        }
        for kind, named in first.items()
    }


def sender_states(state: CohortState, row: int) -> dict[str, CodecState]:
    """Return the codec's states of one client of a cohort, by tensor.

    Args:
        state: The cohort's state.
        row: The client's position in the cohort.
    """
    names = {name for named in state.codec_state.values() for name in named}
    return {
        name: {kind: named[name][row].clone() for kind, named in state.codec_state.items() if name in named}
        for name in sorted(names)
    }


def state_of(states: Mapping[str, Values], name: str) -> CodecState:
    """Return the states of one tensor, from states by the codec's name and by tensor."""
    return {kind: named[name] for kind, named in states.items() if name in named}
