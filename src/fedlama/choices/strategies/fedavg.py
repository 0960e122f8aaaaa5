"""FedAvg with interval tau: every layer travels in every round.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, counted in
local steps instead of epochs as in the FedLAMA paper. It equals FedLAMA with phi = 1 bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.base import LayerStatistics, Plan
from fedlama.core.layers import Layers
from fedlama.core.validation import at_least, refuse, whole


@dataclass(frozen=True)
class FedAvg:
    """Synchronise the whole model every `base_interval` local steps.

    Args:
        base_interval: Local steps per round, the paper's tau.
    """

    name: ClassVar[str] = "fedavg"
    base_interval: int

    def __post_init__(self) -> None:
        refuse(whole(self, "base_interval") or at_least(self, 1, "base_interval"))

    @property
    def local_steps(self) -> int:
        """Local steps in one round."""
        return self.base_interval

    @property
    def cycle_rounds(self) -> int:
        """Every round ends in sync."""
        return 1

    @property
    def measures_discrepancy(self) -> bool:
        """FedAvg decides nothing, so no scalars travel."""
        return False

    @property
    def recycles(self) -> bool:
        """Nothing is recycled."""
        return False

    def init(self, layers: Layers, seed: int) -> tuple[str, ...]:
        """Remember the layers' names; that is all the state there is."""
        return tuple(layer.name for layer in layers)

    def plan(self, state: tuple[str, ...], round_index: int) -> Plan:
        """Everything comes up."""
        return Plan(round_index, frozenset(state), dict.fromkeys(state, 1), cycle_start=True)

    def fold(self, state: tuple[str, ...], plan: Plan, statistics: Mapping[str, LayerStatistics]) -> tuple[str, ...]:
        """Nothing is learnt."""
        return state
