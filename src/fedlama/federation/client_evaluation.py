"""The clients' own test sets: the global model on each of them, and each client's own model before it is averaged.

The test sets are those that the source of the clients holds back (:mod:`fedlama.data.local_sets`). Where the clients
are on other machines, they compute the scores themselves, with :func:`~fedlama.federation.own_score.own_score`, and the
engine collects these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fedlama.choices.codecs import Float32
from fedlama.core.ledger import LayerPayload, Transfer
from fedlama.core.records import Score
from fedlama.data.clients import ClientSource
from fedlama.engines.api import Engine, Values
from fedlama.engines.transfers import payload_bytes
from fedlama.federation.own_score import own_score
from fedlama.federation.server import Server
from fedlama.federation.settings import FederationSettings


@dataclass(frozen=True)
class GlobalScores:
    """The scores of the global model on the clients' own test sets.

    Attributes:
        scores: Client to score, of the clients that have a test set and gave one.
        transfers: The messages with the global model that the clients received for it.
    """

    scores: Mapping[int, Score] = field(default_factory=dict)
    transfers: tuple[Transfer, ...] = ()


class ClientEvaluator:
    """Scores models on the clients' own test sets.

    Args:
        federation: The settings of the federation.
        clients: The source of the clients.
        server: Holds a model to compute with.
    """

    def __init__(self, federation: FederationSettings, clients: ClientSource, server: Server) -> None:
        self._task, self._clients, self._server = federation.task, clients, server
        self._payloads = tuple(
            LayerPayload(layer.name, layer.parameters, payload_bytes(layer, Float32()))
            for layer in federation.labelling()
        )
        self.scores_global = federation.evaluate_clients in ("global", "both")
        self.scores_own = federation.evaluate_clients in ("own", "both")

    def global_model(self, engine: Engine, values: Values, round_index: int) -> GlobalScores:
        """Return the score of the global model on the test set of every client that has one.

        Args:
            engine: The engine; one whose clients are on other machines has a method `score_global`, which does it.
            values: The global values, by tensor name.
            round_index: The round, from 0.
        """
        elsewhere = getattr(engine, "score_global", None)
        if elsewhere is not None:
            scores, sent = elsewhere(values, round_index)
            transfers = tuple(
                Transfer(round_index, "evaluation-down", tuple(clients), self._payloads) for clients in sent
            )
            return GlobalScores(scores, transfers)
        scores = self._kept({client: self._score(client, values) for client in range(len(self._clients))})
        return GlobalScores(scores, (Transfer(round_index, "evaluation-down", tuple(scores), self._payloads),))

    def own_models(self, engine: Engine, clients: Sequence[int]) -> dict[int, Score]:
        """Return the scores of clients' own models, each on the client's own test set.

        Call it after the clients have trained and before any layer is averaged.

        Args:
            engine: Holds the clients' models; one whose clients are on other machines has a method `own_scores`, which
                returns what came with their replies.
            clients: The clients that answered in the round.
        """
        elsewhere = getattr(engine, "own_scores", None)
        if elsewhere is not None:
            received: Mapping[int, Score] = elsewhere()
            return {client: received[client] for client in clients if client in received}
        scores = self._kept({client: self._score(client, engine.client_values(client)) for client in clients})
        self._server.model_with(self._server.local)  # a client's local values must not stay in the server's model
        return scores

    @staticmethod
    def _kept(scores: dict[int, Score | None]) -> dict[int, Score]:
        return {client: score for client, score in scores.items() if score is not None}

    def _score(self, client: int, values: Values) -> Score | None:
        return own_score(self._task, self._server.model_with(values), self._clients, client)
