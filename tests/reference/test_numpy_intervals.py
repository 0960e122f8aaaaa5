"""Algorithm 2 against literal numbers."""

from __future__ import annotations

import pytest

from tests.reference.intervals import CutPoint, accelerate_intervals, adjust_intervals, cut_curve

DIMS = [27, 3, 432, 16, 4608, 2048, 640, 10]
KERNEL = [True, False, True, False, True, True, True, False]
D = [0.009, 0.02, 0.004, 0.01, 0.001, 0.0005, 0.003, 0.03]


def test_cut_at_the_crossing_includes_the_crossing_layer() -> None:
    """Of the kernels, only the two with the smallest d are relaxed."""
    assert adjust_intervals(D, DIMS, phi=4, adapt=KERNEL) == [1, 1, 1, 1, 4, 4, 1, 1]


def test_curve_has_the_expected_delta_and_lambda() -> None:
    """Equations 3 and 4, with delta over all variables and lambda over the kernels."""
    first, second, *_ = cut_curve(D, DIMS, KERNEL)
    assert (first.layer, second.layer) == (5, 4)
    assert (first.delta, 1 - first.lam) == pytest.approx((0.101962, 0.735912), abs=1e-6)
    assert (second.delta, 1 - second.lam) == pytest.approx((0.560789, 0.141715), abs=1e-6)


def test_printed_rule_relaxes_all_but_the_last() -> None:
    """Algorithm 2 exactly as printed is almost FedAvg with the long interval."""
    assert adjust_intervals(D, DIMS, phi=4, cut="printed") == [4, 4, 4, 4, 4, 4, 4, 1]


def test_equality_does_not_stop_the_prefix() -> None:
    """Five layers with equal d: delta = lambda = 1/2 exactly at the fourth, and the fifth is relaxed too."""
    assert adjust_intervals([1.0] * 5, [100, 200, 300, 400, 1000], phi=3) == [3] * 5


def test_delta_over_adaptive_layers_reaches_one() -> None:
    """The denominator of eq. 3 decides how soon the curves cross."""
    d, dims, adapt = [1.0, 2.0, 100.0], [10, 10, 10], [True, True, False]
    assert cut_curve(d, dims, adapt, "all")[-1] == CutPoint(1, 30 / 1030, 1.0)
    assert cut_curve(d, dims, adapt, "adaptive")[-1] == CutPoint(1, 1.0, 1.0)


def test_delta_over_changes_the_choice() -> None:
    """A restless layer that may not adapt lowers delta, so the prefix grows."""
    d, dims, adapt = [1.0, 1.5, 100.0], [60, 40, 10], [True, True, False]
    assert adjust_intervals(d, dims, 2, adapt, delta_over="adaptive") == [2, 1, 1]
    assert adjust_intervals(d, dims, 2, adapt, delta_over="all") == [2, 2, 1]


def test_no_discrepancy_relaxes_everything_and_hastens_nothing() -> None:
    """Identical clients have no reason to talk."""
    assert adjust_intervals([0.0, 0.0], [3, 4], phi=2) == [2, 2]
    assert accelerate_intervals([0.0, 0.0], [3, 4], phi=2) == [2, 2]


def test_nothing_may_adapt() -> None:
    """Every layer keeps the base interval."""
    assert adjust_intervals([1.0, 2.0], [3, 4], phi=2, adapt=[False, False]) == [1, 1]
    assert accelerate_intervals([1.0, 2.0], [3, 4], phi=2, adapt=[False, False]) == [2, 2]


def test_accelerating_prefix_by_hand() -> None:
    """Products d * dim 1000, 200, 70: 1 - delta is .213 > .1 at the first layer, .055 < .3 at the second, included."""
    d, dims = [10.0, 1.0, 100.0], [20, 70, 10]
    assert accelerate_intervals(d, dims, phi=4) == [1, 4, 1]
    curve = cut_curve(d, dims, [True] * 3, decreasing=True)
    assert [point.layer for point in curve] == [2, 0, 1]
    assert [point.delta for point in curve] == pytest.approx([1000 / 1270, 1200 / 1270, 1.0])
    assert [point.lam for point in curve] == pytest.approx([0.1, 0.3, 1.0])


@pytest.mark.parametrize("phi", [1, 2, 8])
def test_a_layer_has_one_of_two_intervals(phi: int) -> None:
    """Layers that may not adapt keep the base interval."""
    intervals = adjust_intervals(D, DIMS, phi, KERNEL)
    assert set(intervals) <= {1, phi}
    assert all(interval == 1 for interval, kernel in zip(intervals, KERNEL, strict=True) if not kernel)
