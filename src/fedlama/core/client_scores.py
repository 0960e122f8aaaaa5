"""Scores of single clients on data of their own, and how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np

from fedlama.core.measures import Better
from fedlama.core.scores import Score


@dataclass(frozen=True)
class Spread:
    """How well the clients do, from the worst to the best, by the primary metric.

    The quartiles are interpolated linearly between the two nearest clients.

    Attributes:
        primary: The metric.
        direction: Whether a ``"higher"`` or a ``"lower"`` value is better.
        worst: The worst client's value.
        lower_quartile: A quarter of the clients do worse.
        median: Half of the clients do worse.
        upper_quartile: A quarter of the clients do better.
        best: The best client's value.
        clients: How many clients have a value.
    """

    primary: str
    direction: Better
    worst: float
    lower_quartile: float
    median: float
    upper_quartile: float
    best: float
    clients: int

    @classmethod
    def of(cls, scores: Iterable[Score]) -> Spread | None:
        """Return the spread of some clients' scores; None where no client has a value.

        >>> scores = [Score(0.0, {"accuracy": value}, "accuracy", "higher") for value in (0.9, 0.5, 0.7)]
        >>> spread = Spread.of(scores)
        >>> spread.worst, spread.median, spread.best
        (0.5, 0.7, 0.9)
        """
        known = [score for score in scores if not math.isnan(score.value)]
        named = [score for score in known if score.primary != "loss"] or known  # of a client without one, the loss
        if not named:
            return None
        values = np.array([score.value for score in named])
        ends: list[float] = np.quantile(values, (0, 0.25, 0.5, 0.75, 1)).tolist()
        first = named[0]
        worst, lower, median, upper, best = ends if first.direction == "higher" else ends[::-1]
        return cls(first.primary, first.direction, worst, lower, median, upper, best, len(named))

    def to_json(self) -> dict[str, object]:
        """Return plain JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class ClientScores:
    """The scores of the clients after one round, each on its own test set.

    Attributes:
        global_model: Client to the score of the global model; of all clients with a test set.
        own_model: Client to the score of its own model, as it was after its training and before any layer was averaged;
            of the clients that answered in the round.
    """

    global_model: Mapping[int, Score] = field(default_factory=dict)
    own_model: Mapping[int, Score] = field(default_factory=dict)

    @property
    def pooled(self) -> Score | None:
        """The score of the global model on all clients' test sets together; see :meth:`Score.pooled`."""
        return Score.pooled(self.global_model.values())

    def spreads(self) -> dict[str, Spread]:
        """Return the spreads of both, by ``"global"`` and ``"own"``; without what was not measured."""
        spreads = {"global": Spread.of(self.global_model.values()), "own": Spread.of(self.own_model.values())}
        return {name: spread for name, spread in spreads.items() if spread is not None}
