"""An engine whose clients come and go: any engine that holds the cohort itself, with a deployment's rules around it.

The clients that answer in a round sit in the inner engine; the others' models and solver buffers wait on a bench.
What a client that is away would be sent at its return is written to its model at once, since nobody looks at it
before. Whoever dies in a round was sent what it lacked, and begins its next round where its last good one ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from fedlama.choices.aggregators import Aggregator, Mean
from fedlama.choices.availability import Always, Availability, Membership
from fedlama.choices.availability.rules import rescaled
from fedlama.choices.strategies import Plan
from fedlama.core.layers import Layer
from fedlama.core.ledger import Transfer
from fedlama.engines.api import Average, CohortState, Engine, EngineSetup, Splittable, Values
from fedlama.engines.transfers import downloads, uploads
from fedlama.engines.wrappers.aggregated import AggregatedEngine
from fedlama.engines.wrappers.rows import joined, restarted, rows_of
from fedlama.errors import ConfigError


class UnreliableEngine:
    """Drives an inner engine with the clients that answer; see :class:`fedlama.engines.api.RemoteEngine`.

    Args:
        setup: The federation's fixed parts.
        inner: An engine that can hold a part of the cohort.
        availability: Who answers.
    """

    def __init__(self, setup: EngineSetup, inner: Engine, availability: Availability) -> None:
        travelling = {spec.name for layer in setup.layers for spec in layer.tensors}
        self._setup, self._inner, self._availability = setup, inner, availability
        self._local = {n: b.detach().clone() for n, b in setup.model.named_buffers() if n not in travelling}
        self._names = [layer.name for layer in setup.layers]
        self._membership = Membership()
        self._seated: tuple[int, ...] = ()
        self._bench: CohortState | None = None
        self._plan: Plan | None = None
        self._scalars = False
        self._returning: set[int] = set()
        self._answered: tuple[int, ...] = ()
        self._sent: dict[int, tuple[str, ...]] = {}

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort, when all of the old one are back in their places."""
        if self._bench is not None:
            self._take_up(self._everyone())
        self._inner.start_cohort(clients, values)
        self._seated = tuple(clients)
        self._membership.start_cohort(clients)

    def announce(self, plan: Plan, evaluation: frozenset[str], scalars: bool) -> None:
        """Take in the round's plan."""
        self._plan, self._scalars = plan, scalars
        self._returning = self._membership.begin_cycle() if plan.cycle_start else set()

    def train(
        self, round_index: int, steps: int, frozen: frozenset[str], reference: Mapping[str, Tensor]
    ) -> list[float]:
        """Advance the clients that answer.

        Returns:
            Their losses; none when too few answer for an average.
        """
        members, rules = self._membership, self._availability
        asked = members.asked()
        fates = dict(zip(asked, rules.fates(asked, round_index, self._setup.seed), strict=True))
        reached = [client for client in asked if fates[client] != "away"]
        self._sent = {client: tuple(members.lacking(self._names, members.answered[client])) for client in reached}
        self._answered = tuple(client for client in reached if fates[client] == "answers")
        self._change_places(reference)
        losses = self._inner.train(round_index, steps, frozen, reference) if self._answered else []
        members.close(round_index, self._answered, set(asked) - set(self._answered), rules.rejoin)
        return losses if len(self._answered) >= rules.needed(len(asked)) else []

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over who answered."""
        return self._inner.average(layer, rescaled(self._membership.cohort, weights, self._answered))

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client, on those that are away as well."""
        self._inner.overwrite(layer, values)
        if self._bench is not None:
            for spec in layer.tensors:
                self._bench.values[spec.name].copy_(values[spec.name])
        if self._plan is not None and layer.name not in self._plan.frozen:
            self._membership.versions[layer.name] = self._plan.round_index

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        if client in self._seated or self._bench is None:
            return self._inner.client_values(client)
        row = self._bench.clients.index(client)
        return {name: value[row].clone() for name, value in self._bench.values.items()}

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state, those on the bench in their places."""
        return replace(self._everyone(), facts=self._membership.to_json())

    def load_state_dict(self, state: CohortState) -> None:
        """Take up a state that an engine of the same federation exported."""
        self._membership = Membership.from_json(dict(state.facts))
        self._take_up(state)

    def travelled(self, planned: Sequence[Transfer]) -> list[Transfer]:
        """Return the round's shipments as they happened."""
        round_index = self._plan.round_index if self._plan else 0
        return downloads(round_index, self._sent, self._setup.layers) + uploads(
            planned, self._answered, scalars=self._scalars
        )

    def _change_places(self, values: Mapping[str, Tensor]) -> None:
        """Seat those who answer, bench the others, and let those who had to wait begin anew."""
        wanted = self._answered or self._seated  # with nobody there, everyone may stay
        if wanted == self._seated and not self._returning:
            return
        everyone = restarted(self._everyone(), sorted(self._returning), self._setup, values, self._local)
        away = [client for client in everyone.clients if client not in wanted]
        self._take_up(rows_of(everyone, wanted))
        self._bench = rows_of(everyone, away) if away else None

    def _everyone(self) -> CohortState:
        seated = self._inner.state_dict()
        return seated if self._bench is None else rows_of(joined(seated, self._bench), self._membership.cohort)

    def _take_up(self, state: CohortState) -> None:
        self._inner.load_state_dict(replace(state, facts={}))
        self._seated, self._bench = state.clients, None


def surrounded(engine: Engine, setup: EngineSetup, availability: Availability, aggregator: Aggregator) -> Engine:
    """Return an engine whose clients answer as an availability says, and whose averages pass a guard.

    Args:
        engine: The engine.
        setup: The federation's fixed parts.
        availability: Who answers.
        aggregator: How a layer's values are combined.

    Returns:
        The engine as it is, where everyone always answers and there is no guard.

    Raises:
        ConfigError: The engine does not hold single clients' models, so that it can do neither.
    """
    always, plain = isinstance(availability, Always), isinstance(aggregator, Mean)
    if (always and plain) or isinstance(engine, Splittable):
        aggregated = engine if plain else AggregatedEngine(setup, engine, aggregator)
        return aggregated if always else UnreliableEngine(setup, aggregated, availability)
    kind = type(engine).__name__
    problems = [] if always else [f"availability is {availability.name!r}, but who answers is not up to {kind}"]
    problems += [] if plain else [f"aggregator is {aggregator.name!r}, but {kind} does not show single clients' models"]
    raise ConfigError([f"{one}; choose engine='loop', 'stacked' or 'workers', or leave it out" for one in problems])
