"""A fixed table of aggregation intervals, given layer by layer: to repeat a schedule, or to try one by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.errors import ConfigError, did_you_mean


@register("strategy")
@dataclass(frozen=True)
class FixedIntervals(Strategy[Mapping[str, int]]):
    """Synchronise every layer at the interval that the table gives it.

    Args:
        base_interval: Local steps per round; 1 or more.
        intervals: Layer name, or shell-style pattern such as ``"fc*.weight"``, to its interval in rounds. The first
            entry that matches a layer counts; layers that no entry matches are synchronised in every round.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> FixedIntervals(base_interval=5, intervals={"*.bias": 1, "fc1.weight": 4, "fc2.weight": 6}).cycle_rounds
        12
    """

    name: ClassVar[str] = "fixed"
    base_interval: int
    intervals: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", minimum=1)
        problems += [
            f"FixedIntervals: the interval of {name!r} is {rounds!r}, expected a whole number of rounds, "
            "1 or more; use such a number"
            for name, rounds in self.intervals.items()
            if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < 1
        ]
        refuse(problems)

    @property
    def cycle_rounds(self) -> int:
        """The least common multiple of the intervals, at which all layers are due together."""
        return math.lcm(*self.intervals.values())

    def init(self, layers: Layers, seed: int) -> Mapping[str, int]:
        """Return each layer's interval.

        Raises:
            ConfigError: An entry matches no layer.
        """
        names = [layer.name for layer in layers]
        problems = [
            f"FixedIntervals: {pattern!r} matches no layer{did_you_mean(pattern, names)}"
            for pattern in self.intervals
            if not any(fnmatchcase(name, pattern) for name in names)
        ]
        if problems:
            raise ConfigError(problems)
        return {
            name: next((rounds for pattern, rounds in self.intervals.items() if fnmatchcase(name, pattern)), 1)
            for name in names
        }

    def plan(self, state: Mapping[str, int], round_index: int) -> Plan:
        """Plan the upload of the layers that are due."""
        due = frozenset(name for name, interval in state.items() if (round_index + 1) % interval == 0)
        return Plan(round_index, due, state, cycle_start=round_index % self.cycle_rounds == 0)
