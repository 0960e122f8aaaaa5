"""The contract of availability: what becomes of each client's part in a round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

Fate = Literal["answers", "away", "dies"]
"""``"answers"``: its reply comes in time. ``"away"``: it cannot be reached, so nothing is sent to it. ``"dies"``: it is
sent what it lacks, and its work of the round is lost before the reply leaves."""


class Availability(Protocol):
    """Tells fates; the rules for those who did not answer are :class:`~fedlama.choices.availability.rules.Rules`."""

    name: ClassVar[str]
    always_answers: ClassVar[bool]

    @property
    def min_replies(self) -> float:
        """Share of the clients that are asked, without whose replies a round is void."""

    @property
    def rejoin(self) -> Literal["now", "next-cycle"]:
        """When a client that missed a round may come back."""

    def needed(self, asked: int) -> int:
        """Number of replies below which a round is void."""

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Tell what becomes of some clients in a round.

        Args:
            clients: Their numbers.
            round_index: The round, from 0.
            seed: The run's seed.

        Returns:
            One fate per client; a pure function of the client, the round and the seed.
        """
