"""Means with 95 % intervals by Student's t, and differences paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedlama.errors import ConfigError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval.

    Attributes:
        mean: The mean.
        half: Half the width of the interval; None for a single value, which has no interval.
        count: Number of values.
    """

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half is None else self.mean + self.half

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval of a difference holds 0; None for a single value."""
        return None if self.half is None else abs(self.mean) <= self.half

    def to_json(self) -> dict[str, float | int | None]:
        """Return the mean, both ends and the number of values as plain JSON types."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}

    def show(self, digits: int = 2) -> str:
        """Return the interval as text.

        Args:
            digits: Digits after the point.

        >>> Interval(95.0, 0.5, 3).show()
        '95.00 ± 0.50'
        """
        return f"{self.mean:.{digits}f}" + ("" if self.half is None else f" ± {self.half:.{digits}f}")


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with its 95 % interval.

    Args:
        values: One per seed; at least one.

    Raises:
        ConfigError: There are no values.

    >>> interval([1.0, 2.0, 3.0]).show(3)
    '2.000 ± 2.484'
    """
    if not values:
        raise ConfigError("there are no values, expected one or more; run at least one seed")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean, None, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
    return Interval(mean, t_quantile(count - 1) * math.sqrt(variance / count), count)


def paired(values: Mapping[int, float], base: Mapping[int, float]) -> Interval | None:
    """Return the mean difference over the seeds that both have, with its 95 % interval.

    Args:
        values: By seed.
        base: The values that are subtracted, by seed.

    Returns:
        The difference; None when they share no seed.
    """
    differences = [values[seed] - base[seed] for seed in sorted(values) if seed in base]
    return interval(differences) if differences else None


def t_quantile(freedom: int) -> float:
    """Return the t for which the interval from -t to t has 95 % of Student's distribution.

    Args:
        freedom: Degrees of freedom, 1 or more.

    >>> [round(t_quantile(n), 3) for n in (1, 2, 4, 30)]
    [12.706, 4.303, 2.776, 2.042]
    """
    low, high = 0.0, 20.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if enclosed(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def enclosed(t: float, freedom: int) -> float:
    """Return the probability between -t and t of Student's distribution, by the finite series for integer degrees.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.

    Args:
        t: The end of the interval, 0 or more.
        freedom: Degrees of freedom, 1 or more.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = term if freedom > 1 else 0.0
    for step in range(3 if odd else 2, freedom - 1, 2):
        term *= cosine * cosine * (step - 1) / step
        total += term
    return (angle + sine * total) * 2 / math.pi if odd else sine * total
