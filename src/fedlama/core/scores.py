"""The result of an evaluation: a loss, the task's metrics, and the one by which evaluations are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
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
        weight: How much was evaluated, in predictions that count; 0 where it is not known. Not compared.

    >>> Score(loss=0.5, metrics={"mae": 2.0}, primary="mae").value
    2.0
    """

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    primary: str = "loss"
    direction: Better = "lower"
    weight: float = field(default=0.0, compare=False, repr=False)

    @classmethod
    def of_accuracy(cls, accuracy: float | None, loss: float) -> Score:
        """Return the score of a classification; without an accuracy the loss is its primary value."""
        if accuracy is None:
            return cls(loss)
        return cls(loss, {"accuracy": accuracy}, "accuracy", "higher")

    @classmethod
    def pooled(cls, scores: Iterable[Score]) -> Score | None:
        """Return the score on several data sets together: the mean of each value, weighted by `weight`.

        It is what an evaluation of all data gives for means over predictions, such as loss and accuracy. For others,
        such as an area under a curve or a root of a mean, it is the weighted mean and not the value of all data.

        Args:
            scores: The scores. A metric that one of them lacks, or has as NaN, is left out.

        Returns:
            The score; None without any, or where a weight is not known.

        >>> large = Score(1.0, {"accuracy": 0.5}, "accuracy", "higher", weight=30)
        >>> small = Score(2.0, {"accuracy": 0.9}, "accuracy", "higher", weight=10)
        >>> Score.pooled([large, small])
        Score(loss=1.25, metrics={'accuracy': 0.6}, primary='accuracy', direction='higher')
        """
        known = list(scores)
        total = math.fsum(score.weight for score in known)
        if not known or not all(score.weight > 0 for score in known):
            return None
        names = [name for name in known[0].metrics if all(not math.isnan(s.metrics.get(name, math.nan)) for s in known)]
        metrics = {name: math.fsum(score.weight * score.metrics[name] for score in known) / total for name in names}
        loss = math.fsum(score.weight * score.loss for score in known) / total
        first = known[0]
        if first.primary in metrics:
            return cls(loss, metrics, first.primary, first.direction, total)
        return cls(loss, metrics, weight=total)

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
