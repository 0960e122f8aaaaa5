"""Clients that are away, or are lost during a round, at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlama.choices.availability.base import Fate
from fedlama.choices.availability.rules import Rules
from fedlama.core.randomness import uniform
from fedlama.core.registry import register
from fedlama.core.validation import between, normalise_numbers, refuse, whole


@register("availability")
@dataclass(frozen=True, kw_only=True)
class RandomAbsence(Rules):
    """Each client is away in a fraction of the rounds, independently of the others.

    The draws depend on the seed, the client and the round alone, so methods that are compared with the same seed and
    the same length of rounds lose the same replies.

    Args:
        away: Probability that a client cannot be reached in a round, in [0, 1).
        dies: Probability that a client that was reached is lost before its reply leaves, in [0, 1).
        lasts: Rounds that an absence lasts. An absence begins in a round with probability 1 - (1 - away)^(1 / lasts),
            so that `away` is the fraction of absent rounds for every value; absences that overlap make longer ones.
        min_replies: See :class:`~fedlama.choices.availability.rules.Rules`.
        rejoin: See :class:`~fedlama.choices.availability.rules.Rules`.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> RandomAbsence(away=0.5).fates([0, 1, 2, 3], round_index=7, seed=0)
        ['answers', 'answers', 'away', 'away']
    """

    name: ClassVar[str] = "random"
    away: float = 0.0
    dies: float = 0.0
    lasts: int = 1
    min_replies: float = 0.1

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(self._misfits() + whole(self, "lasts", minimum=1) + between(self, 0, 1, "away", "dies"))

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Draw each client's fate; see :meth:`fedlama.choices.availability.base.Availability.fates`."""
        numbers = np.asarray(clients, dtype=np.int64)
        probability = 1.0 - (1.0 - self.away) ** (1.0 / self.lasts)
        starts = round_index - np.arange(self.lasts)  # an absence may have started before round 0
        away = (uniform(seed, "absence", numbers[:, None], starts) < probability).any(axis=1)  # (clients,)
        dies = uniform(seed, "death", numbers, round_index) < self.dies
        return ["away" if gone else "dies" if lost else "answers" for gone, lost in zip(away, dies, strict=True)]
