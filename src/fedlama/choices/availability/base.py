"""The contract of availability: which clients of a cohort answer in a round.

To write one, inherit from :class:`Availability` and define `name` and `fates`. What happens to clients that did not
answer has defaults; inherit from :class:`~fedlama.choices.availability.rules.Rules` instead to make it a setting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol, get_args

from fedlama.errors import ConfigError, shown

Fate = Literal["answers", "away", "dies"]
"""``"answers"``: the client's reply comes in time. ``"away"``: it cannot be reached, so nothing is sent to it.
``"dies"``: it receives the layers that it lacks, and its work of the round is lost before the reply is sent."""

Rejoin = Literal["now", "next-cycle"]
"""When a client that missed a round may come back."""


class Availability(Protocol):
    """Decides which clients answer; :mod:`fedlama.choices.availability.rules` says what happens to the others.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The rule's name in configuration files.
    """

    name: ClassVar[str]

    @property
    def min_replies(self) -> float:
        """Fraction of the asked clients without whose replies a round is void, in (0, 1]; by default 0.1."""
        return 0.1

    @property
    def rejoin(self) -> Rejoin:
        """When a client that missed a round may come back; by default at once."""
        return "now"

    def needed(self, asked: int) -> int:
        """Return the number of replies below which a round is void.

        Args:
            asked: Number of clients that are asked.
        """
        return replies_needed(self.min_replies, asked)

    @property
    def always_answers(self) -> bool:
        """Whether every client answers in every round, so that engines need no rules; by default False."""
        return False

    @abstractmethod
    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Return what becomes of some clients in a round.

        Args:
            clients: Their numbers.
            round_index: The round, from 0.
            seed: The run's seed.

        Returns:
            One fate per client, in the order of `clients`; a pure function of the client, the round and the seed.
        """


_FATES = get_args(Fate)
_ALLOWED = ", ".join(map(repr, _FATES[:-1])) + f" or {_FATES[-1]!r}"


def checked_fates(availability: Availability, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
    """Return what becomes of some clients in a round, or refuse what breaks the contract.

    Args:
        availability: Which clients answer.
        clients: Their numbers.
        round_index: The round, from 0.
        seed: The run's seed.

    Raises:
        ConfigError: There is not one fate per client, or one is not known.
    """
    fates: object = availability.fates(clients, round_index, seed)
    kind = type(availability).__name__
    if not isinstance(fates, Sequence) or isinstance(fates, str) or len(fates) != len(clients):
        raise ConfigError(
            f"{kind}: fates of round {round_index} is {shown(fates)}, expected a list of {len(clients)} fates, one for "
            f"each client; return {_ALLOWED} for each"
        )
    if strange := [fate for fate in fates if fate not in _FATES]:
        raise ConfigError(
            f"{kind}: a fate of round {round_index} is {shown(strange[0])}, expected {_ALLOWED}; return one of these"
        )
    return list(fates)


def replies_needed(share: float, asked: int) -> int:
    """Return the number of replies that make up a fraction of the asked clients, rounded up; at least 1.

    Args:
        share: The fraction, in (0, 1].
        asked: Number of clients that are asked.

    >>> replies_needed(0.5, 5)
    3
    """
    return max(1, -int(-share * asked // 1))
