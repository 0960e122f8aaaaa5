"""A draw in which clients with more data are more likely.

Li et al., "On the Convergence of FedAvg on Non-IID Data", ICLR 2020, scheme I: clients are drawn with probabilities
p_i = n_i / n, and the server then weights them equally (``weighting="equal"``), since the data count in the draw
already. Deviation: the source draws with replacement; a client trains once in a round here, so the draw is without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedlama.choices.samplers.informed import Population
from fedlama.choices.samplers.uniform import UniformSampler
from fedlama.core.randomness import generator
from fedlama.core.registry import register
from fedlama.errors import DataError


@register("sampler")
@dataclass(frozen=True)
class WeightedSampler(UniformSampler):
    """Draw `active` clients without replacement, with probabilities in proportion to their numbers of samples.

    The settings are those of :class:`~fedlama.choices.samplers.uniform.UniformSampler`. It costs no bytes.

    Example:
        >>> clients = Population(size=4, samples=lambda client: [1, 1, 1, 997][client])
        >>> WeightedSampler(active=1).choose(clients, round_index=0, seed=0)
        (3,)
    """

    name: ClassVar[str] = "weighted"
    chooses_by_clients: ClassVar[bool] = True
    looks_at_losses: ClassVar[bool] = False

    @property
    def counts_samples(self) -> bool:
        """True: the draw counts samples, so the average must not count them again."""
        return True

    def choose(self, population: Population, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the clients of one draw; see :class:`~fedlama.choices.samplers.informed.InformedSampler`."""
        return tuple(sorted(drawn_by_samples(population, self.active, round_index, seed)))


def drawn_by_samples(population: Population, count: int, round_index: int, seed: int) -> list[int]:
    """Draw clients without replacement, with probabilities in proportion to their numbers of samples.

    Args:
        population: What is known of the clients.
        count: How many to draw.
        round_index: The round.
        seed: The run's seed.

    Returns:
        The clients, in the order in which they were drawn.

    Raises:
        DataError: Fewer clients than that have samples.
    """
    samples = np.array([population.samples(client) for client in range(population.size)], dtype=np.float64)
    having = int((samples > 0).sum())
    if having < count:
        raise DataError(
            f"the sampler draws {count} clients by their numbers of samples, but only {having} clients have any; draw "
            f"{having} or fewer, or use the sampler 'uniform'"
        )
    draw = generator(seed, "cohort by samples", round_index)
    drawn = draw.choice(population.size, size=count, replace=False, p=samples / samples.sum())
    return [int(client) for client in drawn]
