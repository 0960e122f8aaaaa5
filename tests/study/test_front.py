"""Bytes at equal loss: literal numbers, bounds, and what a front must do whatever its points are."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlama.analysis.front import Outcome, Ratio, bytes_at_equal_loss, bytes_for, loss_ratio

FRONT = [Outcome(100, 0.8), Outcome(400, 0.2), Outcome(1600, 0.1)]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (0.8, (100, None)),
        (0.4, (200, None)),  # half way in both logarithms
        (0.2, (400, None)),
        (0.1 * math.sqrt(2), (800, None)),
        (0.1, (1600, None)),
        (0.9, (100, "at least")),
        (0.05, (1600, "at most")),
    ],
)
def test_bytes_of_a_loss(loss: float, expected: tuple[float, str | None]) -> None:
    needed, bound = bytes_for(loss, FRONT[::-1])
    assert (needed, bound) == (pytest.approx(expected[0], rel=1e-12), expected[1])


def test_a_front_that_is_not_monotone_counts_where_it_first_reaches_the_loss() -> None:
    front = [Outcome(100, 0.4), Outcome(200, 0.5), Outcome(400, 0.25), Outcome(800, 0.3)]
    needed, bound = bytes_for(0.25, front)
    assert (needed, bound) == (400, None)
    assert bytes_for(0.4, front) == (100, None)
    assert bytes_for(0.45, front) == (100, "at least")
    assert bytes_for(0.3, front)[0] == pytest.approx(200 * 2 ** (math.log(0.5 / 0.3) / math.log(2)), rel=1e-12)


def test_ratios_are_averaged_in_logarithms_over_the_seeds_that_both_have() -> None:
    runs = {0: Outcome(50, 0.4), 1: Outcome(800, 0.4), 2: Outcome(1, 1.0)}
    ratio = bytes_at_equal_loss(runs, {0: FRONT, 1: FRONT, 5: FRONT})
    assert ratio is not None
    assert (ratio.mean, ratio.count) == (pytest.approx(1.0, rel=1e-12), 2)  # 1/4 and 4
    # Two values, +- log 4 about 0: the half width is t(1) * sqrt(2) * log 4 / sqrt(2) = 12.706 * log 4.
    assert ratio.high == pytest.approx(math.exp(12.7062047364 * math.log(4)), rel=1e-6)
    assert (ratio.at_most, ratio.at_least) == (0, 0)


def test_bounds_are_marked() -> None:
    ratio = bytes_at_equal_loss({0: Outcome(160, 0.01), 1: Outcome(160, 0.1)}, {0: FRONT, 1: FRONT})
    assert ratio is not None
    assert (ratio.mean, ratio.at_most, ratio.at_least) == (pytest.approx(0.1), 1, 0)
    assert ratio.show() == "<= 0.10 [0.10, 0.10]"
    assert Ratio(2.0, None, None, 1, at_least=1).show() == ">= 2.00"


def test_diverged_runs_are_left_out() -> None:
    nan = Outcome(100, math.nan)
    assert bytes_at_equal_loss({0: nan}, {0: FRONT}) is None
    assert bytes_at_equal_loss({0: Outcome(100, 0.4)}, {0: [nan, Outcome(100, math.inf)]}) is None
    assert loss_ratio({0: math.inf, 1: 0.2}, {0: 1.0, 1: 0.4}) == Ratio(0.5, None, None, 1)
    assert loss_ratio({0: 1.0}, {1: 1.0}) is None


_POINTS = st.lists(
    st.builds(Outcome, st.floats(1.0, 1e6), st.floats(0.01, 10.0)), min_size=1, max_size=6, unique_by=lambda p: p[0]
)


@given(_POINTS, st.floats(0.01, 10.0), st.floats(1.0, 2.0))
def test_a_lower_loss_never_needs_fewer_bytes(front: list[Outcome], loss: float, factor: float) -> None:
    assert bytes_for(loss, front)[0] >= bytes_for(loss * factor, front)[0] * (1 - 1e-9)


@given(_POINTS)
def test_the_points_of_a_front_need_their_own_bytes_at_most(front: list[Outcome]) -> None:
    for point in front:
        assert bytes_for(point.loss, front)[0] <= point.bytes_sent * (1 + 1e-9)
