"""From a plan to the order of a round, and from an order to the transfers that follow from it.

:class:`TransferPlanner` knows who is in the cohort and which layers its members lack. :class:`TransferTable` knows how
many bytes each layer takes in a message. Together they say what a run moves without training anything, so the
federation, the engines and the forecast before training share them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from fedlama.choices.codecs import Codec, Float32, codec_of
from fedlama.choices.samplers import Sampler
from fedlama.choices.strategies import Plan
from fedlama.core.layers import Layer, Layers
from fedlama.core.ledger import Direction, LayerPayload, Transfer
from fedlama.core.validation import refuse
from fedlama.engines.api import RoundOrder

DOWNLOAD_CODEC = Float32()
"""How layers go down: uncompressed, because every client continues from the value that the server really holds. A codec
that compresses downloads too, with a state on both sides, would replace this constant."""


class TransferPlanner:
    """Draws the cohorts, and makes the order of each round from its plan.

    Args:
        layers: The labelling.
        sampler: Who takes part.
        population: Number of clients.
        seed: The run's seed.
        rounds: Number of rounds of the run.

    Attributes:
        cohort: The active clients, in ascending order.
        changed: Layers that the server has changed since the cohort's latest download.
    """

    def __init__(self, layers: Layers, sampler: Sampler, population: int, seed: int, rounds: int) -> None:
        self._layers, self._sampler = layers, sampler
        self._population, self._seed, self._rounds = population, seed, rounds
        self.cohort: tuple[int, ...] = ()
        self.changed: frozenset[str] = frozenset()

    def close(self, plan: Plan) -> Plan:
        """Let the last round of the run bring all layers into sync, also when it falls inside a cycle.

        Args:
            plan: The strategy's plan of a round.

        Raises:
            ConfigError: The plan does not fit the layers.
        """
        refuse(plan.problems(self._layers))
        return plan if plan.round_index + 1 < self._rounds else plan.closing(self._layers)

    def order(
        self,
        plan: Plan,
        steps: int,
        values: Mapping[str, Tensor],
        *,
        evaluation: frozenset[str] = frozenset(),
        scalars: bool = False,
    ) -> RoundOrder:
        """Make the order of a round; to be called once for every round, in sequence.

        Args:
            plan: The round's plan.
            steps: Local steps of every client.
            values: The global values before the round.
            evaluation: Layers that come up only for an evaluation.
            scalars: Whether uploads carry a discrepancy scalar with each layer.

        Returns:
            The order, for a new cohort where the plan and the sampler allow one.
        """
        new = plan.round_index == 0 or (plan.cycle_start and self._sampler.redraws(plan.round_index))
        if new:
            self.cohort = self._sampler.draw(self._population, plan.round_index, self._seed)
        lacking = frozenset(layer.name for layer in self._layers) if new else self.changed
        self.changed = plan.upload | plan.recycle
        return RoundOrder(
            plan=plan,
            steps=steps,
            cohort=self.cohort,
            new_cohort=new,
            values=values,
            lacking=lacking,
            evaluation=evaluation,
            scalars=scalars,
        )


class TransferTable:
    """What each layer takes inside a message, in either direction, and the transfers that are made of it.

    Args:
        layers: The labelling.
        codec: How uploads are compressed.
    """

    def __init__(self, layers: Layers, codec: Codec) -> None:
        self._down, self._up = _payloads(layers, DOWNLOAD_CODEC), _payloads(layers, codec)

    def planned(self, order: RoundOrder) -> tuple[Transfer, ...]:
        """Return what a round moves when every client of the cohort receives the order and answers.

        Args:
            order: The round's order.

        Returns:
            One download, one upload, and one upload for the evaluation where layers come up for it.
        """
        return (
            self._transfer(order, "down", order.cohort, order.lacking),
            *self.uploads(order, order.cohort),
        )

    def downloads(self, order: RoundOrder, sent: Mapping[int, Collection[str]]) -> tuple[Transfer, ...]:
        """Return what goes down when clients lack different layers: one transfer for each set of layers.

        Args:
            order: The round's order.
            sent: Client to the names of the layers that it is sent, in the cohort's order.
        """
        groups: dict[frozenset[str], list[int]] = {}
        for client, names in sent.items():
            groups.setdefault(frozenset(names), []).append(client)
        return tuple(self._transfer(order, "down", clients, names) for names, clients in groups.items())

    def uploads(self, order: RoundOrder, answered: Collection[int], *, evaluation: bool = True) -> tuple[Transfer, ...]:
        """Return what comes up from the clients that answered: nothing when none did.

        Args:
            order: The round's order.
            answered: The clients, in the cohort's order.
            evaluation: Whether to include what comes up only for an evaluation.
        """
        if not answered:
            return ()
        trained = self._transfer(order, "up", answered, order.plan.upload, scalars=order.scalars)
        if not (order.evaluation and evaluation):
            return (trained,)
        return trained, self._transfer(order, "evaluation", answered, order.evaluation)

    def _transfer(
        self,
        order: RoundOrder,
        direction: Direction,
        clients: Iterable[int],
        names: Collection[str],
        *,
        scalars: bool = False,
    ) -> Transfer:
        payloads = self._down if direction == "down" else self._up
        listed = tuple(payload for name, payload in payloads.items() if name in names)  # in the model's order
        return Transfer(order.plan.round_index, direction, tuple(clients), listed, scalars)


def _payloads(layers: Layers, codec: Codec) -> dict[str, LayerPayload]:
    return {layer.name: LayerPayload(layer.name, layer.parameters, payload_bytes(layer, codec)) for layer in layers}


def payload_bytes(layer: Layer, codec: Codec) -> int:
    """Return the bytes of one layer's payload in one message."""
    return sum(codec_of(spec, codec).payload_bytes(spec) for spec in layer.tensors)
