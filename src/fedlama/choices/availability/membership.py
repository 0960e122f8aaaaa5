"""What a server remembers of its cohort: who answered last when, what changed since, and who has to wait.

A layer has the number of the round at whose end the server set it last; a client lacks the layers that are not older
than the last round that it answered. So a client that missed rounds gets exactly what it lacks, and nobody else does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

NEVER = -1
"""The round of a client that holds nothing of the cohort's model."""


@dataclass(kw_only=True)
class Membership:
    """The cohort as the server sees it.

    Attributes:
        cohort: The active clients.
        answered: Client to the latest round of which a reply was accepted, in this cohort.
        versions: Layer to the round at whose end the server set it last.
        excluded: Clients that must wait for the next cycle.
    """

    cohort: list[int] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)

    def start_cohort(self, clients: Sequence[int]) -> None:
        """Begin with a new cohort; nobody in it holds anything yet."""
        self.cohort = list(clients)
        self.answered = dict.fromkeys(clients, NEVER)
        self.excluded = set()

    def begin_cycle(self) -> set[int]:
        """Let those come back who had to wait for a cycle, with the full model; return who they are."""
        returning, self.excluded = self.excluded, set()
        self.answered |= dict.fromkeys(returning, NEVER)
        return returning

    def asked(self) -> list[int]:
        """Name the clients that take part if they can, in the cohort's order."""
        return [client for client in self.cohort if client not in self.excluded]

    def lacking(self, names: Iterable[str], since: int) -> list[str]:
        """Name the layers that a client lacks.

        Args:
            names: All layers, in their order.
            since: The latest round that the client answered; :data:`NEVER` when it holds nothing.
        """
        return [name for name in names if since == NEVER or self.versions.get(name, NEVER) >= since]

    def close(
        self, round_index: int, answered: Collection[int], missing: Iterable[int], rejoin: Literal["now", "next-cycle"]
    ) -> None:
        """Book who answered in a round.

        Args:
            round_index: The round, from 0.
            answered: Who did.
            missing: Who was asked and did not.
            rejoin: See :class:`~fedlama.choices.availability.rules.Rules`.
        """
        self.answered |= dict.fromkeys(answered, round_index)
        if rejoin == "next-cycle":
            self.excluded |= set(missing)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "excluded": sorted(self.excluded)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Read back what :meth:`to_json` wrote; JSON makes text of numbers that are keys."""
        answered = {int(client): round_index for client, round_index in record["answered"].items()}
        return cls(**{**record, "answered": answered, "excluded": set(record["excluded"])})
