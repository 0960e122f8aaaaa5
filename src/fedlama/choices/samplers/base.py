"""The contract of samplers: which clients form a cohort, and for how long.

To write one, inherit from :class:`Sampler` and define `name`, `cohort_size` and `draw`. By default a new cohort is
drawn at every start of a cycle; override `redraws` to keep a cohort longer. A sampler that looks at the clients' data
or losses has a method `choose` as well; see :mod:`fedlama.choices.samplers.informed`.
"""

from __future__ import annotations

from abc import abstractmethod
from operator import index
from typing import ClassVar, Protocol

import numpy as np

from fedlama.errors import ConfigError, shown


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


def checked_cohort(sampler: Sampler, drawn: object, population: int) -> tuple[int, ...]:
    """Return a cohort as Python integers, or refuse one that breaks the contract.

    Args:
        sampler: The sampler. Where it has a true attribute `size_is_least`, a cohort may be larger than `cohort_size`.
        drawn: What it returned.
        population: Number of clients.

    Raises:
        ConfigError: `drawn` is not `cohort_size` client numbers in ascending order.

    >>> from fedlama.choices.samplers import UniformSampler
    >>> checked_cohort(UniformSampler(2), np.array([0, 3]), population=4)
    (0, 3)
    """
    size, least = sampler.cohort_size(population), getattr(sampler, "size_is_least", False)
    if isinstance(drawn, tuple | list | np.ndarray):
        try:
            cohort = tuple(map(index, drawn))
        except TypeError:
            cohort = ()
        enough = len(cohort) >= size if least else len(cohort) == size
        if cohort and enough and list(cohort) == sorted(set(cohort)) and cohort[0] >= 0 and cohort[-1] < population:
            return cohort
    count = f"at least {size}" if least else f"{size}"
    raise ConfigError(
        f"the cohort of the sampler {type(sampler).__name__} is {shown(drawn)}, expected {count} different client "
        f"numbers from 0 to {population - 1} in ascending order; return these, such as tuple(sorted(...)), or correct "
        "its cohort_size"
    )
