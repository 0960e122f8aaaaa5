"""An engine whose clients are sometimes away: any engine that holds its clients, under the rules of a deployment.

In every round the inner engine holds the clients that answer. The models and solver buffers of the others are kept
aside, stacked, until they take part again. A layer that the server sets in the meantime is written to clients that are
away at once, because they read it only after they have received it. A client that dies in a round was sent the layers
that it lacked, and starts its next round from the end of its last completed one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from torch import Tensor

from fedlama.choices.availability import Availability, Membership
from fedlama.choices.availability.rules import rescaled
from fedlama.core.layers import Layer
from fedlama.engines.api import (
    Average,
    CohortState,
    Engine,
    EngineSetup,
    RoundOrder,
    RoundReply,
    Values,
    averages_of,
    sent_bytes_of,
)
from fedlama.engines.cohort.kept import blended_names
from fedlama.engines.transfers import TransferTable
from fedlama.engines.wrappers.rows import joined, restarted, rows_of


class UnreliableEngine:
    """Drives an inner engine with the clients that answer.

    Args:
        setup: The parts of the federation that do not change.
        inner: An engine that holds its clients in this process.
        availability: Which clients answer.
    """

    holds_clients: ClassVar[bool] = True

    def __init__(self, setup: EngineSetup, inner: Engine, availability: Availability) -> None:
        self._setup, self._inner, self._availability = setup, inner, availability
        self._transfers = TransferTable(setup.sent_layers, setup.codec)
        self._heads = () if setup.personal is None else tuple(blended_names(setup.layers))
        self._names = [layer.name for layer in setup.sent_layers]
        self._membership = Membership()
        self._present: tuple[int, ...] = ()  # the clients in the inner engine
        self._away: CohortState | None = None  # the state of the others
        self._answered: tuple[int, ...] = ()
        self._order: RoundOrder | None = None

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort, after all clients of the old one are back in the inner engine."""
        if self._away is not None:
            self._load(self._everyone())
        self._inner.start_cohort(clients, values)
        self._present = tuple(clients)
        self._membership.start_cohort(clients)

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Advance the clients that answer; the reply has no losses when too few answer for an average."""
        if order.new_cohort:
            self.start_cohort(order.cohort, order.values)
        plan, seed = order.plan, self._setup.seed
        attendance = self._membership.attend(
            self._availability, self._names, plan.round_index, seed, cycle_start=plan.cycle_start
        )
        answered = attendance.answered
        self._order, self._answered = order, answered
        self._exchange_clients(answered or self._present, attendance.returning, order.values)
        inner_order = replace(order, cohort=answered, new_cohort=False)
        reply = self._inner.run_round(inner_order) if answered else RoundReply({}, ())
        transfers = self._transfers.downloads(order, attendance.sent, attendance.in_sync)
        transfers += self._transfers.uploads(order, answered, evaluation=attendance.enough)
        return RoundReply(reply.losses if attendance.enough else {}, transfers, reply.own_scores)

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the clients that answered."""
        return self._inner.average(layer, rescaled(self._membership.cohort, weights, self._answered))

    def average_layers(self, layers: Sequence[Layer], weights: Sequence[float]) -> Iterator[Average]:
        """Average layers over the clients that answered; see :func:`fedlama.engines.api.averages_of`."""
        return averages_of(self._inner, layers, rescaled(self._membership.cohort, weights, self._answered))

    def sent_bytes(self) -> Mapping[tuple[str, int], int]:
        """Return what each layer took in the uploads of the clients that answered, by layer and client."""
        return sent_bytes_of(self._inner)

    def received(self, layer: Layer) -> Values:
        """Return a layer of every client that answered, as the server receives it."""
        return self._inner.received(layer)

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client, including those that are away."""
        self._inner.overwrite(layer, values)
        if self._away is not None:
            for spec in (spec for spec in layer.tensors if spec.name not in self._heads):
                self._away.values[spec.name].copy_(values[spec.name])
        if self._order is not None and layer.name not in self._order.plan.frozen:
            self._membership.versions[layer.name] = self._order.plan.round_index

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        if client in self._present or self._away is None:
            return self._inner.client_values(client)
        row = self._away.clients.index(client)
        return {name: value[row].clone() for name, value in self._away.values.items()}

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state, clients that are away included."""
        return replace(self._everyone(), facts=self._membership.to_json())

    def load_state_dict(self, state: CohortState) -> None:
        """Load a state that an engine of the same federation returned."""
        self._membership = Membership.from_json(dict(state.facts))
        self._load(state)

    def _exchange_clients(
        self, wanted: tuple[int, ...], returning: Collection[int], values: Mapping[str, Tensor]
    ) -> None:
        """Put the wanted clients into the inner engine and keep the others aside.

        Args:
            wanted: The clients that answer; with none, those that are in the inner engine already.
            returning: Clients that had to wait for a cycle, and restart from the complete global model.
            values: The global model.
        """
        if wanted == self._present and not returning:
            return
        everyone = restarted(self._everyone(), sorted(returning), self._setup, values)
        away = [client for client in everyone.clients if client not in wanted]
        self._load(rows_of(everyone, wanted))
        self._away = rows_of(everyone, away) if away else None

    def _everyone(self) -> CohortState:
        """Return the state of the whole cohort, in its order."""
        present = self._inner.state_dict()
        return present if self._away is None else rows_of(joined(present, self._away), self._membership.cohort)

    def _load(self, state: CohortState) -> None:
        self._inner.load_state_dict(replace(state, facts={}))
        self._present, self._away = state.clients, None
