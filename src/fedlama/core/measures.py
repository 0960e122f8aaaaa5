"""The number by which evaluations are compared: its name, which values are better, and how it is shown.

Accuracies are fractions that are shown in percent, as everywhere in the literature. All other metrics are shown as they
are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Better = Literal["higher", "lower"]
"""Which values of a metric are better."""
_DIGITS = 3


@dataclass(frozen=True)
class Measure:
    """A metric of a task, or its loss.

    Args:
        name: Its name, ``"loss"`` for the loss.
        direction: Whether a ``"higher"`` or a ``"lower"`` value is better.
    """

    name: str
    direction: Better

    @property
    def is_percent(self) -> bool:
        """Whether it is a fraction that is shown in percent."""
        return self.name == "accuracy"

    @property
    def label(self) -> str:
        """The heading of a column of its values."""
        return "accuracy %" if self.is_percent else self.name

    @property
    def short(self) -> str:
        """The heading of a narrow column."""
        return "acc %" if self.is_percent else self.name

    def shown(self, value: float) -> float:
        """Return a value in the unit in which it is shown."""
        return 100 * value if self.is_percent else value

    def text(self, value: float | None) -> str:
        """Return a value as text.

        >>> Measure("accuracy", "higher").text(0.5), Measure("rmse", "lower").text(12.3456)
        ('50.00', '12.35')
        """
        if value is None or math.isnan(value):
            return "-"
        return f"{100 * value:.2f}" if self.is_percent else f"{value:.4g}"

    def target_text(self, target: float) -> str:
        """Return a target as text with its unit, such as ``"90 %"`` or ``"rmse 0.25"``."""
        return f"{100 * target:g} %" if self.is_percent else f"{self.name} {target:g}"

    def reaches(self, value: float, target: float) -> bool:
        """Return whether a value is as good as a target, or better."""
        return value >= target if self.direction == "higher" else value <= target

    def best(self, values: Iterable[float]) -> float | None:
        """Return the best of some values, NaN left out; None without any."""
        numbers = [value for value in values if not math.isnan(value)]
        return (max if self.direction == "higher" else min)(numbers, default=None)

    def worst(self, values: Iterable[float]) -> float | None:
        """Return the worst of some values, NaN left out; None without any."""
        numbers = [value for value in values if not math.isnan(value)]
        return (min if self.direction == "higher" else max)(numbers, default=None)

    def round_target(self, value: float) -> float:
        """Return a round target that a value reaches: whole percent, or three significant digits.

        >>> Measure("accuracy", "higher").round_target(0.876), Measure("rmse", "lower").round_target(0.12345)
        (0.87, 0.124)
        """
        if self.is_percent:
            return math.floor(100 * value + 1e-9) / 100
        if value == 0 or not math.isfinite(value):
            return value
        unit = 10.0 ** (math.floor(math.log10(abs(value))) + 1 - _DIGITS)
        towards = math.floor if self.direction == "higher" else math.ceil
        rounded = towards(value / unit) * unit
        return float(f"{rounded:.{_DIGITS}g}")
