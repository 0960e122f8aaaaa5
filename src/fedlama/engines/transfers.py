"""From a plan to the order of a round, and from an order to the transfers that follow from it.

:class:`TransferPlanner` knows who is in the cohort and which layers its members lack. :class:`TransferTable` knows how
many bytes each layer takes in a message. Together they say what a run moves without training anything, so the
federation, the engines and the forecast before training share them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fedlama.choices.codecs import Codec, codec_of, download_codec, full_codec, least_bytes
from fedlama.choices.samplers import Population, Sampler, checked_cohort, is_informed
from fedlama.choices.solvers.exchanged import Exchanged, extra_layers, with_extras
from fedlama.choices.strategies import Plan
from fedlama.core.layers import Layer, Layers
from fedlama.core.ledger import CHOICE, DISTANCES, Direction, LayerPayload, Transfer
from fedlama.core.validation import refuse
from fedlama.core.wire import SCALAR_BYTES
from fedlama.engines.api import RoundOrder
from fedlama.errors import ConfigError, shown


class TransferPlanner:
    """Draws the cohorts, and makes the order of each round from its plan.

    Args:
        layers: The labelling.
        sampler: Who takes part.
        population: Number of clients.
        seed: The run's seed.
        rounds: Number of rounds of the run.
        samples: Returns a client's number of samples; by default all clients count the same, as before data are known.
        exchanges: What the solver exchanges beside the model.
        uploads: Layers that only come up, in every round.

    Attributes:
        cohort: The active clients, in ascending order.
        sent: All layers that are in messages: those of the model, and what the solver exchanges beside it.
        changed: Layers that the server has changed since the cohort's latest download.
        losses: The latest mean training loss of every client that answered; empty unless the sampler looks at it.
    """

    def __init__(
        self,
        layers: Layers,
        sampler: Sampler,
        population: int,
        seed: int,
        rounds: int,
        samples: Callable[[int], int] = lambda _: 1,
        exchanges: Sequence[Exchanged] = (),
        uploads: Layers = (),
    ) -> None:
        self._layers, self._sampler = layers, sampler
        self._population, self._seed, self._rounds = population, seed, rounds
        self.cohort: tuple[int, ...] = ()
        self.changed: frozenset[str] = frozenset()
        self.losses: dict[int, float] = {}
        self._samples, self._exchanges = samples, exchanges
        self.sent = layers + extra_layers(layers, exchanges)
        self._uploads = frozenset(layer.name for layer in uploads)
        self._held: frozenset[str] = frozenset()  # what the round before left different on each client

    def close(self, plan: Plan) -> Plan:
        """Let the last round of the run bring all layers into sync, also when it falls inside a cycle.

        Args:
            plan: The strategy's plan of a round.

        Raises:
            ConfigError: The plan does not fit the layers, or a user's strategy returned something else.
        """
        if not hasattr(plan, "problems"):
            raise ConfigError(f"the strategy's plan of a round is {shown(plan)}, expected a fedlama.Plan; return one")
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
        coded: Mapping[str, bytes] | None = None,
        scores_own: bool = False,
    ) -> RoundOrder:
        """Make the order of a round; to be called once for every round, in sequence.

        Args:
            plan: The round's plan, of the model's layers; what the solver exchanges beside the model is added here.
            steps: Local steps of every client.
            values: The global values before the round.
            evaluation: Layers that come up only for an evaluation.
            scalars: Whether uploads carry a discrepancy scalar with each layer.
            coded: What the codec of downloads wrote after the round before, by layer; None for nothing.
            scores_own: Whether the clients' own models are scored.

        Returns:
            The order, for a new cohort where the plan and the sampler allow one.

        Raises:
            ConfigError: A new cohort would begin while layers are not in sync.
        """
        new = plan.round_index == 0 or (plan.cycle_start and self._sampler.redraws(plan.round_index))
        if new and self._held:
            names = ", ".join(sorted(self._held)[:3]) + (", ..." if len(self._held) > 3 else "")
            raise ConfigError(
                f"round {plan.round_index} begins a cycle and draws new clients, but the strategy left {names} out of "
                "sync in the round before, so what the clients trained there would be lost; upload every layer in the "
                "last round of a cycle, let all clients take part, or return False as in_sync_at_cycles"
            )
        self._held = plan.held(self._layers)
        if new:
            self.cohort = self._draw(plan.round_index)
        plan = with_extras(plan, self._layers, self._exchanges)
        lacking = frozenset(layer.name for layer in self.sent) if new else self.changed
        self.changed = plan.upload | plan.recycle
        plan = replace(plan, upload=plan.upload | self._uploads) if self._uploads else plan
        later = plan.senders is not None and plan.senders.needs_distances
        return RoundOrder(
            plan=plan,
            steps=steps,
            cohort=self.cohort,
            new_cohort=new,
            values=values,
            lacking=lacking,
            evaluation=evaluation,
            scalars=scalars,
            coded=coded or {},
            scores_own=scores_own,
            senders=None if later else self.chosen(plan, self.cohort, {}),
        )

    def chosen(
        self, plan: Plan, clients: Sequence[int], distances: Mapping[str, Sequence[float]]
    ) -> dict[str, frozenset[int]]:
        """Return the clients that upload a layer, for the layers of the model that not all upload.

        Args:
            plan: The round's plan.
            clients: The clients that can be asked, in ascending order.
            distances: How far each of them moved, by layer; empty where that is not needed.
        """
        if plan.senders is None:
            return {}
        due = [layer.name for layer in self._layers if layer.name in plan.upload]
        chosen = plan.senders.choose(due, clients, distances)
        return {name: asked & set(clients) for name, asked in chosen.items() if not asked >= set(clients)}

    def learn(self, losses: Mapping[int, float]) -> None:
        """Remember the losses of the clients that answered, for a sampler that looks at them.

        Args:
            losses: Mean training loss by client.
        """
        if is_informed(self._sampler):
            self.losses |= losses

    def _draw(self, round_index: int) -> tuple[int, ...]:
        if is_informed(self._sampler):
            known = Population(self._population, self._samples, self.losses)
            drawn = self._sampler.choose(known, round_index, self._seed)
        else:
            drawn = self._sampler.draw(self._population, round_index, self._seed)
        return checked_cohort(self._sampler, drawn, self._population)


class TransferTable:
    """What each layer takes inside a message, in either direction, and the transfers that are made of it.

    A download takes the bytes of the codec of downloads where the client is in sync: it answered in the round before,
    so it lacks exactly the latest change. A client of a new cohort, or one that missed a round, has another value than
    the server's differences count from, and gets the value itself.

    Where the lengths of uploads depend on values, they are the largest ones; :func:`measured` puts the real ones in.

    Args:
        layers: The labelling.
        codec: How uploads are compressed; it names the codec of downloads.
        least: Whether uploads count with their smallest length instead.
    """

    def __init__(self, layers: Layers, codec: Codec, *, least: bool = False) -> None:
        down = download_codec(codec)
        self._codes_changes = down.needs_context
        self._changes, self._full = _payloads(layers, down), _payloads(layers, full_codec(codec))
        self._up = _payloads(layers, codec, least=least)
        self._trained = [layer.name for layer in layers if any(spec.trainable for spec in layer.tensors)]

    def planned(self, order: RoundOrder) -> tuple[Transfer, ...]:
        """Return what a round moves when every client of the cohort receives the order and answers.

        Args:
            order: The round's order.

        Returns:
            One download, one upload, and one upload for the evaluation where layers come up for it.
        """
        payloads = self._full if order.new_cohort else self._changes
        return (
            self._transfer(order, "down", order.cohort, order.lacking, payloads),
            *self.uploads(order, order.cohort),
        )

    def downloads(
        self, order: RoundOrder, sent: Mapping[int, Collection[str]], in_sync: Collection[int]
    ) -> tuple[Transfer, ...]:
        """Return what goes down when clients lack different layers: one transfer for each set of layers.

        Args:
            order: The round's order.
            sent: Client to the names of the layers that it is sent, in the cohort's order.
            in_sync: The clients that answered in the round before.
        """
        groups: dict[tuple[frozenset[str], bool], list[int]] = {}
        for client, names in sent.items():
            change = self._codes_changes and client in in_sync
            groups.setdefault((frozenset(names), change), []).append(client)
        return tuple(
            self._transfer(order, "down", clients, names, self._changes if change else self._full)
            for (names, change), clients in groups.items()
        )

    def uploads(self, order: RoundOrder, answered: Collection[int], *, evaluation: bool = True) -> tuple[Transfer, ...]:
        """Return what comes up from the clients that answered: nothing when none did.

        Args:
            order: The round's order.
            answered: The clients, in the cohort's order.
            evaluation: Whether to include what comes up only for an evaluation.
        """
        if not answered:
            return ()
        trained = self._reports(order, answered) if order.senders is None else self._by_sender(order, answered)
        if not (order.evaluation and evaluation):
            return trained
        return *trained, self._transfer(order, "evaluation", answered, order.evaluation, self._up)

    def asked(self, order: RoundOrder, answered: Collection[int]) -> tuple[Transfer, ...]:
        """Return what moves once the server has chosen by distances: its choice to each client, and the uploads.

        Args:
            order: The round's order, with the senders that were chosen.
            answered: The clients that reported their distances, in the cohort's order.
        """
        if not answered:
            return ()
        bits = sum(name in order.plan.upload for name in self._up)
        choice = LayerPayload(CHOICE, 0, -(-bits // 8))
        return Transfer(order.plan.round_index, "down", tuple(answered), (choice,)), *self._by_sender(order, answered)

    def _reports(self, order: RoundOrder, answered: Collection[int]) -> tuple[Transfer, ...]:
        """Return the messages with which clients report how far they moved in each layer of the model."""
        layers = sum(name in order.plan.upload for name in self._trained)
        report = LayerPayload(DISTANCES, 0, SCALAR_BYTES * layers)
        return (Transfer(order.plan.round_index, "up", tuple(answered), (report,)),)

    def _by_sender(self, order: RoundOrder, answered: Collection[int]) -> tuple[Transfer, ...]:
        """Return the uploads for training: one transfer for each set of layers."""
        groups: dict[frozenset[str], list[int]] = {}
        for client in answered if order.senders else ():
            groups.setdefault(order.layers_of(client), []).append(client)
        return tuple(
            self._transfer(order, "up", clients, names, self._up, scalars=order.scalars)
            for names, clients in (groups or {order.plan.upload: list(answered)}).items()
        )

    def _transfer(
        self,
        order: RoundOrder,
        direction: Direction,
        clients: Iterable[int],
        names: Collection[str],
        payloads: Mapping[str, LayerPayload],
        *,
        scalars: bool = False,
    ) -> Transfer:
        listed = tuple(payload for name, payload in payloads.items() if name in names)  # in the model's order
        return Transfer(order.plan.round_index, direction, tuple(clients), listed, scalars)


def with_sent_lengths(transfers: Sequence[Transfer], sent: Mapping[tuple[str, int], int]) -> tuple[Transfer, ...]:
    """Return a round's transfers with the lengths that uploads really had: one for each list of lengths.

    Args:
        transfers: The transfers, as planned.
        sent: Payload bytes by layer and client; what is missing stays as planned.
    """
    result: list[Transfer] = []
    for transfer in transfers:
        groups: dict[tuple[LayerPayload, ...], list[int]] = {}
        for client in transfer.clients:
            payloads = transfer.payloads
            if transfer.direction in ("up", "evaluation"):
                payloads = tuple(
                    replace(item, payload_bytes=sent.get((item.layer, client), item.payload_bytes)) for item in payloads
                )
            groups.setdefault(payloads, []).append(client)
        result += [replace(transfer, clients=tuple(some), payloads=each) for each, some in groups.items()]
    return tuple(result)


def _payloads(layers: Layers, codec: Codec, *, least: bool = False) -> dict[str, LayerPayload]:
    length = least_payload_bytes if least else payload_bytes
    return {layer.name: LayerPayload(layer.name, layer.parameters, length(layer, codec)) for layer in layers}


def least_payload_bytes(layer: Layer, codec: Codec) -> int:
    """Return the smallest number of bytes of one layer's payload in one message."""
    return sum(least_bytes(spec, codec_of(spec, codec)) for spec in layer.tensors)


def payload_bytes(layer: Layer, codec: Codec) -> int:
    """Return the bytes of one layer's payload in one message, the most where that depends on values."""
    return sum(codec_of(spec, codec).payload_bytes(spec) for spec in layer.tensors)
