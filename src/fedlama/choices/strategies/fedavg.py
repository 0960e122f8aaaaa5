"""FedAvg with interval tau: every layer is synchronised in every round.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017. Deviation:
local work is counted in steps, as in the FedLAMA paper, and not in epochs. It equals FedLAMA with phi = 1 bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole


@register("strategy")
@dataclass(frozen=True)
class FedAvg(Strategy[tuple[str, ...]]):
    """Synchronise the whole model every `base_interval` local steps.

    Args:
        base_interval: Local steps per round, the paper's tau; 1 or more.

    Raises:
        ConfigError: The interval is out of range.

    Example:
        >>> fedavg = FedAvg(base_interval=6)
        >>> sorted(fedavg.plan(("conv", "bias"), round_index=0).upload)
        ['bias', 'conv']
    """

    name: ClassVar[str] = "fedavg"
    base_interval: int

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "base_interval", minimum=1))

    def init(self, layers: Layers, seed: int) -> tuple[str, ...]:
        """Return the layers' names, which are the whole state."""
        return tuple(layer.name for layer in layers)

    def plan(self, state: tuple[str, ...], round_index: int) -> Plan:
        """Plan the upload of every layer."""
        return Plan(round_index, frozenset(state), dict.fromkeys(state, 1), cycle_start=True)
