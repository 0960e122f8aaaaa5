"""The rules for clients that do not answer, the same for simulations and deployments.

* Weights are re-scaled over the clients that answered.
* A client that missed a round comes back at once and receives exactly the layers that the server changed since its last
  reply, or it waits for the next cycle and receives the full model; see
  :class:`~fedlama.choices.availability.membership.Membership`.
* With too few replies nothing is averaged. A deployment stops there until the clients are back. A simulation cannot
  wait for anything, so it counts the round as void and continues.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fedlama.choices.availability.base import Rejoin, replies_needed
from fedlama.core.validation import normalise_numbers, one_of, refuse


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How many replies are enough, and when clients come back: the base of availabilities and of a deployment's policy.

    Args:
        min_replies: Fraction of the asked clients without which there is no average, in (0, 1]; 1 demands all.
        rejoin: When a client that missed a round may come back. ``"now"``: in the next round it receives exactly what
            the server changed since its last reply, and keeps its own values of the other layers. ``"next-cycle"``: at
            the next cycle, with the full model.

    Raises:
        ConfigError: A value is out of range.
    """

    min_replies: float = 1.0
    rejoin: Rejoin = "now"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(self._misfits())

    def _misfits(self) -> list[str]:
        """Return the problems of these settings; subclasses add their own."""
        problems = one_of(self, "rejoin", ("now", "next-cycle"))
        share = self.min_replies
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            kind = type(self).__name__
            problems.append(f"{kind}: min_replies is {share!r}, expected a fraction in (0, 1]; use one in this range")
        return problems

    @property
    def always_answers(self) -> bool:
        """Whether every client answers in every round; by default False."""
        return False

    def needed(self, asked: int) -> int:
        """Return the number of replies below which there is no average.

        Args:
            asked: Number of clients that are asked.

        >>> Rules(min_replies=0.5).needed(5)
        3
        """
        return replies_needed(self.min_replies, asked)


def rescaled(cohort: Sequence[int], weights: Sequence[float], answered: Collection[int]) -> list[float]:
    """Return the weights of the clients that answered, in the cohort's order and summing to 1.

    Args:
        cohort: All active clients.
        weights: p_i of each.
        answered: The clients that answered; when all did, the weights are returned bit for bit.

    >>> rescaled([3, 5, 8], [0.5, 0.25, 0.25], {3, 8})
    [0.6666666666666666, 0.3333333333333333]
    """
    answering = [weight for client, weight in zip(cohort, weights, strict=True) if client in answered]
    if len(answering) == len(weights):
        return answering
    total = math.fsum(answering)
    return [weight / total for weight in answering]
