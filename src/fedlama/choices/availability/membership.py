"""The server's bookkeeping of its cohort: the last reply of each client, what changed since, and who has to wait.

Each layer has the number of the round at whose end the server set it last. A client lacks the layers that were set in
or after the last round that it answered. So a client that missed rounds receives exactly what it lacks, and no other
client receives anything twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from fedlama.choices.availability.base import Availability, Rejoin, checked_fates

NEVER = -1
"""In place of a round: the client holds nothing of the cohort's model."""


@dataclass(frozen=True)
class Attendance:
    """Which clients took part in a round.

    Attributes:
        returning: Clients that had to wait for a cycle, and restart from the complete model.
        sent: Client that was reached to the layers that it was sent, both in their order.
        in_sync: The clients among them that answered in the round before, and so lack the latest changes only.
        answered: Clients whose replies came, in the cohort's order.
        enough: Whether there are enough replies for an average; without, the round is void.
    """

    returning: frozenset[int]
    sent: Mapping[int, list[str]]
    in_sync: frozenset[int]
    answered: tuple[int, ...]
    enough: bool


@dataclass(kw_only=True)
class Membership:
    """The cohort as the server sees it.

    Attributes:
        cohort: The active clients.
        answered: Client to the latest round of which a reply was accepted, in this cohort; :data:`NEVER` before.
        versions: Layer to the round at whose end the server set it last.
        excluded: Clients that must wait for the next cycle.

    Example:
        >>> members = Membership()
        >>> members.start_cohort([3, 5])
        >>> members.versions = {"conv": 0, "dense": 1}  # set at the end of rounds 0 and 1
        >>> members.close(0, answered=[3, 5], missing=[], rejoin="now")
        >>> members.close(1, answered=[3], missing=[5], rejoin="now")
        >>> [members.lacking(["conv", "dense"], members.answered[client]) for client in members.asked()]
        [['dense'], ['conv', 'dense']]
    """

    cohort: list[int] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    excluded: set[int] = field(default_factory=set)

    def start_cohort(self, clients: Sequence[int]) -> None:
        """Begin with a new cohort, whose clients hold nothing yet.

        Args:
            clients: The cohort's clients.
        """
        self.cohort = list(clients)
        self.answered = dict.fromkeys(clients, NEVER)
        self.excluded = set()

    def begin_cycle(self) -> set[int]:
        """Let the clients that waited for a cycle come back with the full model, and return them."""
        returning, self.excluded = self.excluded, set()
        self.answered |= dict.fromkeys(returning, NEVER)
        return returning

    def asked(self) -> list[int]:
        """Return the clients that take part if they can, in the cohort's order."""
        return [client for client in self.cohort if client not in self.excluded]

    def lacking(self, names: Iterable[str], since: int) -> list[str]:
        """Return the layers that a client lacks.

        Args:
            names: All layers, in their order.
            since: The latest round that the client answered; :data:`NEVER` when it holds nothing.
        """
        return [name for name in names if since == NEVER or self.versions.get(name, NEVER) >= since]

    def is_in_sync(self, client: int, round_index: int) -> bool:
        """Return whether a client answered in the round before, so that it lacks the latest changes only.

        Args:
            client: The client.
            round_index: The round that begins.
        """
        return NEVER < self.answered[client] == round_index - 1

    def attend(
        self, availability: Availability, names: Sequence[str], round_index: int, seed: int, *, cycle_start: bool
    ) -> Attendance:
        """Decide which clients take part in a round, and record it.

        Args:
            availability: Which clients answer.
            names: All layers, in their order.
            round_index: The round, from 0.
            seed: The run's seed.
            cycle_start: Whether a cycle starts with this round, so that clients that waited for one come back.
        """
        returning = self.begin_cycle() if cycle_start else set[int]()
        asked = self.asked()
        fates = dict(zip(asked, checked_fates(availability, asked, round_index, seed), strict=True))
        reached = [client for client in asked if fates[client] != "away"]
        answered = tuple(client for client in reached if fates[client] == "answers")
        sent = {client: self.lacking(names, self.answered[client]) for client in reached}
        in_sync = frozenset(client for client in reached if self.is_in_sync(client, round_index))
        self.close(round_index, answered, set(asked) - set(answered), availability.rejoin)
        enough = len(answered) >= availability.needed(len(asked))
        return Attendance(frozenset(returning), sent, in_sync, answered, enough)

    def close(self, round_index: int, answered: Collection[int], missing: Iterable[int], rejoin: Rejoin) -> None:
        """Record which clients answered in a round.

        Args:
            round_index: The round, from 0.
            answered: The clients that answered.
            missing: The clients that were asked and did not answer.
            rejoin: See :class:`~fedlama.choices.availability.rules.Rules`.
        """
        self.answered |= dict.fromkeys(answered, round_index)
        if rejoin == "next-cycle":
            self.excluded |= set(missing)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON types."""
        return {**asdict(self), "excluded": sorted(self.excluded)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Read back what :meth:`to_json` wrote.

        Args:
            record: The fields; the client numbers are text where JSON made them keys.
        """
        answered = {int(client): round_index for client, round_index in record["answered"].items()}
        return cls(**{**record, "answered": answered, "excluded": set(record["excluded"])})
