"""How long the server waits, for how many, and who may come back: the rules for stragglers and lost clients."""

from __future__ import annotations

from dataclasses import dataclass

from fedlama.choices.availability.rules import Rules
from fedlama.core.validation import at_least, refuse


@dataclass(frozen=True, kw_only=True)
class Patience(Rules):
    """Rules of waiting.

    A round ends when every client that is waited for has answered, or at the deadline with at least `min_replies`. A
    client that missed a round and is not online again is not waited for. Weights are re-scaled over who answered.

    Args:
        deadline: Seconds that a round waits for replies.
        join: Seconds to wait for enough clients to introduce themselves before a round is given up.
        poll: Seconds between two looks for replies.
        min_replies: Share of the cohort without which there is no average; see
            :class:`~fedlama.choices.availability.Rules`.
        rejoin: When a client that missed a round may come back; see :class:`~fedlama.choices.availability.Rules`.
    """

    deadline: float = 600.0
    join: float = 300.0
    poll: float = 0.5

    def __post_init__(self) -> None:
        refuse(at_least(self, 0, "deadline", "join", "poll") + self._misfits())
