"""Student's t and the intervals against printed tables and values worked out by hand."""

from __future__ import annotations

import math

import pytest

from fedlama import ConfigError
from fedlama.analysis.statistics import Interval, enclosed, interval, paired, t_quantile

# Two-sided 95 % points of Student's t, as printed in every table.
PRINTED = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 9: 2.262, 10: 2.228, 19: 2.093, 29: 2.045, 120: 1.980}


@pytest.mark.parametrize(("freedom", "expected"), PRINTED.items())
def test_quantiles(freedom: int, expected: float) -> None:
    assert t_quantile(freedom) == pytest.approx(expected, abs=5e-4)


def test_known_distributions() -> None:
    assert enclosed(1.0, 1) == pytest.approx(0.5)  # Cauchy: between its quartiles
    assert enclosed(2.0, 2) == pytest.approx(2 / math.sqrt(6))  # t / sqrt(2 + t^2)
    assert enclosed(1.96, 10_000) == pytest.approx(0.95, abs=1e-4)  # the normal distribution


def test_interval_by_hand() -> None:
    found = interval([90.0, 92.0, 94.0])
    assert found.mean == 92.0
    assert found.half == pytest.approx(4.302653 * 2 / math.sqrt(3))
    assert (found.low, found.high) == (pytest.approx(92.0 - 4.968275), pytest.approx(92.0 + 4.968275))


def test_one_value_has_no_interval() -> None:
    found = interval([90.0])
    assert (found.mean, found.half, found.low, found.within_noise) == (90.0, None, None, None)
    with pytest.raises(ConfigError, match="no value"):
        interval([])


def test_pairing_takes_the_seeds_effect_out() -> None:
    base = {0: 70.0, 1: 80.0, 2: 90.0}
    better = {0: 71.0, 1: 81.1, 2: 90.9}
    found = paired(better, base)
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert found.within_noise is False  # though each method's own interval is 25 points wide
    assert (interval(list(base.values())).half or 0) > 20
    assert paired({0: 70.5, 1: 79.5}, base) == Interval(0.0, pytest.approx(6.353, abs=1e-3), 2)
    assert paired({5: 1.0}, base) is None
