"""The one loop: plan, train, synchronise, fold, and keep the ledger. Every engine is driven by it."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from fedlama.choices.aggregators import Aggregator, Mean
from fedlama.choices.availability import Always, Availability
from fedlama.choices.codecs import Codec, Float32
from fedlama.choices.samplers import AllClients, Sampler
from fedlama.choices.server_optimizers import Replace, ServerOptimizer, ServerOptimizerState
from fedlama.choices.solvers import SGD, LocalSolver
from fedlama.choices.strategies import LayerStatistics, Plan, Strategy
from fedlama.core.layers import Layer, Layers, by_tensor, named_layers, total_parameters
from fedlama.core.ledger import Direction, Ledger, Transfer, cost_percent
from fedlama.core.losses import Objective, cross_entropy
from fedlama.core.records import LayerRecord, Result, RoundRecord
from fedlama.data.clients import Batch, ClientData, ClientSource, as_source
from fedlama.engines import ENGINES, Engine, EngineSetup
from fedlama.engines.api import Average, Values
from fedlama.engines.cohort.norms import squared_norms
from fedlama.engines.cohort.sizes import intra_op_threads, is_large
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.transfers import TransferPlanner
from fedlama.engines.wrappers import wrap
from fedlama.errors import ConfigError, DivergenceError
from fedlama.federation.checks import check_federation, check_fit
from fedlama.federation.evaluation import Score, TestSet

Weighting = Literal["samples", "equal"]


class Callback(Protocol):
    """What is not the algorithm: progress, files, plots, tracking."""

    def on_round(self, record: RoundRecord) -> None:
        """Called after each round."""


@dataclass(frozen=True)
class Federation:
    """Five choices, a model, the clients' data and a budget: everything that determines a run.

    Args:
        model: Any module; its current weights are the initial ones. It is copied, never changed.
        clients: A :class:`~fedlama.data.clients.ClientSource`, a list of
            :class:`~fedlama.data.clients.ClientData`, or a list of iterables of ready batches.
        strategy: When each layer travels.
        local_steps: Budget K: local iterations of each active client over the whole run.
        solver: How a client trains.
        sampler: Who takes part.
        availability: Who of them answers in a round, and what becomes of those who do not.
        codec: In how many bits an upload travels.
        server_optimizer: How an average enters the global model.
        aggregator: How the clients' values of a layer become one, when not all clients are trusted.
        layers: The labelling; by default every parameter tensor is a layer.
        weighting: Client weights p_i: ``"samples"`` for n_i / n over the cohort, ``"equal"`` for 1 / m.
        test_set: Held-out data for the aggregated global model.
        evaluate_every: Local steps between two evaluations, rounded up to whole rounds; by default a cycle. The last
            round is always evaluated.
        evaluate: ``"global"`` scores the average of all clients (layers that are not due are averaged for it, and that
            traffic is booked apart). ``"best_client"`` scores every fourth slot's local model and takes the best, as
            the authors' program does; it is optimistic.
        objective: The loss.
        seed: Decides every random draw but the initial weights.
        engine: Name of the engine, or one with options, such as ``Stacked(chunk=16)``.
        device: Where to compute.
        keep_client_models: Keep every client's local model in the round records.
    """

    model: nn.Module
    clients: ClientSource | Sequence[ClientData] | Sequence[Iterable[Batch]]
    strategy: Strategy[Any]
    local_steps: int
    solver: LocalSolver = field(default_factory=lambda: SGD(learning_rate=0.1))
    sampler: Sampler = field(default_factory=AllClients)
    availability: Availability = field(default_factory=Always)
    codec: Codec = field(default_factory=Float32)
    server_optimizer: ServerOptimizer = field(default_factory=Replace)
    aggregator: Aggregator = field(default_factory=Mean)
    layers: Layers | None = None
    weighting: Weighting = "samples"
    test_set: TestSet | None = None
    evaluate_every: int | None = None
    evaluate: Literal["global", "best_client"] = "global"
    objective: Objective = cross_entropy
    seed: int = 0
    engine: str | Callable[[EngineSetup], Engine] = "loop"
    device: str = "cpu"
    keep_client_models: bool = False

    @property
    def rounds(self) -> int:
        """Number of rounds that the budget buys."""
        return self.local_steps // self.strategy.local_steps

    def engine_setup(self) -> EngineSetup:
        """Return the parts that an engine needs, with a copy of the model."""
        device = torch.device(self.device)
        return EngineSetup(
            model=copy.deepcopy(self.model).to(device),
            layers=self.layers if self.layers is not None else by_tensor(self.model),
            clients=as_source(self.clients),
            solver=self.solver,
            codec=self.codec,
            objective=self.objective,
            seed=self.seed,
            device=device,
        )

    def run(self, callbacks: Iterable[Callback] = ()) -> Result:
        """Train to the end of the budget.

        Args:
            callbacks: Told of every round.

        Returns:
            The records, the ledger and the final model.

        Raises:
            ConfigError: The choices do not fit together.
            DataError: The data cannot be used.
            DivergenceError: A client left the finite numbers; the callbacks have seen all rounds before that.
        """
        return Run(self).to_end(list(callbacks))


class Run:
    """The state of a federation between rounds, and the step from one to the next.

    Args:
        federation: What to run.
    """

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.clients = as_source(federation.clients)
        self.layers = federation.layers if federation.layers is not None else by_tensor(federation.model)
        check_federation(federation, self.layers, self.clients)
        setup = replace(federation, layers=self.layers, clients=self.clients).engine_setup()
        self._model = copy.deepcopy(setup.model)
        check_fit(federation, copy.deepcopy(self._model), self.clients)
        tensors = dict(self._model.state_dict(keep_vars=True))
        names = [spec.name for layer in self.layers for spec in layer.tensors]
        self.values: Values = {name: tensors[name].detach().clone() for name in names}
        resident = [name for name, _ in self._model.named_buffers() if name in tensors and name not in self.values]
        self._resident: Values = {name: tensors[name].detach().clone() for name in resident}  # never travel
        self.round_index = 0
        # A second thread inside the kernels of a small model only waits, for long where the machine is busy.
        self._threads = torch.get_num_threads() if is_large(self._model, self.clients) else 1
        self.planner = TransferPlanner(
            self.layers, federation.sampler, len(self.clients), federation.seed, federation.rounds
        )
        self.ledger = Ledger()
        self.state = federation.strategy.init(self.layers, federation.seed)
        chosen = federation.engine
        engine = (ENGINES[chosen] if isinstance(chosen, str) else chosen)(setup)
        self.engine: Engine = wrap(engine, setup, federation.availability, federation.aggregator)
        self.server_optimizer_state: dict[str, ServerOptimizerState] = {}
        self.last_update: Values = {}  # what recycling adds again
        self._helpers = WorkerThreads(cores())  # for passes over large layers
        self._refused: dict[str, tuple[int, ...]] = {}  # whom a guard left out in the latest round, by layer

    def to_end(self, callbacks: Sequence[Callback], before: Iterable[RoundRecord] = ()) -> Result:
        """Run all rounds that are left.

        Args:
            callbacks: Told of every round.
            before: The records of the rounds before, when the run was restored from a checkpoint.

        Returns:
            The result of the whole run.
        """
        records = list(before)
        while self.round_index < self.federation.rounds:
            records.append(self.advance())
            for callback in callbacks:
                callback.on_round(records[-1])
        federation, cost = self.federation, self.ledger.cost()
        return Result(
            method=federation.strategy.name,
            rounds=tuple(records),
            ledger=self.ledger,
            model=self.global_model(),
            score=next((record.score for record in reversed(records) if record.score), None),
            cost=cost,
            cost_percent=cost_percent(
                cost, total_parameters(self.layers), federation.local_steps, federation.strategy.base_interval
            ),
            seconds=sum(record.seconds + record.evaluation_seconds for record in records),
        )

    def advance(self) -> RoundRecord:
        """Run one round.

        Returns:
            Its record; the round counter then stands at the next one.
        """
        with intra_op_threads(self._threads):
            return self._round()

    def _round(self) -> RoundRecord:
        start = time.perf_counter()
        strategy, round_index = self.federation.strategy, self.round_index
        plan = self.planner.close(strategy.plan(self.state, round_index))
        order = self.planner.order(
            plan,
            strategy.local_steps,
            dict(self.values),
            evaluation=self._evaluated(plan),
            scalars=strategy.measures_discrepancy,
        )
        reply = self.engine.run_round(order)
        plan = plan if reply.losses else plan.void()
        statistics = self._synchronise(plan)
        self.state = strategy.fold(self.state, plan, statistics) if reply.losses else self.state
        trained = time.perf_counter()
        score = self._evaluate(plan, void=not reply.losses)
        self.round_index += 1
        self.ledger.extend(reply.transfers)
        return RoundRecord(
            round_index=round_index,
            local_steps=(round_index + 1) * strategy.local_steps,
            cohort=self.cohort,
            loss=math.fsum(reply.losses.values()) / len(reply.losses) if reply.losses else math.nan,
            layers=self._layer_records(plan, statistics, reply.transfers),
            transfers=reply.transfers,
            score=score,
            seconds=trained - start,
            evaluation_seconds=time.perf_counter() - trained,
            client_models={client: self.engine.client_values(client) for client in self.cohort}
            if self.federation.keep_client_models
            else {},
        )

    @property
    def cohort(self) -> tuple[int, ...]:
        """The active clients, in ascending order."""
        return self.planner.cohort

    def global_model(self) -> Mapping[str, Tensor]:
        """Return the global model as a state dict, frozen parameters and local buffers as they were given."""
        self._model.load_state_dict(self._resident | self.values, strict=False)  # so that tied parameters stay tied
        return {name: value.detach().clone() for name, value in self._model.state_dict().items()}

    def weights(self) -> list[float]:
        """Return p_i of the cohort's clients."""
        if self.federation.weighting == "equal":
            return [1.0 / len(self.cohort)] * len(self.cohort)
        samples = [self.clients.samples(client) for client in self.cohort]
        total = sum(samples)
        return [count / total for count in samples]

    def _synchronise(self, plan: Plan) -> dict[str, LayerStatistics]:
        """Average the due layers, move the recycled ones, and write both back to the cohort."""
        weights, statistics = self.weights(), {}
        self._refused = {}
        for layer in named_layers(self.layers, plan.upload):
            average = self.engine.average(layer, weights)
            if not math.isfinite(average.discrepancy):
                raise self._divergence(layer)
            statistics[layer.name] = self._enter(layer, average)
            self._refused[layer.name] = average.refused
        for layer in named_layers(self.layers, plan.recycle):
            self._set(layer, {spec.name: self._recycled(spec.name) for spec in layer.tensors})
        for layer in named_layers(self.layers, plan.frozen):
            if any(not spec.trainable for spec in layer.tensors):
                self.engine.overwrite(layer, self.values)  # statistics move in a forward pass though nothing is trained
        return statistics

    def _enter(self, layer: Layer, average: Average) -> LayerStatistics:
        """Apply the server step to a layer's average."""
        new, update, size = {}, 0.0, 0.0
        for spec in layer.tensors:
            previous = self.values[spec.name]
            new[spec.name] = average.values[spec.name]
            if spec.trainable:
                optimizer_state = self.server_optimizer_state.setdefault(spec.name, {})
                new[spec.name] = self.federation.server_optimizer.apply(previous, new[spec.name], optimizer_state)
                moved, held = squared_norms(new[spec.name], previous, self._helpers)
                update, size = update + moved, size + held
            if self.federation.strategy.recycles:
                self.last_update[spec.name] = new[spec.name] - previous
        self._set(layer, new)
        return LayerStatistics(average.discrepancy, math.sqrt(update), math.sqrt(size))

    def _recycled(self, name: str) -> Tensor:
        update = self.last_update.get(name)
        return self.values[name] if update is None else self.values[name] + update

    def _set(self, layer: Layer, values: Values) -> None:
        self.values.update(values)
        self.engine.overwrite(layer, values)

    def _evaluate(self, plan: Plan, *, void: bool) -> Score | None:
        """Score the global model when it is time to."""
        federation = self.federation
        if federation.test_set is None or not self._evaluation_due(plan.round_index):
            return None
        if federation.evaluate == "best_client":
            scores = [self._score(self.engine.client_values(client)) for client in self.cohort[::4]]
            return max(scores, key=lambda score: score.accuracy)
        if void:
            return self._score(self.values)
        weights, held = self.weights(), named_layers(self.layers, plan.held(self.layers))
        consolidated = {k: v for layer in held for k, v in self.engine.average(layer, weights).values.items()}
        return self._score(self.values | consolidated)

    def _evaluated(self, plan: Plan) -> frozenset[str]:
        """Name the layers that come up for an evaluation alone."""
        due = self.federation.test_set is not None and self._evaluation_due(plan.round_index)
        return plan.held(self.layers) if due and self.federation.evaluate == "global" else frozenset()

    def _evaluation_due(self, round_index: int) -> bool:
        step = self.federation.strategy.local_steps
        every = self.federation.evaluate_every
        rounds = self.federation.strategy.cycle_rounds if every is None else -(-every // step)
        return (round_index + 1) % rounds == 0 or round_index + 1 == self.federation.rounds

    def _score(self, values: Mapping[str, Tensor]) -> Score:
        test_set = self.federation.test_set
        if test_set is None:
            raise ConfigError("there is no test set to evaluate on; give test_set to the Federation")
        self._model.load_state_dict(dict(values), strict=False)
        return test_set.score(self._model, self.federation.objective)

    def _layer_records(
        self, plan: Plan, statistics: Mapping[str, LayerStatistics], transfers: Sequence[Transfer]
    ) -> dict[str, LayerRecord]:
        up, down = _payloads(transfers, "up"), _payloads(transfers, "down")
        records = {}
        for layer in self.layers:
            measured = statistics.get(layer.name)
            steps = plan.rounds_apart(layer.name) * self.federation.strategy.local_steps
            records[layer.name] = LayerRecord(
                interval=plan.intervals[layer.name],
                synchronised=layer.name in plan.upload,
                discrepancy=measured.discrepancy if measured else None,
                unit_discrepancy=measured.discrepancy / (steps * max(layer.parameters, 1)) if measured else None,
                bytes_up=up.get(layer.name, 0),
                bytes_down=down.get(layer.name, 0),
                refused=self._refused.get(layer.name, ()),
            )
        return records

    def _divergence(self, layer: Layer) -> DivergenceError:
        for client in self.cohort:
            values = self.engine.client_values(client)
            if any(not torch.isfinite(values[spec.name]).all() for spec in layer.tensors):
                return DivergenceError(self.round_index, client, layer.name, "its values are not finite")
        sizes = {client: self._largest(layer, client) for client in self.cohort}
        farthest = max(sizes, key=lambda client: sizes[client])
        detail = f"its largest value is {sizes[farthest]:.1e} and the discrepancy overflows"
        return DivergenceError(self.round_index, farthest, layer.name, detail)

    def _largest(self, layer: Layer, client: int) -> float:
        values = self.engine.client_values(client)
        return max(float(values[spec.name].abs().max()) for spec in layer.tensors)


def _payloads(transfers: Sequence[Transfer], direction: Direction) -> dict[str, int]:
    return {
        item.layer: len(transfer.clients) * item.payload_bytes
        for transfer in transfers
        if transfer.direction == direction
        for item in transfer.payloads
    }
