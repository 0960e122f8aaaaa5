"""The contract of samplers: which clients form a cohort, and for how long.

To write one, inherit from :class:`Sampler` and define `name`, `cohort_size` and `draw`. By default a new cohort is
drawn at every start of a cycle; override `redraws` to keep a cohort longer. A sampler that looks at the clients' data
or losses has a method `choose` as well; see :mod:`fedlama.choices.samplers.informed`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Protocol


class Sampler(Protocol):
    """Chooses cohorts. A new cohort is drawn only where the strategy's plan starts a cycle.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The sampler's name in configuration files.
    """

    name: ClassVar[str]

    @abstractmethod
    def cohort_size(self, population: int) -> int:
        """Return the number of clients in a cohort.

        Args:
            population: Number of clients of the federation.

        Raises:
            ConfigError: There are too few clients.
        """

    def redraws(self, round_index: int) -> bool:
        """Return whether a cycle that starts with this round gets a new cohort; by default each does.

        Args:
            round_index: The round, from 0. Round 0 always gets a cohort.
        """
        return True

    @abstractmethod
    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return a cohort: `cohort_size` client numbers in ascending order.

        It must be a pure function of its arguments, so that a run can be resumed. Draw at random with
        :mod:`fedlama.core.randomness`.

        Args:
            population: Number of clients; they are numbered from 0.
            round_index: The round in which the cohort starts.
            seed: The run's seed.
        """
