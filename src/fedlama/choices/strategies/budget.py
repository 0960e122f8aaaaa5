"""A byte budget: every layer gets one of several intervals, so that a cycle sends no more than a given share.

Let F be the rounds of a cycle and b_l the bytes of a layer. At the end of a cycle all adaptive layers get the interval
F. Then the interval of the layer with the largest d_l tau_l^2 among those whose extra uploads, b_l F / tau_l, still fit
into the budget is halved, again and again. Each step gains the most discrepancy per byte, so the result minimises
sum_l d_l b_l tau_l under the budget sum_l b_l F / tau_l, up to the last layer; hence tau_l is about proportional to
1 / sqrt(d_l). What is left of a cycle's budget is added to the next one's.

It is another interface than FedLAMA's phi: one sets bytes. At equal bytes the loss is about FedLAMA's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlama.choices.strategies.base import LayerStatistics, Plan, Strategy
from fedlama.choices.strategies.ranking import ORDERS, Order, scores
from fedlama.core.layers import Layer, Layers
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse, whole
from fedlama.errors import ConfigError, shown

_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class BudgetState:
    """The state of :class:`Budget` between rounds.

    Attributes:
        sizes: Bytes of every layer, statistics included, as float32 parameters are sent.
        parameters: dim(u_l) of every layer.
        adaptive: Layers that may adapt, in the model's order.
        intervals: Interval of every layer, in rounds.
        unit_discrepancy: The latest d_l of the layers that may adapt (eq. 2 of the FedLAMA paper).
        trained: Rounds that every layer has trained since it was last in sync.
        credit: Bytes of earlier budgets that were not spent; negative after a first cycle that spent too much.
        seed: The run's seed.
    """

    sizes: Mapping[str, int]
    parameters: Mapping[str, int]
    adaptive: tuple[str, ...]
    intervals: Mapping[str, int]
    unit_discrepancy: Mapping[str, float]
    trained: Mapping[str, int]
    credit: int
    seed: int


@register("strategy")
@dataclass(frozen=True)
class Budget(Strategy[BudgetState]):
    """Synchronise layers at intervals of 1, 2, 4, ... rounds, so that a cycle sends a given share of the model's bytes.

    Layers that do not adapt (biases, normalisation with its statistics) are synchronised in every round, and count.

    Args:
        base_interval: Local steps of a round; 1 or more.
        share: Bytes of a cycle relative to a synchronisation of the whole model in every round, in (0, 1].
        megabytes: Bytes that a client uploads in a cycle, in units of 10^6 and before compression; they take the place
            of `share`.
        levels: Number of intervals: 1, 2, ..., 2^(levels - 1) rounds. A cycle has 2^(levels - 1) rounds.
        order: Which layers get long intervals; see :data:`fedlama.choices.strategies.ranking.Order`.
        stagger: Whether layers of the same interval are synchronised in different rounds, which spreads the traffic.
            Then all layers are never in sync at once, so all clients must take part in every round.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> import torch
        >>> from fedlama.core.layers import Layer, TensorSpec
        >>> layers = tuple(
        ...     Layer(name, (TensorSpec(name, (size,), torch.float32, trainable=True),), adaptive=True)
        ...     for name, size in (("conv", 100), ("dense", 300))
        ... )
        >>> budget = Budget(base_interval=6, share=0.5, levels=3)
        >>> state = budget.init(layers, seed=0)
        >>> dict(state.intervals)  # the first cycle: the same for all
        {'conv': 2, 'dense': 2}
        >>> budget.intervals_within(state, {"conv": 9.0, "dense": 1.0}, room=800 * 4)
        {'conv': 1, 'dense': 4}
    """

    name: ClassVar[str] = "budget"
    base_interval: int
    share: float = 0.25
    megabytes: float | None = None
    levels: int = 4
    order: Order = "discrepancy"
    stagger: bool = False

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", "levels", minimum=1) + one_of(self, "order", ORDERS)
        if self.megabytes is not None:
            problems += at_least(self, 0, "megabytes")
        if not isinstance(self.share, float | int) or isinstance(self.share, bool) or not 0.0 < self.share <= 1.0:
            problems.append(f"Budget: share is {shown(self.share)}, expected a number in (0, 1]; use such as 0.25")
        if self.stagger not in (False, True):
            problems.append(f"Budget: stagger is {shown(self.stagger)}, expected true or false; use one of them")
        refuse(problems)

    @property
    def cycle_rounds(self) -> int:
        """F: the rounds between two adjustments, and the longest interval."""
        return int(2 ** (self.levels - 1))

    @property
    def in_sync_at_cycles(self) -> bool:
        """False for a staggered schedule."""
        return not self.stagger

    @property
    def measures_discrepancy(self) -> bool:
        """True, where the discrepancy decides."""
        return self.levels > 1 and self.order in ("discrepancy", "inverse")

    def init(self, layers: Layers, seed: int) -> BudgetState:
        """Return the state before the first cycle, in which all adaptive layers have the same interval.

        Raises:
            ConfigError: The budget is too small to synchronise every layer once in a cycle.
        """
        sizes = {layer.name: _bytes_of(layer) for layer in layers}
        adaptive = tuple(layer.name for layer in layers if layer.adaptive)
        always, whole_model = sum(sizes.values()) - sum(sizes[name] for name in adaptive), sum(sizes.values())
        least = self.cycle_rounds * always + sum(sizes[name] for name in adaptive)
        if self._room(whole_model) < least:
            share = math.ceil(1000 * least / (self.cycle_rounds * whole_model)) / 1000
            given = f"share is {self.share}" if self.megabytes is None else f"megabytes is {self.megabytes}"
            raise ConfigError(
                f"Budget: {given}, but the layers that do not adapt and one synchronisation of the others in "
                f"{self.cycle_rounds} rounds take share {share}, or {math.ceil(least / 1e4) / 100} megabytes; give at "
                "least that, or raise levels"
            )
        spare = self._room(whole_model) / self.cycle_rounds / max(whole_model, 1)
        first = min(2 ** max(math.ceil(-math.log2(spare) - 1e-9), 0), self.cycle_rounds) if spare > 0 else 1
        state = BudgetState(
            sizes=sizes,
            parameters={layer.name: layer.parameters for layer in layers},
            adaptive=adaptive,
            intervals={name: first if name in adaptive else 1 for name in sizes},
            unit_discrepancy=dict.fromkeys(adaptive, 0.0),
            trained=dict.fromkeys(sizes, 0),
            credit=0,
            seed=seed,
        )
        return replace(state, credit=self._room(whole_model) - self._spent(state))

    def plan(self, state: BudgetState, round_index: int) -> Plan:
        """Plan the upload of the layers that are due."""
        position = round_index % self.cycle_rounds + 1
        phases = self._phases(state)
        due = frozenset(
            name for name, interval in state.intervals.items() if (position + phases.get(name, 0)) % interval == 0
        )
        trained = {name: rounds + 1 for name, rounds in state.trained.items()}
        start = round_index == 0 if self.stagger else position == 1
        return Plan(round_index, due, state.intervals, cycle_start=start, trained_rounds=trained)

    def fold(self, state: BudgetState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> BudgetState:
        """Update d_l and, at the end of a cycle, give out the next cycle's budget."""
        measured = dict(state.unit_discrepancy)
        for name in state.adaptive:
            if name in statistics:
                steps = plan.rounds_apart(name) * self.local_steps
                measured[name] = statistics[name].discrepancy / (steps * max(state.parameters[name], 1))
        trained = {name: 0 if name in statistics else rounds + 1 for name, rounds in state.trained.items()}
        state = replace(state, unit_discrepancy=measured, trained=trained)
        return self._adjusted(state, plan.round_index) if (plan.round_index + 1) % self.cycle_rounds == 0 else state

    def intervals_within(self, state: BudgetState, score: Mapping[str, float], room: int) -> dict[str, int]:
        """Return the intervals that the greedy rule gives to the adaptive layers.

        Args:
            state: The state, for the layers and their bytes.
            score: What takes the place of d_l, for every adaptive layer.
            room: Bytes that the adaptive layers may send in a cycle.
        """
        cycle = self.cycle_rounds
        intervals = dict.fromkeys(state.adaptive, cycle)
        left = room - sum(state.sizes[name] for name in state.adaptive)
        while True:
            fitting = [n for n, tau in intervals.items() if tau > 1 and state.sizes[n] * (cycle // tau) <= left]
            if not fitting:
                return intervals
            best = max(fitting, key=lambda name: score[name] * intervals[name] ** 2)  # the first one of equals
            left -= state.sizes[best] * (cycle // intervals[best])
            intervals[best] //= 2

    def _adjusted(self, state: BudgetState, round_index: int) -> BudgetState:
        """Return the state with the next cycle's intervals."""
        adjustment = round_index // self.cycle_rounds
        score = scores(self.order, state.unit_discrepancy, state.parameters, state.seed, adjustment)
        always = sum(state.sizes.values()) - sum(state.sizes[name] for name in state.adaptive)
        budget = self._room(sum(state.sizes.values())) + state.credit
        chosen = self.intervals_within(state, score, budget - self.cycle_rounds * always)
        state = replace(state, intervals={name: chosen.get(name, 1) for name in state.sizes})
        return replace(state, credit=budget - self._spent(state))

    def _room(self, whole_model: int) -> int:
        """Return a cycle's budget, in bytes that one client uploads."""
        if self.megabytes is not None:
            return int(self.megabytes * _MEGABYTE)
        return int(self.share * self.cycle_rounds * whole_model)

    def _spent(self, state: BudgetState) -> int:
        """Return the bytes that a cycle with the state's intervals sends."""
        return sum(state.sizes[name] * (self.cycle_rounds // interval) for name, interval in state.intervals.items())

    def _phases(self, state: BudgetState) -> dict[str, int]:
        """Return by how many rounds each layer is earlier than at multiples of its interval; none without `stagger`."""
        seen: dict[int, int] = {}
        phases = {}
        for name in state.adaptive if self.stagger else ():
            interval = state.intervals[name]
            phases[name] = seen.get(interval, 0) % interval
            seen[interval] = seen.get(interval, 0) + 1
        return phases


def _bytes_of(layer: Layer) -> int:
    return sum(spec.size * spec.dtype.itemsize for spec in layer.tensors)
