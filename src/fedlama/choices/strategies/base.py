"""The contract of strategies: in which rounds each layer is synchronised.

A strategy is a frozen dataclass of hyper-parameters with three pure methods and an immutable state. It sees names,
sizes and scalars, never tensors, engines, sockets or files, so the same object drives every engine.

    state = strategy.init(layers, seed)
    plan  = strategy.plan(state, round_index)
    state = strategy.fold(state, plan, statistics)

A strategy does not choose downloads. The driver derives them from the plans: each client receives the layers whose
global value changed since its last reply, or the complete model when it joins a new cohort.

To write one, inherit from :class:`Strategy` and define `name`, `base_interval`, `init` and `plan`. Everything else has
a default: override `fold` to adapt the schedule to what training shows, and then `bounds` to let
:func:`fedlama.analysis.forecast.forecast` say within which limits it stays.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from fedlama.core.layers import Layers
from fedlama.core.plan import LayerStatistics as LayerStatistics
from fedlama.core.plan import Plan as Plan

S = TypeVar("S")
Courses = tuple[Iterable[Plan], ...]
"""Courses that a run can take, each as the plans of all its rounds. One course is exact. With several, each quantity
(bytes up, bytes down, cost) of every run is between its smallest and its largest value over these courses."""


class Strategy(Protocol[S]):
    """In which rounds each layer is synchronised; `S` is the type of the strategy's state.

    A class with the same members need not inherit, but then it has no defaults.

    Attributes:
        name: The strategy's name in configuration files, run folders and on the command line.
        base_interval: Local steps between two synchronisations of a layer at the base interval, the paper's tau'. The
            costs of a run are given relative to FedAvg with this interval.
    """

    name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    if TYPE_CHECKING:  # read-only, so that frozen fields fit; at run time the property would become a field's default

        @property
        def base_interval(self) -> int:
            """Local steps between two synchronisations of a layer at the base interval, the paper's tau'."""

    @property
    def local_steps(self) -> int:
        """Local steps in one round; by default `base_interval`."""
        return self.base_interval

    @property
    def cycle_rounds(self) -> int:
        """Rounds between two points at which every layer is in sync; by default 1."""
        return 1

    @property
    def in_sync_at_cycles(self) -> bool:
        """Whether all layers are in sync after every `cycle_rounds` rounds, as a new cohort needs; by default True."""
        return True

    @property
    def measures_discrepancy(self) -> bool:
        """Whether :meth:`fold` needs the discrepancy, so that uploads carry one scalar per layer; by default False."""
        return False

    @property
    def recycles(self) -> bool:
        """Whether plans may recycle, so that the server must keep each layer's latest update; by default False."""
        return False

    @property
    def chooses_senders(self) -> bool:
        """Whether plans have `senders`, so that not all clients upload all that is due; by default False."""
        return False

    @property
    def measures_distances(self) -> bool:
        """Whether these senders are chosen by how far each client moved in the round; by default False."""
        return False

    @property
    def follows_loss(self) -> bool:
        """Whether the training loss decides plans, so that it must be known; by default, whether there is a `learn`."""
        return type(self).learn is not Strategy.learn

    @property
    def is_central(self) -> bool:
        """Whether one client holds all data, so that nothing is sent; by default False."""
        return False

    @abstractmethod
    def init(self, layers: Layers, seed: int) -> S:
        """Return the state before the first round.

        Args:
            layers: The labelling: names, sizes and the flag `adaptive` of each layer, in the model's order.
            seed: The run's seed, for strategies that draw at random.

        Raises:
            ConfigError: The strategy cannot work with these layers.
        """

    @abstractmethod
    def plan(self, state: S, round_index: int) -> Plan:
        """Decide a round; a pure function of its arguments.

        Args:
            state: The state after the previous round.
            round_index: The round, from 0.
        """

    def fold(self, state: S, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> S:
        """Return the state after a round; by default the same state, so that the schedule is known beforehand.

        Args:
            state: The state that `plan` was made from; never changed in place.
            plan: The round's plan, as it was carried out: in the last round of a run every layer is uploaded.
            statistics: What was measured for each uploaded layer, by its name. Use the discrepancy only with
                :attr:`measures_discrepancy`: without it, a deployment may not know it.
        """
        return state

    def learn(self, state: S, loss: float) -> S:
        """Return the state with a round's training loss, before :meth:`fold`; by default the same state.

        Args:
            state: The state that the round's plan was made from; never changed in place.
            loss: The mean training loss of the clients that answered; finite.
        """
        return state

    def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
        """Return the extreme courses of a run with these layers, if they are known before training.

        The default returns one exact course for a strategy that keeps the default :meth:`fold`, and None for others.
        A strategy that adapts may return the two extreme courses that it can take, as
        :meth:`fedlama.choices.strategies.fedlama.FedLAMA.bounds` does. Every round is taken to have enough replies.

        Args:
            layers: The labelling.
            rounds: Number of rounds of the run.
            seed: The run's seed.

        Returns:
            The courses; None when the schedule depends on training in a way that the strategy cannot bound.
        """
        if type(self).fold is not Strategy.fold:
            return None
        state = self.init(layers, seed)
        return ((self.plan(state, index) for index in range(rounds)),)
