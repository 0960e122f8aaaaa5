"""The result of an evaluation: a loss, the task's metrics, and the one by which evaluations are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlama.core.measures import Better, Measure


@dataclass(frozen=True)
class Score:
    """The result of an evaluation.

    Attributes:
        loss: Mean loss per prediction.
        metrics: The task's metrics by name; accuracy is a fraction in [0, 1].
        primary: The metric by which two evaluations are compared, or ``"loss"``.
        direction: Whether a ``"higher"`` or a ``"lower"`` value of it is better.

    >>> Score(loss=0.5, metrics={"mae": 2.0}, primary="mae").value
    2.0
    """

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    primary: str = "loss"
    direction: Better = "lower"

    @classmethod
    def of_accuracy(cls, accuracy: float | None, loss: float) -> Score:
        """Return the score of a classification; without an accuracy the loss is its primary value."""
        if accuracy is None:
            return cls(loss)
        return cls(loss, {"accuracy": accuracy}, "accuracy", "higher")

    @property
    def measure(self) -> Measure:
        """The primary metric."""
        return Measure(self.primary, self.direction)

    @property
    def value(self) -> float:
        """The primary metric's value."""
        return self.loss if self.primary == "loss" else self.metrics[self.primary]

    @property
    def rank(self) -> float:
        """The primary value in the direction in which larger is better; minus infinity for NaN."""
        if math.isnan(self.value):
            return -math.inf
        return self.value if self.direction == "higher" else -self.value

    @property
    def accuracy(self) -> float | None:
        """Fraction of correct predictions, in [0, 1]; None for a task without one."""
        return self.metrics.get("accuracy")

    @property
    def percent(self) -> float | None:
        """The accuracy in percent; None where there is none."""
        return None if self.accuracy is None else 100 * self.accuracy
