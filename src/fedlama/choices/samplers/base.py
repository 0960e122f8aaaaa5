"""A uniform draw without replacement for each cycle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import at_least, refuse
from fedlama.errors import ConfigError


class Sampler(Protocol):
    """Chooses cohorts. A new cohort is asked for only where the strategy's plan starts a cycle."""

    name: ClassVar[str]

    def cohort_size(self, population: int) -> int:
        """Number of active clients; raises ConfigError when the population is too small."""

    def redraws(self, round_index: int) -> bool:
        """Whether a cycle that starts with this round gets a new cohort (round 0 always does)."""

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the cohort's client numbers in ascending order."""


@register("sampler")
@dataclass(frozen=True)
class AllClients:
    """The whole population is one cohort that lasts for the whole run."""

    name: ClassVar[str] = "all"

    def cohort_size(self, population: int) -> int:
        """All of them."""
        return population

    def redraws(self, round_index: int) -> bool:
        """The cohort never changes."""
        return False

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return every client."""
        return tuple(range(population))


@register("sampler")
@dataclass(frozen=True)
class UniformSampler:
    """Draw `active` clients at the start of a cycle.

    The draw depends on the seed and the round alone, so strategies that are compared with one seed meet the same
    cohorts wherever both begin a cycle in the same round.

    Args:
        active: Clients in a cohort.
        hold_rounds: Keep a cohort for at least so many rounds: a new one is drawn where a cycle starts in a round
            that is a multiple of it. With ``hold_rounds=phi`` FedAvg changes its cohort as rarely as FedLAMA does,
            as it does in the authors' program.
    """

    name: ClassVar[str] = "uniform"
    active: int
    hold_rounds: int = 1

    def __post_init__(self) -> None:
        refuse(at_least(self, 1, "active", "hold_rounds"))

    def cohort_size(self, population: int) -> int:
        """Return `active`.

        Raises:
            ConfigError: There are fewer clients than that.
        """
        if self.active > population:
            raise ConfigError(
                f"UniformSampler: active is {self.active}, but there are only {population} clients; "
                f"choose {population} or fewer, or give more clients"
            )
        return self.active

    def redraws(self, round_index: int) -> bool:
        """True in every round that is a multiple of `hold_rounds`."""
        return round_index % self.hold_rounds == 0

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the first `active` clients of a permutation that belongs to (seed, round)."""
        if self.active == population:  # whatever the order: the cohort is sorted
            return tuple(range(population))
        order = permutation(seed, "cohort", population, round_index)
        return tuple(sorted(int(client) for client in order[: self.active]))
