"""One run, round by round: Algorithm 1 of the paper. Every engine and every strategy is driven by it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from torch import Tensor

from fedlama.choices.codecs import varies
from fedlama.choices.solvers.exchanged import exchanges_of
from fedlama.core.client_scores import ClientScores
from fedlama.core.layers import total_parameters
from fedlama.core.ledger import Ledger, cost_percent
from fedlama.core.plan import Plan
from fedlama.core.records import Best, Result, RoundRecord, Score, layer_records
from fedlama.data.sources import as_source
from fedlama.engines import ENGINES, Engine
from fedlama.engines.api import RoundOrder, RoundReply, Values, sent_bytes_of
from fedlama.engines.cohort.sizes import intra_op_threads, threads_for
from fedlama.engines.factors import check_factors
from fedlama.engines.transfers import TransferPlanner, with_sent_lengths
from fedlama.engines.wrappers import wrap
from fedlama.federation.callbacks import CallbackError, Callbacks, RoundCallback
from fedlama.federation.checks import check_federation, check_fit
from fedlama.federation.client_evaluation import ClientEvaluator, GlobalScores
from fedlama.federation.evaluation import Evaluator
from fedlama.federation.explosion import LossWatch
from fedlama.federation.senders import SenderChoice
from fedlama.federation.server import Server
from fedlama.federation.settings import FederationSettings
from fedlama.federation.state import Snapshot, load_state, take_state
from fedlama.federation.stopping import BestModel
from fedlama.federation.stored_description import Description


class Run:
    """The state of a federation between rounds, and the step from one round to the next.

    Args:
        federation: What to run.

    Attributes:
        federation: As given, with its layers and clients in the form in which they are used.
        clients: The data of all clients.
        layers: The layers that are sent.
        planner: Which clients are in the cohort, and which layers they lack.
        engine: Holds the clients' local models, and trains them.
        server: Holds the global model.
        choice: Which clients upload which layers, where not all upload all.
        evaluator: Scores the global model.
        client_evaluator: Scores models on the clients' own test sets.
        best: The best global model so far, by the validation set; None without one.
        stopped: Why the run ended before its budget was used up; None if it has not.
        state: The strategy's state.
        ledger: All transfers so far.
        round_index: The next round, from 0.
    """

    def __init__(self, federation: FederationSettings) -> None:
        self.layers, self.clients = federation.labelling(), as_source(federation.clients)
        self.federation = replace(federation, layers=federation.full_labelling(), clients=self.clients)
        check_federation(federation, self.layers, self.clients)
        setup = self.federation.engine_setup()
        check_fit(federation, copy.deepcopy(setup.model), self.clients)
        check_factors(setup)
        self.planner = TransferPlanner(
            self.layers,
            federation.sampler,
            len(self.clients),
            federation.seed,
            federation.budget.rounds,
            self.clients.samples,
            exchanges_of(federation.solver),
            setup.factor_layers,
        )
        self.server = Server(federation, setup)
        self.choice = SenderChoice(setup, self.planner)
        self.evaluator = Evaluator(federation, self.server)
        self.client_evaluator = ClientEvaluator(federation, self.clients, self.server)
        self.best = None if federation.validation_set is None else BestModel(federation.early_stopping)
        self.stopped: str | None = None
        self.state = federation.strategy.init(self.layers, federation.seed)
        self.ledger, self.round_index = Ledger(), 0
        self._plan = Plan(0, frozenset(), {}, cycle_start=True)  # of the round that is on its way
        self._threads = threads_for(setup.model, self.clients)
        make = ENGINES[federation.engine] if isinstance(federation.engine, str) else federation.engine
        self.engine: Engine = wrap(make(setup), setup, federation.availability, federation.aggregator)

    @property
    def cohort(self) -> tuple[int, ...]:
        """The active clients, in ascending order."""
        return self.planner.cohort

    @property
    def values(self) -> Values:
        """The global values, by tensor name."""
        return self.server.values

    def global_model(self) -> Mapping[str, Tensor]:
        """Return the global model as a state dict; what is frozen or local has its initial values."""
        return self.server.global_model()

    @cached_property
    def description(self) -> Description:
        """What decides this run, as plain JSON types; see :meth:`fedlama.Federation.describe`."""
        return self.federation.describe()

    def state_dict(self) -> Snapshot:
        """Return the state of the run, which has done at least one round.

        Returns:
            Everything that the next rounds depend on; a fresh run of the same federation that loads it continues bit
            for bit.

        Raises:
            ConfigError: A choice of the federation cannot be described.
        """
        return take_state(self, self.description)

    def load_state_dict(self, snapshot: Snapshot, before: Iterable[RoundRecord]) -> None:
        """Load a state into this run, which has done no round yet.

        Args:
            snapshot: What :meth:`state_dict` returned, in a run of the same federation; the engine may be another one.
            before: The records of the rounds done, from which the ledger is rebuilt.

        Raises:
            DataError: The snapshot is of another federation, or contradicts itself; this run is then as before.
        """
        load_state(self, snapshot, before)

    def to_end(
        self,
        callbacks: Sequence[RoundCallback],
        before: Iterable[RoundRecord] = (),
        again: Sequence[RoundCallback] = (),
    ) -> Result:
        """Run all rounds that are left, or until early stopping or a callback ends the run.

        Args:
            callbacks: Called as :class:`~fedlama.Callback` says.
            before: The records of the rounds before, when the run was restored from a checkpoint.
            again: Those of the callbacks that are called for the rounds before, too.

        Returns:
            The result of the whole run.

        Raises:
            CallbackError: A callback failed; it has the result so far.
        """
        records, calls, watch = list(before), Callbacks(callbacks), LossWatch(self.federation)
        try:
            calls.start(self)
            for record in records:
                watch.see(record, quiet=True)
                self._stop(Callbacks(again).round(record))
            self._stop(None)
            while self.round_index < self.federation.budget.rounds and self.stopped is None:
                records.append(self.advance())
                watch.see(records[-1])
                self._stop(calls.round(records[-1]))
            watch.end(records)
            result = self.result(records)
            calls.end(result)
        except CallbackError as error:
            error.result = self.result(records) if records else None
            raise
        return result

    def _stop(self, asked: str | None) -> None:
        """Note that the run ends, where early stopping or a callback wants it."""
        self.stopped = self.stopped or (None if self.best is None else self.best.stopped) or asked

    def result(self, records: Sequence[RoundRecord]) -> Result:
        """Return the result of the rounds done.

        Args:
            records: Their records.
        """
        strategy, cost, parameters = self.federation.strategy, self.ledger.cost(), total_parameters(self.layers)
        steps = max(self.round_index, 1) * strategy.local_steps
        best, reports, privacy = None, getattr(strategy, "figures", None), self.federation.privacy
        figures = reports(self.state, len(self.cohort), self.round_index) if reports else {}
        if privacy is not None:
            figures |= privacy.figures(self.round_index, len(self.clients), self.federation.sampler)
        if self.best is not None and self.best.score is not None and self.best.round_index is not None:
            best = Best(self.best.round_index, self.best.score, self.server.global_model(self.best.values))
        return Result(
            method=strategy.name,
            rounds=tuple(records),
            ledger=self.ledger,
            model=self.global_model(),
            score=next((record.score for record in reversed(records) if record.score), None),
            cost=cost,
            cost_percent=cost_percent(cost, parameters, steps, strategy.base_interval),
            seconds=sum(record.seconds + record.evaluation_seconds for record in records),
            best=best,
            stopped=self.stopped if self.round_index < self.federation.budget.rounds else None,
            figures=figures,
        )

    def advance(self) -> RoundRecord:
        """Run one round.

        Returns:
            Its record; `round_index` is then the next round's.
        """
        with intra_op_threads(self._threads):
            return self._round()

    def _local_model(self, client: int) -> Values:
        """Return a copy of one client's local model, without the extra tensors of the solver."""
        names = self.federation.model.state_dict().keys()
        return {name: value for name, value in self.engine.client_values(client).items() if name in names}

    def _own_scores(self, plan: Plan, reply: RoundReply) -> dict[int, Score]:
        """Return the scores of the models of the clients that answered; empty where they are not due."""
        if not self.client_evaluator.scores_own or not self.evaluator.is_due(plan):
            return {}
        if self.federation.personal is not None and not hasattr(self.engine, "own_scores"):
            return dict(reply.own_scores)  # of before the local steps
        return self.client_evaluator.own_models(self.engine, tuple(reply.losses))

    def _global_scores(self, plan: Plan, values: Values) -> GlobalScores:
        """Return the scores of the global model on the clients' own test sets; empty where they are not due."""
        if not self.client_evaluator.scores_global or not self.evaluator.is_due(plan):
            return GlobalScores()
        return self.client_evaluator.global_model(self.engine, values, plan.round_index)

    def _client_scores(
        self, plan: Plan, of_global: Mapping[int, Score], of_own: Mapping[int, Score]
    ) -> ClientScores | None:
        """Return the record of the scores of single clients; None where none are due."""
        evaluator = self.client_evaluator
        if not (evaluator.scores_own or evaluator.scores_global) or not self.evaluator.is_due(plan):
            return None
        return ClientScores(of_global, of_own)

    def client_steps(self, cohort: Sequence[int], round_index: int) -> dict[int, int]:
        """Return the clients that take another number of local steps than the strategy's, with that number.

        Args:
            cohort: The clients of a round.
            round_index: The round, from 0.
        """
        federation = self.federation
        return federation.local_work.steps(
            self.clients,
            cohort,
            federation.strategy.local_steps,
            round_index=round_index,
            seed=federation.seed,
        )

    def _round(self) -> RoundRecord:
        start = time.perf_counter()
        order = self.next_order()
        return self.close_round(order, self.engine.run_round(order), start)

    def next_order(self) -> RoundOrder:
        """Return the order of the next round, to be called once for each; :meth:`advance` does it by itself.

        Code that carries the messages of a round by itself calls it, and then :meth:`close_round`.
        """
        strategy, server = self.federation.strategy, self.server
        plan = self._plan = self.planner.close(strategy.plan(self.state, self.round_index))
        order = self.planner.order(
            plan,
            strategy.local_steps,
            dict(server.values),
            evaluation=self.evaluator.layers(plan),
            scalars=strategy.measures_discrepancy,
            coded=server.downloads.coded,
            scores_own=self.client_evaluator.scores_own and self.evaluator.is_due(plan),
        )
        client_steps = self.client_steps(order.cohort, self.round_index)
        return replace(order, weights=server.weights(order.cohort), client_steps=client_steps)

    def close_round(self, order: RoundOrder, reply: RoundReply, start: float) -> RoundRecord:
        """Synchronise the layers that are due, evaluate, and return the round's record.

        Args:
            order: What :meth:`next_order` returned.
            reply: What came of it.
            start: When the round began, by `time.perf_counter`.
        """
        with intra_op_threads(self._threads):
            return self._closed(order, reply, start)

    def _closed(self, order: RoundOrder, reply: RoundReply, start: float) -> RoundRecord:
        strategy, engine, server, plan = self.federation.strategy, self.engine, self.server, self._plan
        self.planner.learn(reply.losses)
        senders, asked = self.choice.of(order, engine, tuple(reply.losses))
        replied = time.perf_counter()
        own_scores = self._own_scores(plan, reply)
        scored = time.perf_counter()
        void = not reply.losses  # too few clients answered for an average
        plan = plan.void() if void else plan
        steps = {client: order.steps_of(client) for client in reply.losses} if server.needs_steps else {}
        due = order.plan.void() if void else order.plan  # with what the solver exchanges beside the model
        statistics = server.synchronise(due, engine, order.cohort, steps, senders)
        loss = math.nan if void else math.fsum(reply.losses.values()) / len(reply.losses)
        if not void:
            learn = getattr(strategy, "learn", lambda state, _: state)  # a user's class may not inherit the default
            self.state = strategy.fold(learn(self.state, loss), plan, statistics)
        trained = time.perf_counter()
        evaluation = self.evaluator.evaluate(plan, engine, order.cohort, void=void)
        if self.best is not None and evaluation.validation is not None:
            self.best.see(plan.round_index, evaluation.validation, evaluation.values)
        global_scores = self._global_scores(plan, evaluation.values)
        evaluated = time.perf_counter()
        uploads = (*reply.transfers, *asked)
        if varies(self.federation.codec):
            uploads = with_sent_lengths(uploads, sent_bytes_of(engine))
        sent, active = (*uploads, *global_scores.transfers), order.cohort
        if getattr(strategy, "is_central", False):  # the data and the model are in one place
            sent, active = (), ()
        self.ledger.extend(sent)
        self.round_index += 1
        kept = order.cohort if self.federation.keep_client_models else ()
        return RoundRecord(
            round_index=plan.round_index,
            local_steps=self.round_index * strategy.local_steps,
            cohort=active,
            loss=loss,
            layers=layer_records(self.layers, plan, strategy.local_steps, statistics, sent),
            transfers=sent,
            score=evaluation.score,
            validation=evaluation.validation,
            client_scores=self._client_scores(plan, global_scores.scores, own_scores),
            seconds=trained - scored + replied - start,
            evaluation_seconds=evaluated - trained + scored - replied,
            client_steps=order.client_steps,
            client_models={client: self._local_model(client) for client in kept},
        )
