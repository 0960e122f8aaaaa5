"""FedLP: in every round each client uploads each layer with a fixed probability.

Zhu, Fan, Chen, Chen and Guan, "FedLP: Layer-wise Pruning Mechanism for Communication-Computation Efficient Federated
Learning", ICC 2023 (arXiv 2303.06360), the scheme for clients with equal models: client k keeps layer l with the
layer-preserving rate p, independently, and the server averages a layer over the clients that kept it. A layer that no
client kept stays as it is. All clients train and receive the whole model. The scheme for clients with models of
different depths is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.randomness import uniform
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, share_problems, whole


@dataclass(frozen=True)
class KeptAtRandom:
    """Each client uploads each layer with the same probability.

    Args:
        keep: The probability p.
        seed: The run's seed.
        round_index: The round, from 0.
        names: All layers; a layer's position among them addresses its draws.

    Example:
        >>> KeptAtRandom(0.5, seed=0, round_index=0, names=("conv", "dense")).choose(["dense"], [0, 1, 2], {})
        {'dense': frozenset({0})}
    """

    keep: float
    seed: int
    round_index: int
    names: tuple[str, ...]
    needs_distances: ClassVar[bool] = False

    def choose(
        self, layers: Sequence[str], clients: Sequence[int], distances: Mapping[str, Sequence[float]]
    ) -> dict[str, frozenset[int]]:
        """Return the clients that keep each layer; see :class:`~fedlama.core.plan.Senders`."""
        chosen: dict[str, frozenset[int]] = {}
        for layer in layers:
            draws = uniform(self.seed, "kept layers", self.round_index, self.names.index(layer), list(clients))
            chosen[layer] = frozenset(
                client for client, draw in zip(clients, draws.tolist(), strict=True) if draw < self.keep
            )
        return chosen


@register("strategy")
@dataclass(frozen=True)
class FedLP(Strategy[tuple[tuple[str, ...], int]]):
    """Let each client upload each layer with probability `keep`.

    Args:
        base_interval: Local steps per round; 1 or more.
        keep: The layer-preserving rate p; above 0, up to 1, which is FedAvg.

    Raises:
        ConfigError: A value is out of range.
    """

    name: ClassVar[str] = "fedlp"
    base_interval: int
    keep: float = 0.5

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "base_interval", minimum=1) + share_problems(self, "keep"))

    @property
    def chooses_senders(self) -> bool:
        """True: a layer comes from some clients."""
        return True

    def init(self, layers: Layers, seed: int) -> tuple[tuple[str, ...], int]:
        """Return the layers' names and the run's seed, which are the whole state."""
        return tuple(layer.name for layer in layers), seed

    def plan(self, state: tuple[tuple[str, ...], int], round_index: int) -> Plan:
        """Plan the upload of every layer, each by the clients that are drawn for it."""
        names, seed = state
        senders = KeptAtRandom(self.keep, seed, round_index, names)
        return Plan(round_index, frozenset(names), dict.fromkeys(names, 1), cycle_start=True, senders=senders)
