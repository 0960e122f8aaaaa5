"""FedLAMA, or any other strategy of ours, as a strategy of Flower's message interface.

Flower's loop stays as it is, with `start`, `configure_train`, `aggregate_train` and so on. Differences from its FedAvg:

* a message holds the layers that its client lacks, and a reply those that are due, each packed into one run of bytes;
* a cohort stays for a cycle, and is drawn by the run's seed and the clients' numbers, so a run can be repeated;
* sums run in the order of the clients' numbers, and a reply that cannot be used is left out with an incident;
* with `out`, the run has a run folder, with its ledger, and goes on where it was interrupted.

The ClientApp needs :func:`~fedlama.flower.fedlama_mod` and nothing else. This module needs Flower.
"""

from __future__ import annotations

import copy
import inspect
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result
from torch import nn

from fedlama.choices.codecs import Float32
from fedlama.choices.strategies import FedLAMA, Strategy
from fedlama.core.paths import expanded
from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, cut, did_you_mean
from fedlama.federation.federation import Federation
from fedlama.flower.deploy.fit import exchange_problems, strategy_problems
from fedlama.flower.dropin.engine import AppClients, AppEngine, AppEngines
from fedlama.flower.dropin.grid import RetryingGrid
from fedlama.flower.dropin.layout import layout_of, module_of
from fedlama.flower.dropin.metrics import client_scores, loss_of, misfits, score_of
from fedlama.flower.dropin.mod import APP, OURS
from fedlama.flower.dropin.nodes import AppNodes, NodeSampler, Share
from fedlama.flower.dropin.progress import OwnTraining, Progress
from fedlama.flower.dropin.rounds import OpenRound, plain_config, stored_count, trained_of, why_not
from fedlama.flower.protocol import NEVER, TrainRequest
from fedlama.flower.server.engine import Flower
from fedlama.flower.server.known_clients import KnownClients
from fedlama.flower.server.nodes import NodeRegistry
from fedlama.flower.server.replies import reply_bytes
from fedlama.flower.transport import GridChannel, request_records
from fedlama.runs.network_log import NAME

_LOG = logging.getLogger("fedlama.flower")
_CHOICES = ("seed", "codec", "aggregator", "server_optimizer", "layers", "weighting")
"""Arguments that go to the federation; see :class:`fedlama.Federation`."""
_MOST_CLIENTS = 2**31


