"""A uniform draw without replacement for each cycle, as among many devices (cross-device)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.samplers.base import Sampler
from fedlama.choices.samplers.informed import is_informed
from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.errors import ConfigError


@register("sampler")
@dataclass(frozen=True)
class UniformSampler(Sampler):
    """Draw `active` clients at the start of a cycle.

    The draw depends on the seed and the round alone, so strategies that are compared with one seed have the same
    cohorts wherever both begin a cycle in the same round. Momentum starts at zero whenever a cohort is drawn, also when
    all clients are drawn again; see :data:`fedlama.choices.solvers.base.StateScope`.

    Args:
        active: Clients in a cohort; 1 or more.
        hold_rounds: Rounds for which a cohort is kept at least: a new one is drawn where a cycle starts in a round that
            is a multiple of it. With ``hold_rounds=phi`` FedAvg changes its cohort as rarely as FedLAMA does, as it
            does in the authors' program.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> UniformSampler(active=3).draw(population=10, round_index=0, seed=0)
        (0, 3, 9)
    """

    name: ClassVar[str] = "uniform"
    active: int
    hold_rounds: int = 1

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "active", "hold_rounds", minimum=1))

    @property
    def is_uniform(self) -> bool:
        """Whether every round may have a cohort of its own, in which all clients are equally likely.

        False for a subclass that draws or chooses in its own way, unless it says otherwise.
        """
        return self.hold_rounds == 1 and type(self).draw is UniformSampler.draw and not is_informed(self)

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
        """Return whether the round is a multiple of `hold_rounds`."""
        return round_index % self.hold_rounds == 0

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the first `active` clients of a permutation that belongs to (seed, round)."""
        if self.active == population:  # the order does not matter, since the cohort is sorted
            return tuple(range(population))
        order = permutation(seed, "cohort", population, round_index)
        return tuple(sorted(int(client) for client in order[: self.active]))
