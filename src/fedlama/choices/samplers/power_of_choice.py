"""Power-of-choice: of some candidates, those train whose loss was the highest.

Cho, Wang and Joshi, "Towards Understanding Biased Client Selection in Federated Learning", AISTATS 2022: d candidates
are drawn with probabilities p_i = n_i / n without replacement, and the m with the highest local losses form the cohort.
This is the source's variant rpow-d: a candidate's loss is its mean training loss in the latest round that it answered,
and infinity before its first one, so nothing is sent to candidates and nothing is computed on them. The source weights
the cohort equally (``weighting="equal"``), because the candidates' draw counts samples already.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from fedlama.choices.samplers.informed import Population
from fedlama.choices.samplers.uniform import UniformSampler
from fedlama.choices.samplers.weighted import drawn_by_samples
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import one_of, refuse, whole
from fedlama.errors import ConfigError


@register("sampler")
@dataclass(frozen=True)
class PowerOfChoice(UniformSampler):
    """Draw `candidates` clients by their numbers of samples, and take the `active` ones with the highest losses.

    It speeds up the first rounds where clients differ; a higher `candidates` is faster, and settles further away from
    the mean over all clients. It costs no bytes.

    Args:
        active: Clients in a cohort, the source's m; 1 or more.
        candidates: Clients that are drawn, the source's d; `active` or more.
        hold_rounds: As in :class:`~fedlama.choices.samplers.uniform.UniformSampler`.
        candidates_by: How candidates are drawn: by their ``"samples"``, as in the source, which needs
            ``weighting="equal"``; or ``"uniform"``, with which clients may be weighted by their samples.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> clients = Population(size=3, samples=lambda client: 10, losses={0: 0.5, 1: 2.0, 2: 0.1})
        >>> PowerOfChoice(active=1, candidates=3).choose(clients, round_index=5, seed=0)
        (1,)
    """

    name: ClassVar[str] = "power-of-choice"
    chooses_by_clients: ClassVar[bool] = True
    looks_at_losses: ClassVar[bool] = True
    candidates: int = 10
    candidates_by: Literal["samples", "uniform"] = field(default="samples", metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = whole(self, "candidates", minimum=1) + one_of(self, "candidates_by", ("samples", "uniform"))
        if not problems and self.candidates < self.active:
            problems.append(
                f"PowerOfChoice: candidates is {self.candidates}, expected active ({self.active}) or more; raise it"
            )
        refuse(problems)

    @property
    def counts_samples(self) -> bool:
        """Whether the candidates' draw counts samples, so that the average must not count them again."""
        return self.candidates_by == "samples"

    def cohort_size(self, population: int) -> int:
        """Return `active`.

        Raises:
            ConfigError: There are fewer clients than candidates.
        """
        if self.candidates > population:
            raise ConfigError(
                f"PowerOfChoice: candidates is {self.candidates}, but there are only {population} clients; "
                f"choose {population} or fewer, or give more clients"
            )
        return super().cohort_size(population)

    def choose(self, population: Population, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the candidates with the highest losses, of equal ones those drawn first."""
        if self.candidates_by == "samples":
            drawn = drawn_by_samples(population, self.candidates, round_index, seed)
        else:
            drawn = permutation(seed, "candidates", population.size, round_index)[: self.candidates].tolist()
        ordered = sorted(drawn, key=lambda client: -population.losses.get(client, math.inf))
        return tuple(sorted(ordered[: self.active]))
