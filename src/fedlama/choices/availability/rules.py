"""The rules for clients that do not answer, one text for simulations and deployments.

* Weights are re-scaled over who answered.
* A client that missed a round comes back at once and gets exactly what the server changed since its last reply, or it
  waits for the next cycle and gets the full model; see :class:`~fedlama.choices.availability.membership.Membership`.
* With too few replies nothing is averaged. A deployment stops there until the clients are back; a simulation, which
  has nobody to call them back, counts the round as void and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedlama.choices.availability.base import Fate
from fedlama.core.registry import register
from fedlama.core.validation import one_of, refuse


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How many replies are enough, and who may come back.

    Args:
        min_replies: Share of the clients that are asked without which there is no average, in (0, 1]; 1 demands all.
        rejoin: When a client that missed a round may come back. ``"now"``: in the next round it gets exactly what the
            server changed since its last reply, and keeps its own values of the other layers. ``"next-cycle"``: at
            the next cycle, with the full model.

    Raises:
        ConfigError: A value is out of range.
    """

    always_answers: ClassVar[bool] = False
    """Whether no client ever misses a round, so that engines run without the machinery for absent clients."""
    min_replies: float = 1.0
    rejoin: Literal["now", "next-cycle"] = "now"

    def __post_init__(self) -> None:
        refuse(self._misfits())

    def _misfits(self) -> list[str]:
        """Report settings that are out of range."""
        problems = one_of(self, "rejoin", ("now", "next-cycle"))
        if not 0 < self.min_replies <= 1:
            kind = type(self).__name__
            problems.append(f"{kind}: min_replies is {self.min_replies}, but it is a share in (0, 1]; change it")
        return problems

    def needed(self, asked: int) -> int:
        """Return the number of replies below which there is no average.

        Args:
            asked: Number of clients that are asked.

        >>> Rules(min_replies=0.5).needed(5)
        3
        """
        return max(1, -int(-self.min_replies * asked // 1))


def rescaled(cohort: Sequence[int], weights: Sequence[float], answered: Collection[int]) -> list[float]:
    """Return the weights of those who answered, in the cohort's order and summing to 1.

    Args:
        cohort: All active clients.
        weights: p_i of each.
        answered: Who answered; with everyone, the weights come back as they were.

    >>> rescaled([3, 5, 8], [0.5, 0.25, 0.25], {3, 8})
    [0.6666666666666666, 0.3333333333333333]
    """
    shares = [weight for client, weight in zip(cohort, weights, strict=True) if client in answered]
    if len(shares) == len(weights):
        return shares
    total = math.fsum(shares)
    return [share / total for share in shares]


@register("availability")
@dataclass(frozen=True, kw_only=True)
class Always(Rules):
    """No client ever misses a round, so the rules for those who do never apply."""

    name: ClassVar[str] = "always"
    always_answers: ClassVar[bool] = True

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Everyone answers."""
        return ["answers"] * len(clients)
