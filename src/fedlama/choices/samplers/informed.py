"""Samplers that look at more than the number of clients: at how much data each has, or at how well each was served.

Such a sampler sets the class attribute `chooses_by_clients` and has a method `choose` beside the contract's `draw`.
`choose` must be a pure function of its arguments too: what it may know of the training so far is in
:class:`Population`, which the run keeps and checkpoints hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, TypeGuard

from fedlama.choices.samplers.base import Sampler


@dataclass(frozen=True)
class Population:
    """What a sampler may know of the clients.

    Attributes:
        size: Number of clients; they are numbered from 0.
        samples: Returns n_i, the number of training samples of a client.
        losses: The mean training loss of a client in the latest round that it answered, by client.
    """

    size: int
    samples: Callable[[int], int]
    losses: Mapping[int, float] = field(default_factory=dict)


class InformedSampler(Sampler, Protocol):
    """A sampler that chooses by what is known of the clients.

    Attributes:
        chooses_by_clients: True; a method that happens to be named `choose` does not make a sampler informed.
        looks_at_losses: Whether the choice depends on training losses, which differential privacy does not protect.
        counts_samples: Whether clients with more samples are more likely, so that the average must not count these
            again (``weighting="samples"`` is refused).
    """

    chooses_by_clients: ClassVar[bool]
    looks_at_losses: ClassVar[bool]

    @property
    def counts_samples(self) -> bool:
        """Whether clients with more samples are more likely."""

    def choose(self, population: Population, round_index: int, seed: int) -> tuple[int, ...]:
        """Return a cohort: `cohort_size` client numbers in ascending order.

        Args:
            population: What is known of the clients.
            round_index: The round in which the cohort starts.
            seed: The run's seed.

        Raises:
            DataError: The clients' numbers of samples do not allow such a cohort.
        """


def looks_at_losses(sampler: Sampler) -> bool:
    """Return whether a sampler may choose by training losses of single clients; one that does not say so, may."""
    return is_informed(sampler) and getattr(sampler, "looks_at_losses", True)


def is_informed(sampler: Sampler) -> TypeGuard[InformedSampler]:
    """Return whether a sampler chooses by what is known of the clients."""
    return bool(getattr(sampler, "chooses_by_clients", False))
