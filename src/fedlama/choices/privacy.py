"""Differential privacy of clients: their contributions are limited, and noise is added to their average.

McMahan, Ramage, Talwar and Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018, with cohorts
of a fixed size: at the end of a round every client shortens its change of the model to the norm `clip`, all clients
weigh the same, and the server adds Gaussian noise of the standard deviation ``noise * clip / m`` to the mean of the m
clients that answered. What it does with the result, a server optimizer or FedLUAR's score, needs no more noise.

**What is promised.** (epsilon, delta) holds for the global models of all rounds, against someone who sees them, knows
all other clients, and asks what was on one client: neighbours differ in one client's data, so one mean may differ by
``2 clip / m``, twice what `noise` counts from. The server is trusted: it sees every client's change. Noise is drawn
from the run's seed, which must then stay secret. The promise does not cover losses, scores and the numbers of a report.

The composition over rounds is computed by Google's ``dp-accounting`` (the extra ``privacy``), by Renyi differential
privacy: with amplification by sampling where a cohort is drawn uniformly for every round, and without it elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from fedlama.choices.samplers import Sampler
from fedlama.choices.solvers.per_client import along_clients, client_norms
from fedlama.core.randomness import seed_of
from fedlama.core.validation import at_least, between, normalise_numbers, refuse
from fedlama.errors import MissingExtraError, shown


@dataclass(frozen=True)
class Privacy:
    """Limits of what the global model may say of one client.

    Args:
        clip: The largest norm of a client's change of the model in a round, more than 0.
        noise: Standard deviation of the noise in the sum over the clients, as a multiple of `clip`; 0 or more. With 0
            contributions are limited, but nothing is promised.
        per_layer: Whether every one of L layers is shortened by itself, to ``clip / sqrt(L)``; then large layers do not
            take the room of small ones.
        delta: The delta that epsilon is computed for, in (0, 1); below 1 / (number of clients).

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> changes = [torch.tensor([[3.0, 4.0], [0.3, 0.4]])]  # two clients
        >>> Privacy(clip=1.0).limit(changes, [torch.zeros(2)], [[0]])
        >>> changes
        [tensor([[0.6000, 0.8000],
                [0.3000, 0.4000]])]
    """

    clip: float = 1.0
    noise: float = 1.0
    per_layer: bool = False
    delta: float = 1e-5

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = at_least(self, 0, "clip", "noise") + between(self, 0, 1, "delta")
        if not problems and self.clip == 0:
            problems.append("Privacy: clip is 0, expected more than 0; raise it")
        if not problems and self.delta == 0:
            problems.append("Privacy: delta is 0, expected more than 0; use such as 1e-5")
        if self.per_layer not in (False, True):
            problems.append(f"Privacy: per_layer is {shown(self.per_layer)}, expected true or false; use one of them")
        refuse(problems)

    def limit(self, parameters: Sequence[Tensor], reference: Sequence[Tensor], layers: Sequence[Sequence[int]]) -> None:
        """Shorten every client's change of the model, in place.

        Args:
            parameters: The parameters that are sent, each (clients, ...).
            reference: Their global values, each of one client's shape.
            layers: The positions of each layer's parameters.
        """
        if not parameters:
            return
        changes = [value - known for value, known in zip(parameters, reference, strict=True)]  # (clients, ...) each
        groups = list(layers) if self.per_layer else [range(len(changes))]
        bound = self.clip / math.sqrt(len(groups))
        for group in groups:
            norms = client_norms([changes[position] for position in group])
            factors = (bound / norms.clamp(min=torch.finfo(norms.dtype).tiny)).clamp(max=1.0)  # (clients,)
            for position in group:
                change = changes[position] * along_clients(factors, changes[position])
                # A change within the bound keeps its exact value, without the way through a difference and back.
                kept = along_clients(factors, change) >= 1.0
                moved = torch.where(kept, parameters[position], reference[position] + change)
                parameters[position].copy_(moved)

    def noisy(self, average: Tensor, answered: int, seed: int, round_index: int, position: int) -> Tensor:
        """Return an average with noise, which belongs to its round and tensor alone.

        Args:
            average: The mean of a tensor over the clients.
            answered: How many clients answered.
            seed: The run's seed.
            round_index: The round, from 0.
            position: The tensor's position in the model.
        """
        if self.noise == 0:
            return average
        generator = torch.Generator().manual_seed(seed_of(seed, "privacy", round_index, position))
        drawn = torch.randn(average.shape, generator=generator, dtype=torch.float64)
        return average + (drawn * (self.noise * self.clip / answered)).to(average.device, average.dtype)

    def epsilon(self, rounds: int, population: int, sampler: Sampler) -> float:
        """Return epsilon after some rounds, for the `delta` of the settings; infinity without noise.

        Args:
            rounds: Rounds done.
            population: Number of clients.
            sampler: Who takes part.

        Raises:
            MissingExtraError: ``dp-accounting`` is not installed.
        """
        accounting, events = _library()
        if self.noise == 0 or rounds == 0:
            return math.inf if self.noise == 0 else 0.0
        once = events.GaussianDpEvent(self.noise / 2.0)  # one client replaced moves the sum by 2 clip
        active = sampler.cohort_size(population)
        if getattr(sampler, "is_uniform", False) and active < population:
            once = events.SampledWithoutReplacementDpEvent(population, active, once)
        replaced = accounting.NeighboringRelation.REPLACE_ONE
        accountant = accounting.rdp.RdpAccountant(neighboring_relation=replaced)
        accountant.compose(events.SelfComposedDpEvent(once, rounds))
        return float(accountant.get_epsilon(self.delta))

    def figures(self, rounds: int, population: int, sampler: Sampler) -> dict[str, float]:
        """Return what belongs into a run's summary: epsilon and delta.

        Args:
            rounds: Rounds done.
            population: Number of clients.
            sampler: Who takes part.
        """
        return {"epsilon": self.epsilon(rounds, population, sampler), "delta": self.delta}


def _library() -> tuple[Any, Any]:
    """Return the accountant's library and its events.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        accounting: Any = import_module("dp_accounting")
        import_module("dp_accounting.rdp")  # not loaded with the package in every version
    except ImportError as error:
        raise MissingExtraError("dp-accounting", "privacy") from error
    return accounting, accounting.dp_event


def check_accountant() -> None:
    """Refuse a run whose epsilon could not be computed at its end.

    Raises:
        MissingExtraError: ``dp-accounting`` is not installed.
    """
    _library()
