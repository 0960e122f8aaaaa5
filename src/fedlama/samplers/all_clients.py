"""Everyone takes part all the time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
