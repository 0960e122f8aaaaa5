"""Every client takes part in every round, as among a few organisations (cross-silo)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.samplers.base import Sampler
from fedlama.core.registry import register


@register("sampler")
@dataclass(frozen=True)
class AllClients(Sampler):
    """The whole population is one cohort that lasts for the whole run.

    With it, a strategy's cycles decide nothing about who takes part, and each client receives the complete model once.

    Example:
        >>> everyone = AllClients()
        >>> everyone.draw(population=4, round_index=0, seed=0)
        (0, 1, 2, 3)
        >>> everyone.redraws(round_index=6)
        False
    """

    name: ClassVar[str] = "all"

    def cohort_size(self, population: int) -> int:
        """Return the number of all clients."""
        return population

    def redraws(self, round_index: int) -> bool:
        """Return False: the cohort never changes."""
        return False

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return every client."""
        return tuple(range(population))
