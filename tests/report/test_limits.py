"""What the axes of pictures show: outliers by hand, and ticks at both ends."""

from __future__ import annotations

import math

import pytest

from fedlama.core.ticks import whole_ticks
from fedlama.reporting.limits import limits

GOOD = [2.3, 1.0, 0.5, 0.3, 0.2, 0.2]
FAIR = [2.3, 1.5, 0.9, 0.7, 0.6, 0.6]


def test_without_an_outlier_everything_is_shown() -> None:
    assert limits([GOOD, FAIR], "lower") is None
    assert limits([GOOD], "lower") is None
    assert limits([[50.0, 90.0]], "higher") is None
    assert limits([], "higher") is None
    assert limits([[math.nan, math.inf]], "lower") is None


def test_a_curve_that_never_comes_near_the_better_half_is_beyond_the_picture() -> None:
    assert limits([GOOD, FAIR, [80.0] * 6], "lower") == (0.2, 2.3)
    assert limits([GOOD, [80.0] * 6], "lower") == (0.2, 2.3)
    assert limits([[93.0, 97.0], [80.0, 96.0], [94.0, 98.0], [10.0, 10.0]], "higher") == (80.0, 98.0)


def test_the_direction_decides_which_curves_are_the_better_ones() -> None:
    scores = [[10.0, 12.0], [900.0, 910.0]]
    assert limits(scores, "lower") == (10.0, 12.0)
    assert limits(scores, "higher") == (900.0, 910.0)
    assert limits(scores) is None


def test_a_worse_curve_within_twice_the_range_is_shown_whole() -> None:
    """The better curve spans 0.2 to 2.3: what comes down to 6.5 is near it."""
    near, far = [30.0, 20.0, 6.4, 6.4], [30.0, 20.0, 6.6, 6.6]
    assert limits([GOOD, near], "lower") is None
    assert limits([GOOD, far], "lower") == (0.2, 2.3)


def test_a_spike_is_cut_and_a_start_is_not() -> None:
    """The quartiles of the curve are 0.2 and 0.875, so its far fence is 0.875 + 3 * 0.675 = 2.9."""
    spiked = [2.3, 1.0, 0.5, 0.2, 0.2, 40.0, 0.2, 0.2]
    assert limits([spiked], "lower") == (0.2, 2.3)
    start = [40.0, 1.0, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2]
    assert limits([start], "lower") is None


def test_what_is_not_finite_is_ignored() -> None:
    assert limits([[*GOOD, math.inf], [math.nan] * 6, [80.0] * 6], "lower") == (0.2, 2.3)


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0.0, 485.0, False, [0, 100, 200, 300, 400, 500]),
        (93.1, 97.9, False, [93, 94, 95, 96, 97, 98]),
        (30.0, 485.0, True, [20, 50, 100, 200, 500]),
        (5.0, 5.0, False, [4.7, 4.8, 4.9, 5.0, 5.1, 5.2, 5.3]),
        (1e-9, 1e-2, True, [1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2]),
    ],
)
def test_an_axis_begins_and_ends_with_a_tick(low: float, high: float, log: bool, ticks: list[float]) -> None:
    shown = whole_ticks(low, high, log=log)
    assert shown[0] <= low
    assert shown[-1] >= high
    assert shown == pytest.approx(ticks)
