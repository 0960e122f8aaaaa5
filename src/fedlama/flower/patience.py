"""How long the server waits, for how many, and who may come back: the rules for stragglers and lost clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fedlama.checks import at_least, one_of, refuse


@dataclass(frozen=True)
class Patience:
    """Rules of waiting.

    A round ends when every client that is waited for has answered, or at the deadline with at least `min_replies`. A
    client that missed a round and is not online again is not waited for. Weights are re-scaled over who answered.

    Args:
        deadline: Seconds that a round waits for replies.
        min_replies: Share of the cohort without which there is no average, in (0, 1]; 1 waits for everyone.
        rejoin: When a client that missed a round may come back. ``"now"``: in the next round it gets exactly what the
            server changed since its last reply, and keeps its own values of the other layers. ``"next-cycle"``: at
            the next cycle, with the full model.
        join: Seconds to wait for enough clients to introduce themselves before a round is given up.
        poll: Seconds between two looks for replies.
    """

    deadline: float = 600.0
    min_replies: float = 1.0
    rejoin: Literal["now", "next-cycle"] = "now"
    join: float = 300.0
    poll: float = 0.5

    def __post_init__(self) -> None:
        problems = at_least(self, 0, "deadline", "join", "poll") + one_of(self, "rejoin", ("now", "next-cycle"))
        if not 0 < self.min_replies <= 1:
            problems.append(f"Patience: min_replies is {self.min_replies}, but it is a share in (0, 1]; change it")
        refuse(problems)

    def needed(self, cohort: int) -> int:
        """Return the number of replies below which a round is given up.

        >>> Patience(min_replies=0.5).needed(5)
        3
        """
        return max(1, -int(-self.min_replies * cohort // 1))
