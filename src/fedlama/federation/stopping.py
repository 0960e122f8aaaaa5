"""The best global model of a run by its validation set, and when to stop because there is no better one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedlama.core.records import RoundRecord, Score
from fedlama.core.validation import at_least, normalise_numbers, refuse
from fedlama.engines.api import Values


@dataclass(frozen=True)
class EarlyStopping:
    """When a run ends before its budget is used up.

    Args:
        patience: Number of evaluations in a row without an improvement after which the run ends.
        min_delta: How much the primary metric of the validation set must be better than at the last improvement to
            count as one, in the metric's own unit; 0 counts every better value.
    """

    patience: int = 5
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(at_least(self, 1, "patience") + at_least(self, 0, "min_delta"))


class BestModel:
    """Remembers the best global model, and counts the evaluations since the last improvement.

    The best model is the one with the best value, however small its lead; `min_delta` only decides when the count
    starts again.

    Args:
        rule: When to stop; None for never.

    Attributes:
        round_index: The round of the best model; None before there is one.
        score: Its score on the validation set.
        values: Its global values, by tensor name.
        waited: Evaluations since the last improvement.
    """

    def __init__(self, rule: EarlyStopping | None) -> None:
        self._rule = rule
        self.round_index: int | None = None
        self.score: Score | None = None
        self.values: Values = {}
        self.waited = 0
        self._reference = -math.inf  # the rank at the last improvement

    def see(self, round_index: int, score: Score, values: Mapping[str, Tensor]) -> None:
        """Take an evaluation in.

        Args:
            round_index: The round.
            score: The score on the validation set.
            values: The global values that were scored, by tensor name.
        """
        if score.rank > (-math.inf if self.score is None else self.score.rank):
            self.round_index, self.score = round_index, score
            self.values = {name: value.detach().clone() for name, value in values.items()}
        improved = score.rank > self._reference + (0.0 if self._rule is None else self._rule.min_delta)
        self._reference, self.waited = (score.rank, 0) if improved else (self._reference, self.waited + 1)

    @property
    def stopped(self) -> str | None:
        """Why the run ends; None if it goes on."""
        if self._rule is None or self.waited < self._rule.patience:
            return None
        best = "none before" if self.score is None else f"best {self.score.primary} in round {self.round_index}"
        return f"early stopping: no improvement in {self.waited} evaluations ({best})"

    def to_json(self) -> dict[str, Any]:
        """Return all but the tensors as plain JSON types, for a checkpoint."""
        reference = None if math.isinf(self._reference) else self._reference
        return {"round": self.round_index, "waited": self.waited, "reference": reference}

    def load(self, facts: Mapping[str, Any], values: Values, records: Sequence[RoundRecord]) -> None:
        """Load the state of a checkpoint.

        Args:
            facts: What :meth:`to_json` returned.
            values: The values of the best model.
            records: The records of the rounds done.

        Raises:
            ValueError: They contradict each other.
        """
        at, waited, reference = facts["round"], facts["waited"], facts["reference"]
        score = None if at is None else records[int(at)].validation
        if type(waited) is not int or waited < 0 or (at is None) == bool(values) or (at is not None and score is None):
            raise ValueError("its best model is not one of the rounds done")
        self._reference = -math.inf if reference is None else float(reference)
        self.round_index, self.score, self.values, self.waited = at, score, values, waited
