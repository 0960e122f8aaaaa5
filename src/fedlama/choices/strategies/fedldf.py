"""FedLDF: each layer comes from the clients that moved furthest in it.

Wang, Li, Chen, Wu and Ding, "Communication-Efficient Model Aggregation with Layer Divergence Feedback in Federated
Learning" (arXiv 2404.08324): all clients train the whole model and report the divergence ||theta_kl - theta_l|| of each
layer from the global model; for each layer the server asks the n clients with the largest divergence to upload it, and
averages these with weights in proportion to their data. With n = K it is FedAvg. All clients receive the whole model.

A round has two exchanges, both in the ledger: one float64 per layer and client up and a bit per layer and client down,
then the chosen layers up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole


@dataclass(frozen=True)
class Furthest:
    """The clients that moved furthest upload a layer; of equal ones those with the lower number.

    Args:
        count: How many clients upload a layer, the source's n.

    Example:
        >>> Furthest(1).choose(["conv", "dense"], [3, 5], {"conv": [0.5, 0.25], "dense": [1.0, 4.0]})
        {'conv': frozenset({3}), 'dense': frozenset({5})}
    """

    count: int
    needs_distances: ClassVar[bool] = True

    def choose(
        self, layers: Sequence[str], clients: Sequence[int], distances: Mapping[str, Sequence[float]]
    ) -> dict[str, frozenset[int]]:
        """Return the clients that upload each layer; see :class:`~fedlama.core.plan.Senders`.

        A layer without parameters, which has no distances, comes from all clients.
        """
        chosen: dict[str, frozenset[int]] = {}
        for layer in layers:
            if layer in distances:
                moved = dict(zip(clients, distances[layer], strict=True))
                chosen[layer] = frozenset(sorted(clients, key=lambda client: -moved[client])[: self.count])
        return chosen


@register("strategy")
@dataclass(frozen=True)
class FedLDF(Strategy[tuple[str, ...]]):
    """Take each layer from the `senders` clients of the cohort that moved furthest in it.

    Args:
        base_interval: Local steps per round; 1 or more.
        senders: Clients that upload a layer, the source's n; 1 or more. As many as the cohort has are FedAvg.

    Raises:
        ConfigError: A value is out of range.
    """

    name: ClassVar[str] = "fedldf"
    base_interval: int
    senders: int = 4

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "base_interval", "senders", minimum=1))

    @property
    def chooses_senders(self) -> bool:
        """True: a layer comes from some clients."""
        return True

    @property
    def measures_distances(self) -> bool:
        """True: the clients that moved furthest are asked."""
        return True

    def init(self, layers: Layers, seed: int) -> tuple[str, ...]:
        """Return the layers' names, which are the whole state."""
        return tuple(layer.name for layer in layers)

    def plan(self, state: tuple[str, ...], round_index: int) -> Plan:
        """Plan the upload of every layer, each by the clients that will have moved furthest."""
        senders = Furthest(self.senders)
        return Plan(round_index, frozenset(state), dict.fromkeys(state, 1), cycle_start=True, senders=senders)
