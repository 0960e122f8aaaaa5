"""The clients' own test sets: the global model on each of them, and each client's own model before it is averaged.

The test sets are those that the source of the clients holds back (:mod:`fedlama.data.local_sets`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from fedlama.core.records import Score
from fedlama.core.trees import map_leaves
from fedlama.data.clients import ClientSource
from fedlama.data.local_sets import held_out
from fedlama.engines.api import Engine, Values
from fedlama.federation.server import Server
from fedlama.federation.settings import FederationSettings
from fedlama.federation.tally import Tally


class ClientEvaluator:
    """Scores models on the clients' own test sets.

    Args:
        federation: The settings of the federation.
        clients: The source of the clients.
        server: Holds a model to compute with.
    """

    def __init__(self, federation: FederationSettings, clients: ClientSource, server: Server) -> None:
        self._task, self._clients, self._server = federation.task, clients, server
        self.scores_global = federation.evaluate_clients in ("global", "both")
        self.scores_own = federation.evaluate_clients in ("own", "both")

    def global_model(self, values: Values) -> dict[int, Score]:
        """Return the score of the global model on the test set of every client that has one.

        Args:
            values: The global values, by tensor name.
        """
        return self._kept({client: self._score(client, values) for client in range(len(self._clients))})

    def own_models(self, engine: Engine, clients: Iterable[int]) -> dict[int, Score]:
        """Return the scores of clients' own models, each on the client's own test set.

        Call it after the clients have trained and before any layer is averaged.

        Args:
            engine: Holds the clients' models.
            clients: The clients that answered in the round.
        """
        scores = self._kept({client: self._score(client, engine.client_values(client)) for client in clients})
        self._server.model_with(self._server.local)  # a client's local values must not stay in the server's model
        return scores

    @staticmethod
    def _kept(scores: dict[int, Score | None]) -> dict[int, Score]:
        return {client: score for client, score in scores.items() if score is not None}

    def _score(self, client: int, values: Values) -> Score | None:
        """Return the score of a model on a client's test set; None where it has none."""
        batches = held_out(self._clients, client, "test")
        if batches is None:
            return None
        model = self._server.model_with(values)
        device, training = next(model.parameters()).device, model.training
        tally = Tally(self._task, device)
        model.eval()
        with torch.no_grad():
            for stored in batches:
                batch = map_leaves(lambda leaf: leaf.to(device), stored)
                given = map_leaves(torch.clone, batch)  # a model or a loss may work in place
                output = self._task.forward(model, batch)
                tally.add(output, given, self._task.loss(output, batch))
        model.train(training)
        return tally.score(f"the test set of client {client}", may_be_undefined=True)
