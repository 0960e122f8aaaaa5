"""Who is in the cohort, what it lacks, and the shipments that follow from a plan.

This is all that is needed to know what a run moves, so the driver and the forecast before training share it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from fedlama.choices.codecs import Codec, Float32
from fedlama.choices.samplers import Sampler
from fedlama.choices.strategies import Plan
from fedlama.core.layers import Layer, Layers
from fedlama.core.ledger import Direction, LayerPayload, Transfer

_DOWNLOAD_CODEC = Float32()  # every client continues from the value that the server really holds


class TransferPlanner:
    """Turns plans into shipments, round after round.

    Args:
        layers: The labelling.
        codec: How uploads are compressed.
        sampler: Who takes part.
        population: Number of clients.
        seed: The run's seed.
        rounds: Number of rounds of the run.

    Attributes:
        cohort: The active clients, in ascending order.
        changed: Layers that the cohort lacks, because the server changed them since.
    """

    def __init__(self, layers: Layers, codec: Codec, sampler: Sampler, population: int, seed: int, rounds: int) -> None:
        self._layers, self._sampler = layers, sampler
        self._down, self._up = _payloads(layers, _DOWNLOAD_CODEC), _payloads(layers, codec)
        self._population, self._seed, self._rounds = population, seed, rounds
        self.cohort: tuple[int, ...] = ()
        self.changed: frozenset[str] = frozenset()

    def close(self, plan: Plan) -> Plan:
        """Let the last round of the run bring everything into sync, also when it falls inside a cycle."""
        return plan if plan.round_index + 1 < self._rounds else plan.closing(self._layers)

    def download(self, plan: Plan) -> tuple[bool, Transfer]:
        """Draw a new cohort where one is due and send every member what it lacks.

        Args:
            plan: The round's plan.

        Returns:
            Whether the cohort is new, and the shipment: the complete model for a new cohort, else what changed.
        """
        first = plan.round_index == 0
        new = first or (plan.cycle_start and self._sampler.redraws(plan.round_index))
        if new:
            self.cohort = self._sampler.draw(self._population, plan.round_index, self._seed)
        lacking = self._layers if new else self.named(self.changed)
        self.changed = plan.upload | plan.recycle
        return new, self._shipment(plan.round_index, "down", lacking, self._down, scalars=False)

    def upload(self, plan: Plan, *, scalars: bool) -> Transfer:
        """Return what the cohort sends at the end of the round.

        Args:
            plan: The round's plan.
            scalars: Whether the strategy measures discrepancy.
        """
        return self._shipment(plan.round_index, "up", self.named(plan.upload), self._up, scalars)

    def evaluation(self, plan: Plan) -> Transfer | None:
        """Return what the cohort would send for an evaluation alone: the layers that it holds back."""
        held = self.named(plan.held(self._layers))
        return self._shipment(plan.round_index, "evaluation", held, self._up, scalars=False) if held else None

    def named(self, names: Iterable[str]) -> Layers:
        """Return layers in the model's order, whatever the order of the names."""
        wanted = frozenset(names)
        return tuple(layer for layer in self._layers if layer.name in wanted)

    def _shipment(
        self,
        round_index: int,
        direction: Direction,
        layers: Layers,
        payloads: Mapping[str, LayerPayload],
        scalars: bool,
    ) -> Transfer:
        return Transfer(round_index, direction, self.cohort, tuple(payloads[layer.name] for layer in layers), scalars)


def downloads(round_index: int, sent: Mapping[int, tuple[str, ...]], layers: Layers) -> list[Transfer]:
    """Return what went down when clients lacked different layers: one shipment for each set of layers.

    Args:
        round_index: The round, from 0.
        sent: Client to the names of the layers that it was sent, in the cohort's order.
        layers: The labelling.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for client, names in sent.items():
        groups.setdefault(names, []).append(client)
    payloads = _payloads(layers, _DOWNLOAD_CODEC)
    return [
        Transfer(round_index, "down", tuple(clients), tuple(payloads[name] for name in names))
        for names, clients in groups.items()
    ]


def uploads(planned: Sequence[Transfer], answered: tuple[int, ...], *, scalars: bool) -> list[Transfer]:
    """Return what came up: as planned, but of those who answered.

    Args:
        planned: The round's shipments, had everyone answered.
        answered: Who did; nothing came up when it is nobody.
        scalars: Whether the uploads carried a scalar with each layer.
    """
    return [
        replace(transfer, clients=answered, scalars=scalars and transfer.direction == "up")
        for transfer in planned
        if transfer.direction != "down" and answered
    ]


def _payloads(layers: Layers, codec: Codec) -> dict[str, LayerPayload]:
    """Return what each layer is inside a message."""
    return {layer.name: LayerPayload(layer.name, layer.parameters, payload_bytes(layer, codec)) for layer in layers}


def payload_bytes(layer: Layer, codec: Codec) -> int:
    """Bytes of one layer's payload in one message."""
    return sum(codec.payload_bytes(spec) for spec in layer.tensors)
