"""FedLAMA: every layer gets the aggregation interval tau' or phi * tau', by its discrepancy across clients.

Lee, Zhang, He and Avestimehr, "Layer-wise Adaptive Model Aggregation for Scalable Federated Learning", AAAI 2023
(arXiv 2110.10302), Algorithms 1 and 2. Places where the paper and its authors' program (swblaster/FedLAMA) differ:

=========================  ==========================================  ==============================================
switch                     default                                     the authors' program
=========================  ==========================================  ==============================================
cutoff                     crossing of delta and 1 - lambda (text)     the same (line 9 as printed is "printed")
discrepancy_share          delta and lambda over the adaptive layers   "all": delta's denominator over every layer
warm_up_rounds             0: the first adjustment ends cycle one      6: no adjustment before round index 6
Layer.adaptive             tensors with more than one dimension        the same
client weights             p_i = n_i / n (see Federation.weighting)    "equal"
=========================  ==========================================  ==============================================

A layer that is not due keeps each client's own value. Intervals change only when every layer has just been
synchronised, so each layer's discrepancy belongs to a single interval.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from fedlama.choices.strategies.base import Courses, LayerStatistics, Plan, Strategy
from fedlama.choices.strategies.cutoff import Curves, Cutoff, least_critical, most_critical
from fedlama.choices.strategies.ranking import ORDERS, Order, same_share
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.layers import Layers
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole


@dataclass(frozen=True)
class FedLAMAState:
    """FedLAMA's state between rounds.

    Attributes:
        parameters: dim(u_l) of every layer.
        adaptive: Layers that may adapt.
        intervals: Interval of every layer in rounds, tau_l divided by the local steps of a round.
        unit_discrepancy: The latest d_l of every layer (eq. 2).
        seed: The run's seed, which only ``order="random"`` uses.
    """

    parameters: Mapping[str, int]
    adaptive: frozenset[str]
    intervals: Mapping[str, int]
    unit_discrepancy: Mapping[str, float]
    seed: int = 0


@register("strategy")
@dataclass(frozen=True)
class FedLAMA(Strategy[FedLAMAState]):
    """Synchronise the layers that diverge least only every `increase_factor` rounds.

    Args:
        base_interval: tau', the base interval in local steps; 1 or more.
        increase_factor: phi, the factor by which the interval of the least critical layers grows; 1 or more.
        cutoff: The rule of the selection; see :func:`fedlama.choices.strategies.cutoff.least_critical`.
        discrepancy_share: Layers in the denominator of delta_l: the ``"adaptive"`` ones, or ``"all"``.
        warm_up_rounds: Number of first rounds after which nothing is adjusted; 0 or more.
        accelerate: The variant of section 4: no interval grows; instead the few most diverged layers get the shorter
            interval tau' / phi. The paper does not say how they are selected, so
            :func:`fedlama.choices.strategies.cutoff.most_critical` is this program's reading. A round then lasts
            tau' / phi local steps, and every layer is in sync every tau'.
        order: ``"discrepancy"`` is the paper's criterion. The others are controls that relax about as many parameters,
            but choose the layers in another order; see :data:`fedlama.choices.strategies.ranking.Order`.

    Raises:
        ConfigError: A value is out of range, or `accelerate` does not fit the other settings.

    Example:
        >>> from fedlama.core.layers import Layer
        >>> fedlama = FedLAMA(base_interval=6, increase_factor=2)
        >>> fedlama.local_steps, fedlama.cycle_rounds
        (6, 2)
        >>> start = fedlama.init((Layer("conv", (), adaptive=True), Layer("bias", (), adaptive=False)), seed=0)
        >>> relaxed = fedlama.adjusted(start, {"conv"})
        >>> [sorted(fedlama.plan(relaxed, index).upload) for index in (2, 3)]
        [['bias'], ['bias', 'conv']]
    """

    name: ClassVar[str] = "fedlama"
    base_interval: int
    increase_factor: int
    cutoff: Cutoff = "crossing"
    discrepancy_share: Literal["adaptive", "all"] = "adaptive"
    warm_up_rounds: int = 0
    accelerate: bool = False
    order: Order = field(default="discrepancy", metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", "increase_factor", minimum=1) + whole(self, "warm_up_rounds", minimum=0)
        problems += one_of(self, "cutoff", ("crossing", "printed"))
        problems += one_of(self, "discrepancy_share", ("adaptive", "all")) + one_of(self, "order", ORDERS)
        if self.accelerate and self.order != "discrepancy":
            problems.append(
                f"FedLAMA: order is {self.order!r}, which is not defined for accelerate; leave order='discrepancy', or "
                "set accelerate=false"
            )
        refuse(problems)
        if self.accelerate:
            refuse(self._misfits())

    def _misfits(self) -> list[str]:
        """Return the problems of settings that do not fit the accelerating variant."""
        problems = []
        if self.base_interval % self.increase_factor:
            problems.append(
                f"FedLAMA: accelerate divides base_interval ({self.base_interval}) by increase_factor "
                f"({self.increase_factor}), which leaves a remainder; choose a multiple"
            )
        if self.cutoff != "crossing" or self.discrepancy_share != "adaptive":
            problems.append(
                "FedLAMA: accelerate has a cut-off of its own over the adaptive layers; leave cutoff='crossing' and "
                "discrepancy_share='adaptive', or set accelerate=false"
            )
        return problems

    @property
    def local_steps(self) -> int:
        """Local steps in one round: tau', or tau' / phi when accelerating."""
        return self.base_interval // self.increase_factor if self.accelerate else self.base_interval

    @property
    def cycle_rounds(self) -> int:
        """Phi: the rounds between two full synchronisations."""
        return self.increase_factor

    @property
    def measures_discrepancy(self) -> bool:
        """True, but for phi = 1, where there is nothing to decide."""
        return self.increase_factor > 1

    def init(self, layers: Layers, seed: int) -> FedLAMAState:
        """Return the state with tau' for every layer (Algorithm 1, line 1)."""
        start = self.increase_factor if self.accelerate else 1
        return FedLAMAState(
            parameters={layer.name: layer.parameters for layer in layers},
            adaptive=frozenset(layer.name for layer in layers if layer.adaptive),
            intervals={layer.name: start for layer in layers},
            unit_discrepancy={layer.name: 0.0 for layer in layers},
            seed=seed,
        )

    def plan(self, state: FedLAMAState, round_index: int) -> Plan:
        """Plan the upload of the layers whose interval ends with this round (line 5)."""
        due = frozenset(name for name, interval in state.intervals.items() if (round_index + 1) % interval == 0)
        return Plan(round_index, due, state.intervals, cycle_start=round_index % self.increase_factor == 0)

    def fold(self, state: FedLAMAState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> FedLAMAState:
        """Update d_l (line 7) and, at the end of a cycle, adjust the intervals (lines 8 and 9)."""
        measured = dict(state.unit_discrepancy)
        for name, statistic in statistics.items():
            steps = plan.rounds_apart(name) * self.local_steps  # less than tau_l when a last round ends a cycle early
            measured[name] = statistic.discrepancy / (steps * max(state.parameters[name], 1))  # eq. 2
        state = replace(state, unit_discrepancy=measured)
        if not self.adjusts_after(plan.round_index):
            return state
        d = {name: value for name, value in measured.items() if name in state.adaptive}
        adjustment = plan.round_index // self.increase_factor
        chosen = same_share(self.order, self.curves(state).chosen, d, state.parameters, state.seed, adjustment)
        return self.adjusted(state, chosen)

    def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
        """Return the two courses in which each adjustment selects no layer, and all layers that may adapt.

        Every run stays between them, since a longer interval never adds an upload. For a subclass with another
        :meth:`fold` or other :meth:`curves`, which may adjust in another way, it is None.
        """
        if type(self).fold is not FedLAMA.fold or type(self).curves is not FedLAMA.curves:
            return None
        start = self.init(layers, seed)
        return tuple(self._course(start, chosen, rounds) for chosen in (frozenset[str](), start.adaptive))

    def _course(self, state: FedLAMAState, chosen: frozenset[str], rounds: int) -> Iterator[Plan]:
        """Yield the plans of a run whose adjustments always select the same layers."""
        for index in range(rounds):
            yield self.plan(state, index)
            if self.adjusts_after(index):
                state = self.adjusted(state, chosen)

    def adjusts_after(self, round_index: int) -> bool:
        """Return whether the intervals are adjusted at the end of a round (line 8, and the warm-up).

        Args:
            round_index: The round, from 0.
        """
        rounds_done = round_index + 1
        ends_cycle = rounds_done % self.increase_factor == 0
        return ends_cycle and rounds_done > self.warm_up_rounds and self.increase_factor > 1

    def adjusted(self, state: FedLAMAState, chosen: Collection[str]) -> FedLAMAState:
        """Return the state in which the chosen layers have the long interval, or the short one when accelerating.

        Args:
            state: The state before the adjustment.
            chosen: Names of layers that may adapt.
        """
        inside, outside = (1, self.increase_factor) if self.accelerate else (self.increase_factor, 1)
        return replace(state, intervals={name: inside if name in chosen else outside for name in state.intervals})

    def curves(self, state: FedLAMAState) -> Curves:
        """Return delta_l, 1 - lambda_l and the selection for the discrepancies of a state (Algorithm 2).

        Args:
            state: The state, with all layers measured.
        """
        d = {name: state.unit_discrepancy[name] for name in state.intervals if name in state.adaptive}
        if self.accelerate:
            return most_critical(d, state.parameters)
        total = None
        if self.discrepancy_share == "all":
            total = sum(value * state.parameters[name] for name, value in state.unit_discrepancy.items())
        return least_critical(d, state.parameters, rule=self.cutoff, total=total)