class FedLAMAStrategy(FedAvg):
    """A strategy of ours in Flower's loop; its ClientApp needs ``mods=[fedlama_mod]`` and a ``partition-id`` per node.

    Args:
        strategy: When each layer is synchronised, by default ``FedLAMA(1, 2)``: a round is what the ClientApp does for
            one message, so the base interval is only a unit.
        model: The app's model, whose state dict is `initial_arrays`. Without it every array is a layer, and those of
            floating-point numbers count as trained, running statistics included.
        out: Run folder, for the ledger, the report and to go on after an interruption; empty to keep nothing.
        clients: Number of clients, with the partition-ids 0, 1, ...; 0 for those that are online at the start.
        known: Fixed or limited numbers of samples, bound nodes and bans; see
            :class:`~fedlama.flower.server.known_clients.KnownClients`.
        poll: Seconds between two looks for replies.
        metric: Name of the metric of evaluations by which reports compare rounds, higher being better; empty for the
            loss.
        options: Any option of Flower's FedAvg, and of a federation: `seed`, `codec`, `aggregator`, `server_optimizer`,
            `layers` and `weighting`.

    Attributes:
        progress: fedlama's side of the run, once it has begun: its records and, in `run`, its ledger.

    Raises:
        ConfigError: An option is not known, or cannot work here.
    """

    def __init__(
        self,
        strategy: Strategy[Any] | None = None,
        model: nn.Module | None = None,
        *,
        out: str = "",
        clients: int = 0,
        known: KnownClients | None = None,
        poll: float = 0.5,
        metric: str = "",
        **options: Any,  # noqa: ANN401  (of another library)
    ) -> None:
        flowers = [name for name in inspect.signature(FedAvg.__init__).parameters if name != "self"]
        chosen: Strategy[Any] = FedLAMA(1, 2) if strategy is None else strategy
        refuse(_option_problems(options, flowers) + strategy_problems(chosen) + exchange_problems(chosen))
        super().__init__(**{name: value for name, value in options.items() if name in flowers})
        self._strategy = chosen
        self._choices = {name: value for name, value in options.items() if name in _CHOICES}
        self._model, self._metric, self._poll = model, metric, poll
        self._out, self._count, self._known = expanded(out) if out else None, clients, known or KnownClients()
        self._rounds = 0
        self._settings: dict[str, object] = {}
        self._round: OpenRound | None = None
        self._clients: dict[int, int] = {}  # node to client, of the latest messages
        self._repeated: set[int] = set()  # clients that were sent the full model after such a message
        self._allowed: dict[int, int] = {}  # node to the bytes that its next reply may have

    def summary(self) -> None:
        """Log the options."""
        _LOG.info("fedlama: %s", self._strategy)
        super().summary()

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run; the arguments and the result are those of Flower's strategies.

        Raises:
            ConfigError: The options do not fit together, or the model and `initial_arrays`.
            DataError: `out` has a run with other settings.
        """
        self._rounds = num_rounds
        self._settings = {"train-config": plain_config(train_config), "weighted-by": self.weighted_by_key}
        self._begin(grid, initial_arrays)
        try:
            again = RetryingGrid(grid, self._again, self._most_bytes, self._poll)
            score = None if evaluate_fn is None else self._remembering(evaluate_fn)
            result = super().start(again, initial_arrays, num_rounds, timeout, train_config, evaluate_config, score)
            self._commit()
            self.progress.finish()
        finally:
            self.progress.close()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the messages with the layers that the cohort's clients lack; none for a round that was done before."""
        self._commit()
        if self._is_done(server_round):
            return []
        online = self._nodes.wait(self._cohort_share)
        config["server-round"] = server_round
        self._round = OpenRound(self.progress.run.next_order(), time.perf_counter())
        asked = [client for client in self._engine.begin(self._round.order) if client in online]
        self._clients, self._repeated = {online[client]: client for client in asked}, set()
        _LOG.info("round %d: training on the clients %s", server_round, ", ".join(map(str, asked)) or "(none)")
        return [
            self._message(self._engine.request(client), online[client], ("train", config), server_round)
            for client in asked
        ]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the whole global model and the aggregated metrics of a round.

        Raises:
            ConfigError: The strategy follows the training loss, and the ClientApp's metrics have none.
        """
        if self._is_done(server_round):
            stored = self.progress.metrics[server_round - 1].get("train")
            return self._arrays(), MetricRecord(stored) if stored else None
        assert self._round is not None  # configure_train was called
        metrics = self._taken(replies)
        has_loss = any(loss_of(records) is not None for records in metrics.values())
        if metrics and not has_loss and getattr(self._strategy, "follows_loss", hasattr(self._strategy, "learn")):
            raise ConfigError(
                f"strategy is {self._strategy.name!r}, which follows the training loss, but no metric of the "
                "ClientApp's training has 'loss' in its name; let it return the loss too, or choose another strategy"
            )
        reply = self.progress.run.engine.run_round(self._round.order)
        self.progress.run.server.forget_weights()
        record = self.progress.run.close_round(self._round.order, reply, self._round.start)
        self._round.record = record if has_loss else replace(record, loss=float("nan"))
        if not metrics:
            return self._arrays(), None
        contents = [RecordDict(metrics[client]) for client in sorted(metrics)]
        aggregated = self.train_metrics_aggr_fn(contents, self.weighted_by_key)
        self._round.metrics["train"] = dict(aggregated)
        return self._arrays(), aggregated

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return messages with the layers of the global model that each drawn client lacks."""
        if self.fraction_evaluate == 0 or self._is_done(server_round) or self._round is None:
            return []
        share = Share("evaluate", self.fraction_evaluate, self.min_evaluate_nodes, self.min_available_nodes)
        drawn, online = self._nodes.draw(share, server_round - 1), self._nodes.online()
        config["server-round"] = server_round
        self._clients, self._repeated = {online[client]: client for client in drawn if client in online}, set()
        return [
            self._message(self._evaluation(client), node, ("evaluate", config), server_round)
            for node, client in self._clients.items()
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the aggregated metrics of an evaluation by the clients."""
        if self._is_done(server_round) or self._round is None:
            done = self._is_done(server_round)
            stored = self.progress.metrics[server_round - 1].get("evaluate") if done else None
            return MetricRecord(stored) if stored else None
        scores = self._usable(replies, "gives no score")
        self._round.replies = {client: dict(scores[client].content.metric_records) for client in sorted(scores)}
        aggregated: MetricRecord | None = super().aggregate_evaluate(server_round, [scores[c] for c in sorted(scores)])
        if aggregated is not None:
            self._round.metrics["evaluate"] = dict(aggregated)
        return aggregated

    def _begin(self, grid: Grid, arrays: ArrayRecord) -> None:
        """Wait for the nodes, build the federation, and go on where the run folder ends."""
        values = {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()}
        model = module_of(values) if self._model is None else copy.deepcopy(self._model)
        layers, codec = self._choices.get("layers"), self._choices.get("codec", Float32())
        self._layout = layout_of(tuple(arrays), model, layers, codec)
        try:
            model.load_state_dict(values, strict=False)
        except RuntimeError as error:
            raise ConfigError(f"initial_arrays do not fit the model ({cut(error)}); give its own state dict") from error
        registry = NodeRegistry(GridChannel(grid, query_type="train"), self._count or _MOST_CLIENTS, self._known)
        self._nodes = AppNodes(registry, int(self._choices.get("seed", 0)), self._poll)
        share = self._cohort_share
        count = self._count or stored_count(self._out) or 1 + max(self._nodes.wait(share))
        self._nodes.count, clients = count, AppClients(count)
        log = None if self._out is None else self._out / NAME
        engines = AppEngines(Flower(GridChannel(grid), log=log, known=self._known), registry, clients)
        sampler = NodeSampler(self._nodes, share, in_sync=self._strategy.in_sync_at_cycles)
        federation = Federation(
            model, clients, self._strategy, rounds=self._rounds, solver=OwnTraining(), sampler=sampler, engine=engines,
            **self._choices,
        )  # fmt: skip
        self.progress = Progress(federation, self._out, self._settings)
        self._engine: AppEngine = engines.engine
        self._done = len(self.progress.records)
        sampler.cohort = self.progress.run.cohort

    @property
    def _cohort_share(self) -> Share:
        """How many of the nodes train."""
        return Share("cohort", self.fraction_train, self.min_train_nodes, self.min_available_nodes)

    def _is_done(self, server_round: int) -> bool:
        """Return whether a round was done before the server was started again."""
        return server_round <= self._done

    def _arrays(self) -> ArrayRecord:
        """Return the global model as the app's own arrays."""
        values = self._layout.whole(self.progress.run.values)
        return ArrayRecord({name: Array(value.detach().cpu().numpy()) for name, value in values.items()})

    def _message(self, request: TrainRequest, node: int, kind: tuple[str, ConfigRecord], server_round: int) -> Message:
        """Return a message with a request; where it holds the full model, the layout goes along."""
        app = {"arrays": self.arrayrecord_key}
        if request.answered_round == NEVER:
            app["layout"] = self._layout.to_json()
        self._allowed[node] = reply_bytes(request, self._layout.layers, self._layout.codec)
        records = request_records(request)
        records[APP], records[self.configrecord_key] = ConfigRecord(app), kind[1]
        return Message(records, dst_node_id=node, message_type=kind[0], group_id=str(server_round))

    def _most_bytes(self, message: Message) -> int:
        """Return the bytes of arrays that the reply to a message may have."""
        return self._allowed.get(message.metadata.dst_node_id, 0)

    def _evaluation(self, client: int) -> TrainRequest:
        """Return the request for an evaluation, which is sent now."""
        assert self._round is not None  # configure_train was called
        index, run = self._round.order.plan.round_index, self.progress.run
        self._round.evaluated.append(self._engine.evaluation_request(client, index, run.values))
        return self._round.evaluated[-1]

    def _again(self, message: Message, reply: Message) -> Message | None:
        """Return a message with the full model, for a client that has lost its state; None for any other reply."""
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        client = self._clients.get(node)
        trained = None if reply.has_error() else trained_of(reply)
        if client is None or trained is None or trained.status != "stale" or client in self._repeated:
            return None
        self._repeated.add(client)
        self._engine.forget(client)
        full = self._engine.request(client, full=True) if kind == "train" else self._evaluation(client)
        config = message.content[self.configrecord_key]
        return self._message(full, node, (kind, config), int(message.metadata.group_id))

    def _usable(self, replies: Iterable[Message], otherwise: str) -> dict[int, Message]:
        """Return the replies that can be used, by client; the others are incidents.

        Args:
            replies: The replies.
            otherwise: What an incident says of a client.
        """
        usable: dict[int, Message] = {}
        for reply in replies:
            client = self._clients.get(reply.metadata.src_node_id)
            if reason := why_not(reply):
                self._engine.note(reason if client is None else f"client {client} {otherwise}: {reason}")
            elif client is not None:
                usable[client] = reply
        metrics = {client: dict(reply.content.metric_records) for client, reply in usable.items()}
        for client, reason in misfits(metrics, self.weighted_by_key).items():
            self._engine.note(f"client {client} {otherwise}: {reason}")
            del usable[client]
        return usable

    def _taken(self, replies: Iterable[Message]) -> dict[int, dict[str, Any]]:
        """Take the replies of a round in; return the metrics of those that count, by client."""
        metrics: dict[int, dict[str, Any]] = {}
        for client, reply in sorted(self._usable(replies, "does not count").items()):
            records, trained = dict(reply.content.metric_records), trained_of(reply)
            (record,) = records.values()
            if self._engine.take(client, trained, record[self.weighted_by_key]):
                metrics[client] = records
        return metrics

    def _remembering(
        self, evaluate: Callable[[int, ArrayRecord], MetricRecord | None]
    ) -> Callable[[int, ArrayRecord], MetricRecord | None]:
        """Return the user's evaluation, whose metrics go into the record of the round."""

        def evaluate_once(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            if 0 < server_round <= self._done:
                stored = self.progress.metrics[server_round - 1].get("server")
                return MetricRecord(stored) if stored else None
            scored = evaluate(server_round, arrays)
            if scored is not None and self._round is not None:
                self._round.metrics["server"] = dict(scored)
            return scored

        return evaluate_once

    def _commit(self) -> None:
        """Write the round that is complete into the run folder; from now on a server goes on after it."""
        done, self._round = self._round, None
        if done is None or done.record is None:
            return
        sent = tuple(self._engine.evaluation_transfers(done.evaluated))
        self.progress.run.ledger.extend(sent)
        metrics = done.metrics.get("server") or done.metrics.get("evaluate") or {}
        record = replace(
            done.record,
            transfers=(*done.record.transfers, *sent),
            score=score_of(metrics, self._metric, self.weighted_by_key),
            client_scores=client_scores(done.replies, self._metric, self.weighted_by_key),
        )
        if done.evaluated:
            self._engine.log_scores(list(done.replies))
        self.progress.add(record, done.metrics)


def _option_problems(options: Mapping[str, Any], flowers: Sequence[str]) -> list[str]:
    """Return what is wrong with the further options of a strategy, of which some are Flower's."""
    problems, unknown = list[str](), [name for name in options if name not in flowers and name not in _CHOICES]
    if "aggregation" in unknown:
        problems.append(
            f"aggregation is {options['aggregation']!r}, but FedLAMAStrategy averages single models, because "
            "Flower's loop carries one exchange of messages for each round; leave it out, or write the app with "
            "fedlama.flower.apps"
        )
    problems += [
        f"FedLAMAStrategy has no option {name!r}{did_you_mean(name, [*flowers, *_CHOICES])}"
        for name in unknown
        if name != "aggregation"
    ]
    if not options.get("fraction_train", 1.0):
        problems.append("fraction_train is 0, expected a share of the nodes; use FedAvg to evaluate only")
    if getattr(options.get("aggregator"), "needs_factors", False):
        problems.append(
            f"aggregator is {options['aggregator'].name!r}, whose clients send Kronecker factors, which a "
            "ClientApp does not compute; choose another, or deploy an experiment"
        )
    if options.get("configrecord_key") in OURS:
        problems.append(
            f"configrecord_key is {options['configrecord_key']!r}, which messages use; choose another, or leave it out"
        )
    return problems
