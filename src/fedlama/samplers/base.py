"""The contract of samplers: who takes part, and for how long."""

from __future__ import annotations

from typing import ClassVar, Protocol


class Sampler(Protocol):
    """Chooses cohorts. A new cohort is asked for only where the strategy's plan starts a cycle."""

    name: ClassVar[str]

    def cohort_size(self, population: int) -> int:
        """Number of active clients; raises ConfigError when the population is too small."""

    def redraws(self, round_index: int) -> bool:
        """Whether a cycle that starts with this round gets a new cohort (round 0 always does)."""

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the cohort's client numbers in ascending order."""
