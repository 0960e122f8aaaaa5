"""The engine behind which the clients are real: the driver's calls become messages.

=================  ====================================================================================
the driver says    here it means
=================  ====================================================================================
seat               the members' next order brings the full model
announce           what the next order asks for
train              orders go out with what each client lacks; replies come in, checked
average            over the replies at hand
overwrite          the layer goes down with the next order of everyone who lacks it
travelled          the shipments as they happened: who was sent what, who answered
=================  ====================================================================================

Who lacks what is worked out by :class:`~fedlama.choices.availability.membership.Membership`, in simulations as here.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedlama.choices.availability.rules import rescaled
from fedlama.choices.strategies import Plan
from fedlama.core.layers import Layer
from fedlama.core.ledger import Transfer
from fedlama.engines.api import Average, CohortState, EngineSetup, Values
from fedlama.engines.transfers import uploads
from fedlama.errors import ConfigError, DivergenceError
from fedlama.flower.policy import Patience
from fedlama.flower.protocol import EVERYONE, NEVER, Order, fingerprint
from fedlama.flower.server.aggregation import Aggregation, from_models, from_sums
from fedlama.flower.server.nodes import Roster
from fedlama.flower.server.requests import Orders, downloads, indices
from fedlama.flower.server.round import Exchange, Exchanger
from fedlama.flower.server.state import EngineMemory
from fedlama.flower.transport import Channel


def write_line(path: Path, exchange: Exchange, optimizer_state: EngineMemory, seconds: float) -> None:
    """Append a round.

    Args:
        path: The log.
        exchange: What the round's exchange brought.
        optimizer_state: What the engine remembers after it.
        seconds: How long the exchange took.
    """
    rounds = [order.round_index for order in exchange.sent]
    line = {
        "round": rounds[0] if rounds else None,
        "ended": time.time(),
        "seconds": seconds,
        "cohort": optimizer_state.cohort,
        "orders": [order.client for order in exchange.sent],
        "answered": sorted(exchange.receipts),
        "replayed": sorted(client for client, receipt in exchange.receipts.items() if receipt.replayed),
        "missing": sorted(exchange.missing),
        "excluded": sorted(optimizer_state.excluded),
        "bytes_down": sum(len(order.payload) for order in exchange.sent),
        "incidents": exchange.incidents,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@dataclass(frozen=True)
class Flower:
    """Makes the engine; give it to :class:`~fedlama.Federation` as ``engine``.

    Args:
        channel: How the nodes are reached.
        patience: The rules of waiting.
        aggregation: ``"models"`` averages single models and measures the discrepancy from them, as the loop engine
            does to the last bit. ``"sums"`` uses only weighted sums over the clients and one scalar per client and
            layer, so that no single model need be seen.
        log: File that gets a line per round: who was asked, who answered, what went wrong, and how long it took.
    """

    channel: Channel
    patience: Patience = field(default_factory=Patience)
    aggregation: Aggregation = "models"
    log: Path | None = None

    def __call__(self, setup: EngineSetup) -> FlowerEngine:
        """Return an engine for a federation."""
        return FlowerEngine(setup, self)


class FlowerEngine:
    """Drives clients over a channel.

    Args:
        setup: The federation's fixed parts.
        options: The channel and the rules.

    Attributes:
        optimizer_state: All that the engine must remember between rounds, fit for a checkpoint.
        latest: The latest exchange.
        exchange_seconds: How long it took.
        roster: Who is where.
    """

    def __init__(self, setup: EngineSetup, options: Flower) -> None:
        if setup.solver.state_scope == "slot":
            raise ConfigError(
                "solver.state_scope is 'slot', but momentum cannot pass from one machine to another; choose 'cohort'"
            )
        self._setup, self._options = setup, options
        self._fingerprint = fingerprint(setup.layers, setup.codec)
        self.roster = Roster(options.channel, len(setup.clients))
        self._exchanger = Exchanger(options.channel, self.roster, options.patience, setup.layers, setup.codec)
        self.optimizer_state = EngineMemory(run=secrets.token_hex(8))
        self.latest = Exchange()
        self.exchange_seconds = 0.0
        self._plan: Plan | None = None
        self._evaluation: frozenset[str] = frozenset()
        self._scalars = False
        self._reference: Values = {}

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member's next order brings the complete model."""
        self.optimizer_state.start_cohort(clients)

    def announce(self, plan: Plan, evaluation: frozenset[str], scalars: bool) -> None:
        """Take in the round's plan."""
        self._plan, self._evaluation = plan, evaluation
        self._scalars = scalars or self._options.aggregation == "sums"
        if plan.cycle_start:
            self.optimizer_state.begin_cycle()

    def train(
        self, round_index: int, steps: int, frozen: frozenset[str], reference: Mapping[str, Tensor]
    ) -> list[float]:
        """Send the orders, wait for the replies; the losses are those of the clients that answered."""
        start, optimizer_state = time.perf_counter(), self.optimizer_state
        self._reference = dict(reference)
        orders = Orders(self._order(round_index, steps, frozen), self._setup.layers, optimizer_state, reference)
        self.latest = self._exchanger.run(round_index, optimizer_state.asked(), orders.of, optimizer_state.absent)
        optimizer_state.close(round_index, self.latest.receipts, self.latest.missing, self._options.patience.rejoin)
        for client in self.latest.receipts:
            optimizer_state.steps_done[client] = optimizer_state.steps_done.get(client, 0) + steps
        optimizer_state.absent = set(self.latest.missing)
        self.exchange_seconds = time.perf_counter() - start
        return [self.latest.receipts[client].loss for client in self._answered()]

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over who answered; the weights are re-scaled when somebody is missing."""
        receipts = self.latest.receipts
        shares = rescaled(self.optimizer_state.cohort, weights, receipts)
        received = {client: receipts[client].layers[layer.name] for client in self._answered()}
        if self._options.aggregation == "models" or layer.name in self._evaluation:
            average = from_models(layer, list(received.values()), shares)
        else:
            squares = [receipts[client].scalars[layer.name] for client in received]
            average = from_sums(layer, list(received.values()), shares, squares, self._reference)
        if not math.isfinite(average.discrepancy):
            raise self._divergence(layer, received)
        return average

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Let the layer go down with the next orders; frozen layers are put back by the clients themselves."""
        if self._plan is not None and layer.name not in self._plan.frozen:
            self.optimizer_state.versions[layer.name] = self._plan.round_index

    def client_values(self, client: int) -> Values:
        """Refuse: a client's model is its own.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"client {client} keeps its model to itself, so it cannot be looked at; set evaluate='global' and "
            "keep_client_models=False"
        )

    def state_dict(self) -> CohortState:
        """Return what the server remembers; the local models are on the clients' own disks."""
        return CohortState(
            tuple(self.optimizer_state.cohort),
            {},
            {},
            dict(self.optimizer_state.steps_done),
            self.optimizer_state.to_json(),
        )

    def load_state_dict(self, state: CohortState) -> None:
        """Take up what an engine of the same run remembered: the clients then know their states as this run's."""
        self.optimizer_state = EngineMemory.from_json(dict(state.facts))

    def travelled(self, planned: Sequence[Transfer]) -> list[Transfer]:
        """Return the round's shipments as they happened."""
        if self._options.log is not None:
            write_line(self._options.log, self.latest, self.optimizer_state, self.exchange_seconds)
        return downloads(self.latest.sent, self._setup.layers) + uploads(
            planned, tuple(self._answered()), scalars=self._scalars
        )

    def _order(self, round_index: int, steps: int, frozen: frozenset[str]) -> Order:
        """Return what all clients are asked alike."""
        layers = self._setup.layers
        return Order(
            run=self.optimizer_state.run,
            fingerprint=self._fingerprint,
            round_index=round_index,
            client=EVERYONE,
            expected=NEVER,
            steps=steps,
            steps_done=0,
            upload=indices(layers, self._plan.upload if self._plan else ()),
            evaluation=indices(layers, self._evaluation),
            frozen=indices(layers, frozen),
            scalars=self._scalars,
            payload=b"",
        )

    def _divergence(self, layer: Layer, received: Mapping[int, Values]) -> DivergenceError:
        round_index = self._plan.round_index if self._plan else 0
        for client, values in received.items():
            if any(not torch.isfinite(values[spec.name]).all() for spec in layer.tensors):
                return DivergenceError(round_index, client, layer.name, "its values are not finite")
        first = next(iter(received))
        return DivergenceError(round_index, first, layer.name, "the average overflows although every client is finite")

    def _answered(self) -> list[int]:
        return [client for client in self.optimizer_state.cohort if client in self.latest.receipts]
