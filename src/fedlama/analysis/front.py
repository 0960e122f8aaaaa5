"""Bytes at equal loss: how many bytes a method needs, relative to a baseline that reaches the same loss.

Accuracy and bytes differ between two methods at the same time, so neither says which one is better. A baseline that is
run at several settings, such as FedAvg at several intervals, gives a front: the loss that it reaches with given bytes.
Between two settings it is interpolated, linearly in the logarithms of bytes and loss. A method's bytes, divided by the
bytes at which the front has the method's loss, say what the method is worth: below 1, it saves bytes.

The fronts of different seeds differ, but under one seed all methods share data and initial model. So the ratio is taken
seed by seed, and averaged in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

from fedlama.analysis.statistics import interval

_MOST = 700.0
"""The logarithm of a number that a float still holds: with two seeds an interval can be as wide as that."""
Bound = Literal["at most", "at least"]


class Outcome(NamedTuple):
    """The end of one run.

    Attributes:
        bytes_sent: Bytes of all clients, up and down; above 0.
        loss: Test loss, above 0.
    """

    bytes_sent: float
    loss: float


@dataclass(frozen=True)
class Ratio:
    """A geometric mean over seeds, with its 95 % interval.

    Attributes:
        mean: The geometric mean.
        low: Lower end of the interval; None for a single seed.
        high: Upper end of the interval; None for a single seed.
        count: Number of seeds.
        at_most: Seeds whose ratio is at most the value that was counted: their loss is below the whole front.
        at_least: Seeds whose ratio is at least the value that was counted: their loss is above the whole front.
    """

    mean: float
    low: float | None
    high: float | None
    count: int
    at_most: int = 0
    at_least: int = 0

    def to_json(self) -> dict[str, float | int | None]:
        """Return all values as plain JSON types."""
        return {
            "mean": self.mean,
            "low": self.low,
            "high": self.high,
            "count": self.count,
            "at_most": self.at_most,
            "at_least": self.at_least,
        }

    def show(self) -> str:
        """Return the ratio as text; ``<=`` marks an upper bound, ``>=`` a lower one, and both together neither.

        >>> Ratio(0.5, 0.4, 0.625, 3, at_most=1).show()
        '<= 0.50 [0.40, 0.62]'
        """
        sign = {(True, False): "<= ", (False, True): ">= ", (True, True): "~ "}.get(
            (self.at_most > 0, self.at_least > 0), ""
        )
        ends = "" if self.low is None or self.high is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{sign}{self.mean:.2f}{ends}"


@dataclass(frozen=True)
class Point:
    """A method in the plane of bytes and loss: geometric means over its seeds.

    Attributes:
        title: The method.
        mean: Bytes and test loss.
        runs: The ends of its runs, by seed.
        on_front: Whether no other method has both fewer bytes and a lower loss, or one of them at an equal other.
    """

    title: str
    mean: Outcome
    runs: Mapping[int, Outcome]
    on_front: bool


def points(methods: Mapping[str, Mapping[int, Outcome]]) -> list[Point]:
    """Return where methods are in the plane of bytes and loss, and which of them no other one dominates.

    Args:
        methods: The ends of the runs, by title and seed.

    Returns:
        The methods that have a run with positive, finite values, in their order.

    >>> runs = {"a": {0: Outcome(100, 0.4)}, "b": {0: Outcome(400, 0.1)}, "c": {0: Outcome(400, 0.5)}}
    >>> [point.title for point in points(runs) if point.on_front]
    ['a', 'b']
    """
    usable = {
        title: {seed: run for seed, run in runs.items() if _is_usable(run)}
        for title, runs in methods.items()
        if any(map(_is_usable, runs.values()))
    }
    means = {title: _geometric_mean(list(runs.values())) for title, runs in usable.items()}
    return [
        Point(title, mean, usable[title], on_front=not any(_dominates(other, mean) for other in means.values()))
        for title, mean in means.items()
    ]


def _geometric_mean(runs: Sequence[Outcome]) -> Outcome:
    sent, loss = (math.exp(math.fsum(map(math.log, values)) / len(runs)) for values in zip(*runs, strict=True))
    return Outcome(sent, loss)


def _dominates(rival: Outcome, other: Outcome) -> bool:
    return rival != other and rival.bytes_sent <= other.bytes_sent and rival.loss <= other.loss


def bytes_at_equal_loss(runs: Mapping[int, Outcome], front: Mapping[int, Sequence[Outcome]]) -> Ratio | None:
    """Return a method's bytes relative to those of a front with the same loss.

    Args:
        runs: The method's runs, by seed.
        front: The baseline's runs at several settings, by seed.

    Returns:
        The ratio over the seeds that both have, if there is one. Runs whose loss is not a positive number are left out.

    >>> fedavg = {0: [Outcome(100, 0.4), Outcome(400, 0.1)]}
    >>> bytes_at_equal_loss({0: Outcome(100, 0.2)}, fedavg).show()  # the front has a loss of 0.2 at 200 bytes
    '0.50'
    """
    logarithms, bounds = [], []
    for seed in sorted(runs):
        points = [point for point in front.get(seed, ()) if _is_usable(point)]
        if points and _is_usable(runs[seed]):
            needed, bound = bytes_for(runs[seed].loss, points)
            logarithms.append(math.log(runs[seed].bytes_sent / needed))
            bounds.append(bound)
    if not logarithms:
        return None
    return _ratio(logarithms, bounds)


def loss_ratio(runs: Mapping[int, float], base: Mapping[int, float]) -> Ratio | None:
    """Return a method's loss relative to a base's, paired by seed; below 1 is better.

    Args:
        runs: The method's test losses, by seed.
        base: Those of the base, by seed.

    Returns:
        The ratio over the seeds that both have and where both losses are positive numbers, if there is one.

    >>> loss_ratio({0: 0.2, 1: 0.1}, {0: 0.4, 1: 0.2}).show()
    '0.50 [0.50, 0.50]'
    """
    shared = [seed for seed in sorted(runs) if seed in base and _is_positive(runs[seed]) and _is_positive(base[seed])]
    return _ratio([math.log(runs[seed] / base[seed]) for seed in shared], []) if shared else None


def bytes_for(loss: float, front: Sequence[Outcome]) -> tuple[float, Bound | None]:
    """Return the fewest bytes with which a front reaches a loss.

    Args:
        loss: The loss, above 0.
        front: One or more points with positive values.

    Returns:
        The bytes, and which way the ratio to them is bounded: "at most" where no point of the front is as good, so that
        the largest number of bytes counts; "at least" where all are better, so that the smallest counts.
    """
    points = sorted(front)
    if points[0].loss <= loss:
        return points[0].bytes_sent, None if points[0].loss == loss else "at least"
    for before, after in pairwise(points):  # before.loss > loss
        if after.loss <= loss:
            share = math.log(before.loss / loss) / math.log(before.loss / after.loss)
            return before.bytes_sent * (after.bytes_sent / before.bytes_sent) ** share, None
    return points[-1].bytes_sent, "at most"


def _ratio(logarithms: Sequence[float], bounds: Sequence[Bound | None]) -> Ratio:
    mean = interval(logarithms)
    low, high = (None if end is None else math.exp(min(end, _MOST)) for end in (mean.low, mean.high))
    return Ratio(math.exp(mean.mean), low, high, mean.count, bounds.count("at most"), bounds.count("at least"))


def _is_usable(point: Outcome) -> bool:
    return _is_positive(point.bytes_sent) and _is_positive(point.loss)


def _is_positive(value: float) -> bool:
    return math.isfinite(value) and value > 0
