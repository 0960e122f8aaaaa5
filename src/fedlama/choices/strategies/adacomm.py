"""AdaComm: the whole model's interval follows the training loss, from long at the start to short at the end.

Wang and Joshi, "Adaptive Communication Strategies to Achieve the Best Error-Runtime Trade-off in Local-Update SGD",
MLSys 2019 (arXiv 1810.08313): after each block of training the interval becomes tau = ceil(sqrt(F / F_0) tau_0), F_0
the first loss and tau_0 the first interval. Where that is not shorter than the interval before, it becomes gamma times
that interval.

Deviations: intervals are whole rounds of `base_interval` local steps, and a block is a number of rounds, where the
source has seconds; F is the mean training loss of the block's last round, and F_0 that of the first round; the rule for
a learning rate that changes is left out. Every block ends in sync, so cohorts may change there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from fedlama.choices.strategies.base import Courses, LayerStatistics, Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.registry import register
from fedlama.core.validation import at_least, normalise_numbers, refuse, share_problems, whole


@dataclass(frozen=True)
class AdaCommState:
    """AdaComm's state between rounds.

    Attributes:
        names: All layers.
        interval: The interval in force, in rounds.
        first_loss: The loss of the first round; None before it.
        loss: The loss of the latest round.
    """

    names: tuple[str, ...]
    interval: int
    first_loss: float | None = None
    loss: float | None = None


@register("strategy")
@dataclass(frozen=True)
class AdaComm(Strategy[AdaCommState]):
    """Synchronise the whole model in an interval that shrinks with the square root of the training loss.

    Args:
        base_interval: Local steps per round; 1 or more.
        first_interval: The first interval in rounds, the source's tau_0 / base_interval; 1 or more.
        adapt_every: Rounds of a block, after which the interval changes; 2 or more, and `first_interval` or
            more.
        shrink: Gamma; above 0, up to 1.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> from fedlama.core.layers import Layer
        >>> adacomm = AdaComm(base_interval=5, first_interval=4, adapt_every=8)
        >>> state = adacomm.init((Layer("conv", (), adaptive=True),), seed=0)
        >>> [index for index in range(8) if adacomm.plan(state, index).upload]
        [3, 7]
        >>> adacomm.next_interval(4, loss=0.5, first_loss=2.0)  # ceil(sqrt(1/4) 4)
        2
    """

    name: ClassVar[str] = "adacomm"
    base_interval: int
    first_interval: int = 4
    adapt_every: int = 8
    shrink: float = 0.5

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", "first_interval", minimum=1) + whole(self, "adapt_every", minimum=2)
        problems += share_problems(self, "shrink")
        refuse(problems or at_least(self, self.first_interval, "adapt_every"))

    @property
    def cycle_rounds(self) -> int:
        """Rounds of a block, at whose end every layer is in sync."""
        return self.adapt_every

    def init(self, layers: Layers, seed: int) -> AdaCommState:
        """Return the state of the first block."""
        return AdaCommState(tuple(layer.name for layer in layers), self.first_interval)

    def plan(self, state: AdaCommState, round_index: int) -> Plan:
        """Plan the upload of every layer where an interval or the block ends."""
        position = round_index % self.adapt_every
        due = (position + 1) % state.interval == 0 or position + 1 == self.adapt_every
        return Plan(
            round_index,
            frozenset(state.names if due else ()),
            dict.fromkeys(state.names, state.interval),
            cycle_start=position == 0,
            trained_rounds=dict.fromkeys(state.names, position % state.interval + 1),
        )

    def learn(self, state: AdaCommState, loss: float) -> AdaCommState:
        """Remember the loss of the round, and of the first one."""
        return replace(state, loss=loss, first_loss=loss if state.first_loss is None else state.first_loss)

    def fold(self, state: AdaCommState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> AdaCommState:
        """Choose the interval of the next block where one ends."""
        if (plan.round_index + 1) % self.adapt_every or state.loss is None or state.first_loss is None:
            return state
        return replace(state, interval=self.next_interval(state.interval, state.loss, state.first_loss))

    def next_interval(self, interval: int, loss: float, first_loss: float) -> int:
        """Return the interval of the next block, in rounds.

        Args:
            interval: The interval of the block before.
            loss: F; a negative one, as a density may have, counts as 0.
            first_loss: F_0; where it is 0 or less the interval is multiplied by gamma.
        """
        chosen = math.ceil(math.sqrt(max(loss, 0.0) / first_loss) * self.first_interval) if first_loss > 0 else interval
        return max(chosen if chosen < interval else math.ceil(self.shrink * interval), 1)

    def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses:
        """Return the courses with the longest and with the shortest intervals that a run can have."""
        return self._course(layers, rounds, slow=True), self._course(layers, rounds, slow=False)

    def _course(self, layers: Layers, rounds: int, *, slow: bool) -> Iterator[Plan]:
        state = self.init(layers, 0)
        for index in range(rounds):
            yield self.plan(state, index)
            if (index + 1) % self.adapt_every == 0:
                interval = state.interval
                longest = max(math.ceil(self.shrink * interval), interval - 1, 1)
                state = replace(state, interval=longest if slow else 1)
