"""The engine whose clients run on other machines: a round becomes requests to them and replies from them.

=================  ====================================================================================
the run calls      this engine
=================  ====================================================================================
start_cohort       sends the full model with the members' next request
run_round          sends requests with the layers that each client lacks, receives and checks the
                   replies, and returns what was really sent and received
average            averages the replies
overwrite          sends the layer with the next request of every client that lacks it
own_scores         returns the scores that came with the replies
score_global       sends the global model to all clients with a test set, and returns their scores
=================  ====================================================================================

:class:`~fedlama.choices.availability.membership.Membership` finds the layers that a client lacks, in simulations too.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fedlama.choices.availability.rules import rescaled
from fedlama.choices.codecs import CodecState, shares_state
from fedlama.core.averaging import squared_norm, wide_dtype
from fedlama.core.layers import Layer, named_layers
from fedlama.core.ledger import Transfer
from fedlama.core.scores import Score
from fedlama.core.validation import refuse
from fedlama.data.sources import as_source
from fedlama.engines.api import Average, CohortState, EngineSetup, RoundOrder, RoundReply, Values
from fedlama.engines.divergence import average_divergence
from fedlama.engines.uploads import sender_states, stacked_states
from fedlama.errors import ConfigError, FedlamaError, MissingExtraError
from fedlama.flower.protocol import EVERYONE, NEVER, Channel, TrainRequest, fingerprint, model_digest, next_attempt
from fedlama.flower.secure.agreement import SecureRules
from fedlama.flower.secure.fit import choice_problems, codec_problems, score_problems, sender_problems, size_problems
from fedlama.flower.secure.fixed_point import FixedPoint
from fedlama.flower.server.aggregation import Aggregation, from_models, from_sums, summed
from fedlama.flower.server.known_clients import KnownClients
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.replies import Held, uploads
from fedlama.flower.server.requests import EngineState, RequestWriter, downloads, indices
from fedlama.flower.server.round import RoundPolicy, RoundResult, RoundRunner
from fedlama.flower.server.scores import ScoreCollector
from fedlama.flower.server.second import choices, chosen_requests, merged, senders_of

if TYPE_CHECKING:
    from fedlama.federation.settings import FederationSettings
    from fedlama.flower.server.secure import SecureRound, SecureRounds

FINAL = "final.json"
"""Name of the file in a run folder with the digest of the final model, and the clients that have kept it."""


@dataclass(frozen=True)
class Flower:
    """Makes the engine; give it to :class:`~fedlama.Federation` as ``engine``.

    Args:
        channel: How the nodes are reached.
        policy: How long a round waits, and for how many replies.
        aggregation: ``"models"`` averages single models and measures the discrepancy from them, bit for bit as the loop
            engine does. ``"sums"`` uses only weighted sums over the clients in fixed point and one scalar per client
            and layer, so the server needs no single model. ``"secure"`` computes the same sums of masked uploads, so it
            sees none.
        log: File that gets one line per round: requests, replies, problems, norms of updates and seconds.
        known: Which node may serve which client, and which clients are banned: these are never asked. Weights are
            rescaled over the others, of which `min_replies` is a share.
        went_back: Whether the run was taken back to an earlier round, so that what the clients have trained since does
            not count: they start again from the full model.
        secure: How many clients must stay for the masks to be taken out, with ``aggregation="secure"``.
    """

    channel: Channel
    policy: RoundPolicy = field(default_factory=RoundPolicy)
    aggregation: Aggregation = "models"
    log: Path | None = None
    known: KnownClients = field(default_factory=KnownClients)
    went_back: bool = False
    secure: SecureRules = field(default_factory=SecureRules)

    def __call__(self, setup: EngineSetup) -> FlowerEngine:
        """Return an engine for a federation."""
        return FlowerEngine(setup, self)

    def misfits(self, federation: FederationSettings) -> list[str]:
        """Return which choices of a federation do not go with the aggregation, one sentence each.

        Args:
            federation: The federation.
        """
        if self.aggregation != "secure":
            return []
        choices = federation.codec, federation.strategy, federation.sampler
        problems = choice_problems(*choices, federation.weighting, federation.evaluate_clients)
        return problems + size_problems(federation.sampler.cohort_size(len(as_source(federation.clients))))


class FlowerEngine:
    """Trains a cohort of clients that are reached over a channel.

    Args:
        setup: The federation's fixed parts.
        options: The channel and the rules.

    Attributes:
        state: What the server remembers of its clients between rounds.
        latest: The result of the latest round.
        registry: Which node serves which client.
        sender_states: What the server keeps of the clients' uploads, by client and tensor, where the codec lets both
            sides keep a state.
    """

    holds_clients: ClassVar[bool] = False
    ends_rounds: ClassVar[bool] = True
    personalises: ClassVar[bool] = True
    factors: ClassVar[bool] = True
    remedy: ClassVar[str] = "set aggregation='models', or leave it out"

    def __init__(self, setup: EngineSetup, options: Flower) -> None:
        if setup.solver.state_scope == "slot":
            raise ConfigError(
                "solver.state_scope is 'slot', but momentum cannot move from one machine to another; choose 'cohort'"
            )
        self._setup, self._options = setup, options
        self._fingerprint = fingerprint(setup.sent_layers, setup.codec, setup.privacy, setup.personal)
        self.registry = NodeRegistry(options.channel, len(setup.clients), options.known)
        self._runner = RoundRunner(options.channel, self.registry, options.policy, setup.sent_layers, setup.codec)
        self.state = EngineState(run=secrets.token_hex(8))
        self.latest = RoundResult()
        self.sender_states: dict[int, dict[str, CodecState]] = {}
        self._scores = ScoreCollector(options.channel, self.registry, options.policy, setup.layers, self._fingerprint)
        self._secure = self._secure_rounds() if options.aggregation == "secure" else None
        self._totals: dict[str, FixedPoint] = {}  # of the latest round, under secure aggregation
        self._order: RoundOrder | None = None  # of the latest round
        self._line: dict[str, Any] = {}  # what was logged of it

    @property
    def shows_models(self) -> bool:
        """Whether :meth:`received` may be asked for, by an aggregator."""
        return self._options.aggregation == "models"

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; the next request to each member carries the complete model."""
        self.state.start_cohort(clients)
        self.sender_states = {}

    def run_round(self, order: RoundOrder) -> RoundReply:
        """Send the requests and wait for the replies; return the losses of the clients that replied."""
        start, round_index = time.perf_counter(), order.plan.round_index
        asked, writer = self.opened(order)
        if not asked:
            raise FedlamaError(
                f"round {round_index}: all clients of the cohort ({', '.join(map(str, self.state.cohort))}) are banned "
                "or wait for the next cycle; ban fewer, or let more clients take part"
            )
        if self._secure is not None:
            done = self._secure_round(self._secure, order, asked, writer)
            return self.closed(done.result, time.perf_counter() - start, done)
        held = Held(order.values, self.sender_states)
        result = self._runner.run(round_index, asked, writer.request, self.state.absent, held)
        return self.closed(result, time.perf_counter() - start)

    def opened(self, order: RoundOrder) -> tuple[list[int], RequestWriter]:
        """Begin a round: return the clients to ask, and what writes their requests.

        Args:
            order: The round's order.
        """
        state = self.state
        if order.new_cohort:
            self.start_cohort(order.cohort, order.values)
        if order.plan.cycle_start:
            state.begin_cycle()
        self._order = order = replace(order, scalars=order.scalars or self._options.aggregation != "models")
        setup = self._setup
        writer = RequestWriter(self._common_request(order), setup.sent_layers, setup.codec, state, order)
        return [client for client in state.asked() if client not in self._options.known.banned], writer

    def closed(self, result: RoundResult, seconds: float, secure: SecureRound | None = None) -> RoundReply:
        """End the round that was opened last: remember who replied, log it, and return what happened.

        Args:
            result: The round's requests and replies.
            seconds: How long the messages took.
            secure: What secure aggregation sent, where the round had it.
        """
        state, order, self.latest = self.state, self._order, result
        assert order is not None  # a round was opened
        round_index = order.plan.round_index
        state.close(round_index, result.updates, result.missing, self._options.policy.rejoin)
        for client in result.updates:
            state.steps_done[client] = state.steps_done.get(client, 0) + order.steps_of(client)
        for client, update in result.updates.items():
            if update.states:
                self.sender_states.setdefault(client, {}).update(update.states)
        state.absent = set(result.missing)
        self._line = log_line(result, state, seconds) | self._audit(order)
        if secure is not None:
            self._line["secure"] = secure.facts
        self._log()
        updates = {client: result.updates[client] for client in self._answered()}
        down = downloads(result.sent, self._setup.sent_layers)
        scalars = order.scalars and secure is None and order.senders is not None
        up = uploads(round_index, updates, scalars=scalars)
        losses = {client: update.loss for client, update in updates.items()}
        return RoundReply(losses, (*down, *up, *(secure.transfers if secure else ())))

    def _secure_round(
        self, rounds: SecureRounds, order: RoundOrder, asked: Sequence[int], writer: RequestWriter
    ) -> SecureRound:
        """Carry a round's messages under secure aggregation.

        Raises:
            ConfigError: The round would show something of single clients.
        """
        from fedlama.flower.server.secure import RoundWork

        refuse(
            size_problems(len(order.cohort))
            + score_problems(shown=order.scores_own)
            + sender_problems(chosen=order.senders is None or bool(order.senders))
        )
        weights = dict(zip(order.cohort, order.weights, strict=True))
        work = RoundWork(
            order.plan.round_index,
            asked,
            weights,
            writer.request,
            frozenset(self.state.absent),
            order.values,
            order.new_cohort,
            order.plan.cycle_start,
        )
        done = rounds.run(work)
        self._totals = done.totals
        return done

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the clients that replied; their weights are rescaled when a client is missing."""
        updates, cohort = self.latest.updates, self.state.cohort
        received = {client: updates[client].layers.get(layer.name, {}) for client in self._senders(layer)}
        if self._order is None or self._options.aggregation == "models":
            shares = zip(self._answered(), rescaled(cohort, weights, updates), strict=True)
            average = from_models(layer, list(received.values()), [share for c, share in shares if c in received])
        else:
            parts = [weight for client, weight in zip(cohort, weights, strict=True) if client in received]
            average = from_sums(layer, self._sums(layer, weights, parts), parts, self._order.values)
        if not math.isfinite(average.discrepancy):
            round_index = self._order.plan.round_index if self._order else 0
            raise average_divergence(layer, round_index, received.items(), self._setup.codec)
        return average

    def _sums(self, layer: Layer, weights: Sequence[float], parts: Sequence[float]) -> FixedPoint:
        """Return the sum of the clients' weighted changes of a layer.

        Args:
            layer: The layer.
            weights: p_i of the cohort's clients.
            parts: p_i of those that replied with it.
        """
        order, updates = self._order, [self.latest.updates[client] for client in self._senders(layer)]
        if self._secure is None:
            squares = [update.scalars.get(layer.name, 0.0) for update in updates]
            values = order.values if order else {}
            return summed(layer, [update.layers[layer.name] for update in updates], parts, squares, values)
        if order is None or tuple(weights) != order.weights:
            raise ConfigError(
                "aggregation is 'secure', but the weights depend on which clients answer; set weighting='samples' or "
                "'equal'"
            )
        return self._totals[layer.name]

    def received(self, layer: Layer) -> Values:
        """Return a layer of every client that replied, (clients, ...) by tensor name."""
        updates = [self.latest.updates[client].layers[layer.name] for client in self._senders(layer)]
        return {spec.name: torch.stack([values[spec.name] for values in updates]) for spec in layer.tensors}

    def distances(self) -> dict[str, list[float]]:
        """Return how far each client moved in each layer, as the clients that answered have reported it."""
        reports = [self.latest.updates[client].distances for client in self._answered()]
        return {name: [report[name] for report in reports] for name in (reports[0] if reports else ())}

    def ask(self, senders: Mapping[str, frozenset[int]]) -> tuple[dict[str, frozenset[int]], tuple[Transfer, ...]]:
        """Ask the clients that reported for the layers that were chosen, and take these in.

        Args:
            senders: The clients that upload a layer, for the layers that not all upload.

        Returns:
            The clients that did, for the layers that not all who answered sent, and what moved.
        """
        assert self._order is not None  # a round was opened
        self._order = order = replace(self._order, senders=senders)
        asked = chosen_requests(self._common_request(order), order, self._setup.sent_layers, self._answered())
        held = Held(order.values, self.sender_states)
        result = self._runner.run(order.plan.round_index, list(asked), lambda client, _: asked[client], (), held)
        for client, update in result.updates.items():
            self.latest.updates[client] = merged(self.latest.updates[client], update)
        self._line |= self._audit(order) | {"incidents": [*self._line["incidents"], *result.incidents]}
        self._log()
        arrived = {client: result.updates[client] for client in asked if client in result.updates}
        up = uploads(order.plan.round_index, arrived, scalars=order.scalars)
        return senders_of(order, asked, arrived), (*choices(result.sent, self._setup.sent_layers), *up)

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Send the layer with the next requests; clients restore frozen layers by themselves."""
        if self._order is not None and layer.name not in self._order.plan.frozen:
            self.state.versions[layer.name] = self._order.plan.round_index

    def own_scores(self) -> dict[int, Score]:
        """Return the scores of the clients' own models on their own test sets, as they came with the replies."""
        received = {client: self.latest.updates[client].score for client in self._answered()}
        return {client: score for client, score in received.items() if score is not None}

    def score_global(self, values: Values, round_index: int) -> tuple[dict[int, Score], list[tuple[int, ...]]]:
        """Let the clients score the global model, each on its own test set.

        Args:
            values: The global values, by tensor name.
            round_index: The round, from 0, after which they are scored.

        Returns:
            The scores by client, and the clients that were sent the model, once more for each time it was repeated.
        """
        start = time.perf_counter()
        refuse(score_problems(shown=self._secure is not None))
        result = self._scores.collect(values, round_index)
        more = {"scored": list(result.scores), "scoring_seconds": time.perf_counter() - start}
        self._line |= {**more, "incidents": [*self._line.get("incidents", []), *result.incidents]}
        self._log()
        return result.scores, result.sent

    def offer_final(self, values: Values, round_index: int) -> None:
        """Send the final model to all clients that are online, and note beside the log who has kept it.

        It never fails: the run is complete.

        Args:
            values: The global values, by tensor name.
            round_index: The latest round, from 0.
        """
        sent = {spec.name: values[spec.name] for layer in self._setup.layers for spec in layer.tensors}
        digest = model_digest(sent)
        result = self._scores.collect(sent, round_index, digest)
        if self._options.log is not None:
            record = {"digest": digest, "kept": sorted(result.kept), "incidents": result.incidents}
            self._options.log.with_name(FINAL).write_text(json.dumps(record), encoding="utf-8")

    def client_values(self, client: int) -> Values:
        """Refuse: a client's model stays on its machine.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(
            f"the model of client {client} stays on its own machine; set evaluate='global' and keep_client_models=False"
        )

    def state_dict(self) -> CohortState:
        """Return what the server remembers; the local models are in the clients' own files."""
        state = self.state
        cohort, codec_state = tuple(state.cohort), dict[str, Values]()
        if shares_state(self._setup.codec):
            codec_state = stacked_states(self._setup, [self.sender_states.get(client, {}) for client in cohort])
        return CohortState(cohort, {}, {}, dict(state.steps_done), state.to_json(), codec_state)

    def load_state_dict(self, state: CohortState) -> None:
        """Restore what an engine of the same run remembered; the clients then recognise their files as this run's."""
        self.state = EngineState.from_json(dict(state.facts))
        self.sender_states = {client: sender_states(state, row) for row, client in enumerate(state.clients)}
        if self._options.went_back:
            self.state.run = next_attempt(self.state.run)
            self.state.answered = dict.fromkeys(self.state.cohort, NEVER)

    def sent_bytes(self) -> dict[tuple[str, int], int]:
        """Return nothing: the transfers have the lengths of the messages that arrived."""
        return {}

    def _secure_rounds(self) -> SecureRounds:
        """Return what runs rounds under secure aggregation.

        Raises:
            ConfigError: The federation shows something of single clients, or is too small.
            MissingExtraError: The library of ciphers is not installed.
        """
        try:
            from fedlama.flower.server.exchange import Exchange
            from fedlama.flower.server.secure import SecureRounds
        except ImportError as error:
            raise MissingExtraError("cryptography", "flower") from error
        setup, options = self._setup, self._options
        refuse(codec_problems(setup.codec) + size_problems(len(setup.clients) - len(options.known.banned)))
        exchange = Exchange(options.channel, self.registry, options.policy)
        return SecureRounds(exchange, self._runner, options.secure, setup.sent_layers)

    def _common_request(self, order: RoundOrder) -> TrainRequest:
        """Return the part of the round's requests that is the same for all clients."""
        layers = self._setup.sent_layers
        return TrainRequest(
            run=self.state.run,
            fingerprint=self._fingerprint,
            round_index=order.plan.round_index,
            client=EVERYONE,
            answered_round=NEVER,
            steps=order.steps,
            steps_done=0,
            upload=indices(layers, order.plan.upload),
            evaluation=indices(layers, order.evaluation),
            frozen=indices(layers, order.plan.frozen),
            scalars=order.scalars,
            payload=b"",
            seed=self._setup.seed,
            score=order.scores_own,
            stage="distances" if order.senders is None else "whole",
        )

    def _audit(self, order: RoundOrder) -> dict[str, Any]:
        """Return what a person looks at to find a client that spoils the model: how far each one's update goes."""
        facts: dict[str, Any] = {}
        if self._options.known.banned:
            facts["banned"] = sorted(self._options.known.banned)
        if self.shows_models:
            facts["norms"] = {client: self._update_norm(client, order) for client in self._answered()}
        return facts

    def _update_norm(self, client: int, order: RoundOrder) -> float:
        """Return the norm of a client's update in the layers that are due, relative to the global values before."""
        received, total = self.latest.updates[client].layers, 0.0
        for layer in named_layers(self._setup.layers, order.layers_of(client) & received.keys()):
            for spec in layer.tensors:
                if spec.trainable:
                    wide = wide_dtype(spec.dtype)
                    change = received[layer.name][spec.name].to(wide) - order.values[spec.name].to(wide)
                    total += squared_norm(torch.where(torch.isnan(change), 0.0, change))  # NaN was not sent
        return math.sqrt(total)

    def _answered(self) -> list[int]:
        return [client for client in self.state.cohort if client in self.latest.updates]

    def _senders(self, layer: Layer) -> list[int]:
        """Return the clients that replied with a layer; under secure aggregation, all that replied."""
        updates = self.latest.updates
        return [c for c in self._answered() if updates[c].masked or layer.name in updates[c].layers]

    def _log(self) -> None:
        """Append the round's line to the log; of two lines of one round, the later one counts."""
        if self._options.log is not None:
            self._options.log.parent.mkdir(parents=True, exist_ok=True)
            with self._options.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(self._line) + "\n")


def log_line(result: RoundResult, state: EngineState, seconds: float) -> dict[str, Any]:
    """Return a round's line in the log of the network.

    Args:
        result: The round's requests and replies.
        state: The engine's state after the round.
        seconds: How long the round's messages took.
    """
    rounds = [request.round_index for request in result.sent]
    return {
        "round": rounds[0] if rounds else None,
        "ended": time.time(),
        "seconds": seconds,
        "cohort": state.cohort,
        "orders": [request.client for request in result.sent],  # an old name, which run folders keep
        "answered": sorted(result.updates),
        "replayed": sorted(client for client, update in result.updates.items() if update.replayed),
        "missing": sorted(result.missing),
        "excluded": sorted(state.excluded),
        "bytes_down": sum(len(request.payload) for request in result.sent),
        "incidents": result.incidents,
    }
