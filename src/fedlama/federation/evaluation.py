"""When the global model is evaluated, from what, and how well it does.

What a score consists of is decided by the task alone (:mod:`fedlama.choices.tasks`); this module only compares scores
by their primary metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedlama.core.layers import named_layers
from fedlama.core.plan import Plan
from fedlama.core.records import Score
from fedlama.engines.api import Engine, Values
from fedlama.federation.held_out import TestSet
from fedlama.federation.server import Server
from fedlama.federation.settings import FederationSettings


class Evaluator:
    """Scores the global model after the rounds in which an evaluation is due.

    Args:
        federation: The settings of the federation.
        server: Holds the global model.
    """

    def __init__(self, federation: FederationSettings, server: Server) -> None:
        self._federation, self._server = federation, server
        self._layers, self._rounds = federation.labelling(), federation.budget.rounds

    def layers(self, plan: Plan) -> frozenset[str]:
        """Return the names of the layers that come up after a round only to evaluate the global model."""
        due = self._test_set(plan) is not None
        return plan.held(self._layers) if due and self._federation.evaluate == "global" else frozenset()

    def evaluate(self, plan: Plan, engine: Engine, cohort: Sequence[int], *, void: bool) -> Score | None:
        """Score the global model, if an evaluation is due after this round.

        Args:
            plan: The round's plan.
            engine: Holds the clients' models.
            cohort: The active clients.
            void: Whether too few clients answered, so that their models cannot be averaged.
        """
        test_set = self._test_set(plan)
        if test_set is None:
            return None
        if self._federation.evaluate == "best_client":
            scores = [self._score(test_set, engine.client_values(client)) for client in cohort[::4]]
            return max(scores, key=lambda score: score.rank)
        values = dict(self._server.values)
        return self._score(test_set, values if void else values | self._averaged(plan, engine, cohort))

    def _averaged(self, plan: Plan, engine: Engine, cohort: Sequence[int]) -> Values:
        """Return the average of the layers that keep each client's own value beyond this round."""
        weights, averaged = self._server.weights(cohort), Values()
        for layer in named_layers(self._layers, plan.held(self._layers)):
            averaged |= engine.average(layer, weights).values
        return averaged

    def _score(self, test_set: TestSet, values: Mapping[str, Tensor]) -> Score:
        return test_set.score(self._server.model_with(values), self._federation.task)

    def _test_set(self, plan: Plan) -> TestSet | None:
        """Return the test set, if an evaluation is due after this round."""
        settings = self._federation
        every = settings.evaluate_every
        rounds = settings.strategy.cycle_rounds if every is None else -(-every // settings.strategy.local_steps)
        finished = plan.round_index + 1
        return settings.test_set if finished % rounds == 0 or finished == self._rounds else None
