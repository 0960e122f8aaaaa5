"""The contract between a strategy and whatever drives it.

A strategy is a frozen dataclass of hyper-parameters with three pure methods and an immutable state. It sees names,
sizes and scalars, never tensors, engines, sockets or files, so one object drives every engine.

    state = strategy.init(layers, seed)
    plan  = strategy.plan(state, round_index)
    state = strategy.fold(state, plan, statistics)

What goes *down* is no decision of a strategy: every client receives exactly what it lacks, which is what the server
changed since, or the complete model when it joins a new cohort. The driver works that out from the plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, TypeVar

from fedlama.core.layers import Layers
from fedlama.core.plan import LayerStatistics as LayerStatistics
from fedlama.core.plan import Plan as Plan

S = TypeVar("S")


class Strategy(Protocol[S]):
    """When each layer travels. See the module's docstring."""

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def base_interval(self) -> int:
        """Local steps between two synchronisations of a layer at the base interval, the paper's tau'."""

    @property
    def local_steps(self) -> int:
        """Local steps in one round."""

    @property
    def cycle_rounds(self) -> int:
        """Rounds between two points at which every layer is in sync."""

    @property
    def measures_discrepancy(self) -> bool:
        """Whether :meth:`fold` needs the discrepancy, so that uploads carry one scalar per layer."""

    @property
    def recycles(self) -> bool:
        """Whether plans may recycle, so that the server must remember each layer's latest update."""

    def init(self, layers: Layers, seed: int) -> S:
        """Return the state before the first round; refuse layers that the strategy cannot work with."""

    def plan(self, state: S, round_index: int) -> Plan:
        """Decide a round."""

    def fold(self, state: S, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> S:
        """Take in what the round's synchronisations measured; `statistics` holds the uploaded layers."""
