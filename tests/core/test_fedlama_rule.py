"""FedLAMA's schedule and unit discrepancy, by literal numbers and without any tensor."""

from __future__ import annotations

import pytest

from fedlama import ConfigError, FedLAMA
from fedlama.choices.strategies import LayerStatistics
from fedlama.choices.strategies.fedlama import FedLAMAState
from tests.core.helpers import layers_of


def measured(**discrepancies: float) -> dict[str, LayerStatistics]:
    """Statistics of layers "0", "1", ... given as l0, l1, ..."""
    return {name[1:]: LayerStatistics(value, 0.0, 0.0) for name, value in discrepancies.items()}


def adjustments(strategy: FedLAMA, rounds: int) -> list[int]:
    """Rounds after which the intervals were adjusted.

    Of four equal layers the restless one keeps the base interval (lambda 3/4, delta 9/13); it is another every time.
    """
    state = strategy.init(layers_of([1] * 4), 0)
    found: list[int] = []
    for e in range(rounds):
        plan = strategy.plan(state, e)
        restless = str(len(found) % 2)
        stats = {
            name: LayerStatistics((4.0 if name == restless else 3.0) * plan.intervals[name], 0.0, 0.0)
            for name in plan.upload
        }
        before, state = state.intervals, strategy.fold(state, plan, stats)
        if state.intervals != before:
            found.append(e)
    return found


@pytest.mark.parametrize(
    ("phi", "first"), [(2, 7), (3, 8), (4, 7), (5, 9), (6, 11), (8, 7), (10, 9), (16, 15)], ids=str
)
def test_first_adjustment_after_the_authors_warm_up(phi: int, first: int) -> None:
    assert adjustments(FedLAMA(6, phi, warm_up_rounds=6), 20)[0] == first


@pytest.mark.parametrize("phi", [2, 3, 8])
def test_without_warm_up_every_cycle_ends_with_an_adjustment(phi: int) -> None:
    assert adjustments(FedLAMA(6, phi), 4 * phi) == [phi - 1, 2 * phi - 1, 3 * phi - 1, 4 * phi - 1]


def test_phi_one_never_adjusts() -> None:
    assert adjustments(FedLAMA(6, 1), 10) == []


def test_unit_discrepancy_is_per_local_iteration_and_parameter() -> None:
    # Equation 2: a layer at tau' = 6 with 5 parameters, and one at phi * tau' = 12 with 20.
    strategy = FedLAMA(6, 2)
    state = FedLAMAState({"0": 5, "1": 20}, frozenset({"0", "1"}), {"0": 1, "1": 2}, {"0": 0.0, "1": 0.0})
    state = strategy.fold(state, strategy.plan(state, 1), measured(l0=90.0, l1=480.0))
    assert state.unit_discrepancy == {"0": 90 / (6 * 5), "1": 480 / (12 * 20)}


def test_a_layer_that_was_not_due_keeps_its_latest_discrepancy() -> None:
    strategy = FedLAMA(1, 4)
    state = FedLAMAState({"0": 1, "1": 1}, frozenset({"0", "1"}), {"0": 1, "1": 4}, {"0": 5.0, "1": 7.0})
    plan = strategy.plan(state, 0)
    assert plan.upload == {"0"}
    assert strategy.fold(state, plan, measured(l0=3.0)).unit_discrepancy == {"0": 3.0, "1": 7.0}


def test_intervals_change_only_at_full_synchronisations() -> None:
    strategy = FedLAMA(1, 4)
    state = FedLAMAState({"0": 10, "1": 90}, frozenset({"0", "1"}), {"0": 1, "1": 4}, {"0": 5.0, "1": 7.0})
    for e in (4, 5, 6):
        plan = strategy.plan(state, e)
        assert plan.upload == {"0"}
        assert plan.held(layers_of([10, 90])) == {"1"}
        state = strategy.fold(state, plan, measured(l0=1000.0))
        assert state.intervals == {"0": 1, "1": 4}
    plan = strategy.plan(state, 7)
    assert plan.upload == {"0", "1"}
    # Per parameter and step: .1 and .01; lambda .9, delta .9 / 1.9, so the large quiet layer alone stays relaxed.
    assert strategy.fold(state, plan, measured(l0=1.0, l1=3.6)).intervals == {"0": 1, "1": 4}
    # Now the large layer is the restless one, and the small one does not reach the crossing alone.
    assert strategy.fold(state, plan, measured(l0=0.01, l1=3.6)).intervals == {"0": 4, "1": 4}


def test_cycles_begin_where_everything_is_in_sync() -> None:
    strategy = FedLAMA(6, 3)
    state = strategy.init(layers_of([1, 2]), 0)
    assert [strategy.plan(state, e).cycle_start for e in range(7)] == [True, False, False, True, False, False, True]
    assert strategy.cycle_rounds == 3


def test_accelerated_rounds_are_short_and_every_layer_meets_at_the_base_interval() -> None:
    strategy = FedLAMA(6, 3, accelerate=True)
    assert (strategy.local_steps, strategy.base_interval, strategy.cycle_rounds) == (2, 6, 3)
    state = strategy.init(layers_of([10, 10]), 0)
    assert [bool(strategy.plan(state, e).upload) for e in range(6)] == [False, False, True, False, False, True]
    state = strategy.fold(state, strategy.plan(state, 2), measured(l0=60.0, l1=6000.0))
    assert state.unit_discrepancy == {"0": 60 / (6 * 10), "1": 6000 / (6 * 10)}
    assert state.intervals == {"0": 3, "1": 1}
    assert [sorted(strategy.plan(state, e).upload) for e in (3, 4, 5)] == [["1"], ["1"], ["0", "1"]]
    state = strategy.fold(state, strategy.plan(state, 3), measured(l1=40.0))
    assert state.unit_discrepancy["1"] == 40 / (2 * 10)


def test_folding_changes_no_state_in_place() -> None:
    strategy = FedLAMA(1, 1)
    state = strategy.init(layers_of([1]), 0)
    strategy.fold(state, strategy.plan(state, 0), measured(l0=3.0))
    assert state.unit_discrepancy == {"0": 0.0}


def test_bad_hyper_parameters_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        FedLAMA(0, -1, cutoff="crosing", discrepancy_share="everything", warm_up_rounds=-2)  # type: ignore[arg-type]
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    for word in ("base_interval is 0", "increase_factor is -1", "did you mean 'crossing'", "'everything'", "-2"):
        assert word in text


def test_acceleration_needs_a_whole_number_of_steps() -> None:
    with pytest.raises(ConfigError, match="choose a multiple"):
        FedLAMA(6, 4, accelerate=True)
