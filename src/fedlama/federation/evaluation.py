"""When the global model is evaluated, from what, and how well it does.

What a score consists of is decided by the task alone (:mod:`fedlama.choices.tasks`); this module only compares scores
by their primary metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from fedlama.core.layers import named_layers
from fedlama.core.plan import Plan
from fedlama.core.records import Score
from fedlama.engines.api import Engine, Values, averages_of
from fedlama.errors import DataError
from fedlama.federation.held_out import TestSet
from fedlama.federation.server import Server
from fedlama.federation.settings import FederationSettings


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation measured.

    Attributes:
        score: On the test set; None without one, or when no evaluation was due.
        validation: On the validation set, likewise.
        values: The global values that were scored, by tensor name; empty when only clients' models were.
    """

    score: Score | None = None
    validation: Score | None = None
    values: Values = field(default_factory=dict)


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
        settings = self._federation
        scored = settings.evaluate == "global" and settings.test_set is not None
        needed = self.is_due(plan) and (
            scored or settings.validation_set is not None or settings.evaluate_clients in ("global", "both")
        )
        return plan.held(self._layers) if needed else frozenset()

    def evaluate(self, plan: Plan, engine: Engine, cohort: Sequence[int], *, void: bool) -> Evaluation:
        """Evaluate what is due after this round.

        Args:
            plan: The round's plan.
            engine: Holds the clients' models.
            cohort: The active clients.
            void: Whether too few clients answered, so that their models cannot be averaged.
        """
        settings = self._federation
        test_set, validation_set = settings.test_set, settings.validation_set
        if not self.is_due(plan):
            return Evaluation()
        score, values = None, dict(self._server.values)
        if settings.evaluate == "best_client":
            if test_set is not None:
                scores = [self._score(test_set, engine.client_values(client)) for client in cohort[::4]]
                score = max(scores, key=lambda score: score.rank)
            if settings.evaluate_clients not in ("global", "both"):
                return Evaluation(score)
            test_set = None
        elif test_set is None and validation_set is None and settings.evaluate_clients not in ("global", "both"):
            return Evaluation()
        values = values if void else values | self._averaged(plan, engine, cohort)
        return Evaluation(
            score=score if test_set is None else self._score(test_set, values),
            validation=None if validation_set is None else self._score(validation_set, values, "the validation set"),
            values=values,
        )

    def _averaged(self, plan: Plan, engine: Engine, cohort: Sequence[int]) -> Values:
        """Return the average of the layers that keep each client's own value beyond this round."""
        layers, averaged = named_layers(self._layers, plan.held(self._layers)), Values()
        for average in averages_of(engine, layers, self._server.weights(cohort)):
            averaged |= average.values
        return averaged

    def _score(self, test_set: TestSet, values: Mapping[str, Tensor], owner: str = "the test set") -> Score:
        model, task = self._server.model_with(values), self._federation.task
        # A test set of the user's own may have the two arguments of earlier versions.
        score: object = test_set.score(model, task) if owner == "the test set" else test_set.score(model, task, owner)
        if not isinstance(score, Score):
            raise DataError(
                f"{type(test_set).__name__}.score returned {type(score).__name__}, expected a fedlama.Score; return "
                "one, or give the federation a task with the metrics"
            )
        return score

    def is_due(self, plan: Plan) -> bool:
        """Return whether an evaluation is due after this round."""
        settings = self._federation
        every = settings.evaluate_every
        rounds = settings.strategy.cycle_rounds if every is None else -(-every // settings.strategy.local_steps)
        finished = plan.round_index + 1
        return finished % rounds == 0 or finished == self._rounds
