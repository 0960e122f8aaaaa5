"""Central training on the pooled data: nothing is sent. Federations are compared with it; it is not one itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.fedavg import FedAvg
from fedlama.core.registry import register


@register("strategy")
@dataclass(frozen=True)
class Pooled(FedAvg):
    """Train a single client that holds all data; :func:`fedlama.pooled` makes a federation of it.

    In an experiment, ``strategy.name = "pooled"`` pools the data of all clients.

    Args:
        base_interval: Local steps of a round on the run's clock.
    """

    name: ClassVar[str] = "pooled"

    @property
    def is_central(self) -> bool:
        """True: nothing is sent."""
        return True
