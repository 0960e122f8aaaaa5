"""Algorithm 2 through the strategy: literal numbers, and properties that hold for any discrepancies."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from random import Random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedlama import FedLAMA
from fedlama.choices.strategies import LayerStatistics
from fedlama.choices.strategies.cutoff import least_critical, most_critical
from fedlama.choices.strategies.fedlama import FedLAMAState
from tests.core.helpers import layers_of
from tests.reference import accelerate_intervals, adjust_intervals

SIZES = [27, 3, 432, 16, 4608, 2048, 640, 10]
KERNEL = [True, False, True, False, True, True, True, False]
EFF = [0.009, 0.02, 0.004, 0.01, 0.001, 0.0005, 0.003, 0.03]


def adjusted(
    strategy: FedLAMA, d: Sequence[float], sizes: Sequence[int], adaptive: Sequence[bool] | None = None
) -> FedLAMAState:
    """Let every layer be measured once, at the end of the first cycle."""
    layers = layers_of(sizes, adaptive)
    state = strategy.init(layers, seed=0)
    plan = strategy.plan(state, strategy.increase_factor - 1)
    assert plan.upload == {layer.name for layer in layers}
    steps = strategy.local_steps * next(iter(plan.intervals.values()))
    statistics = {
        str(index): LayerStatistics(discrepancy=value * size * steps, update_norm=0.0, value_norm=0.0)
        for index, (value, size) in enumerate(zip(d, sizes, strict=True))
    }
    return strategy.fold(state, plan, statistics)


def intervals(
    strategy: FedLAMA, d: Sequence[float], sizes: Sequence[int], adaptive: Sequence[bool] | None = None
) -> list[int]:
    """The intervals after the adjustment, in the layers' order."""
    return list(adjusted(strategy, d, sizes, adaptive).intervals.values())


# The three vectors of the fact sheet, section 2.3


def test_vector_one_relaxes_the_two_quietest_kernels() -> None:
    state = adjusted(FedLAMA(1, 4, discrepancy_share="all"), EFF, SIZES, KERNEL)
    assert list(state.intervals.values()) == [1, 1, 1, 1, 4, 4, 1, 1]


def test_vector_one_trace() -> None:
    strategy = FedLAMA(1, 4, discrepancy_share="all")
    curves = strategy.curves(adjusted(strategy, EFF, SIZES, KERNEL))
    assert curves.order == ("5", "4", "6", "2", "0")
    assert (curves.delta[0], curves.rest[0]) == pytest.approx((0.101962, 0.735912), abs=5e-7)
    assert (curves.delta[1], curves.rest[1]) == pytest.approx((0.560789, 0.141715), abs=5e-7)
    assert curves.delta[-1] == pytest.approx(9.523 / 10.043)  # biases and normalisation are in the denominator
    assert curves.rest[-1] == 0.0
    assert curves.chosen == {"5", "4"}


def test_vector_one_with_the_kernels_own_denominator() -> None:
    strategy = FedLAMA(1, 4, discrepancy_share="adaptive")
    state = adjusted(strategy, EFF, SIZES, KERNEL)
    assert strategy.curves(state).delta[:2] == pytest.approx((1.024 / 9.523, 5.632 / 9.523))
    assert strategy.curves(state).delta[-1] == 1.0
    assert list(state.intervals.values()) == [1, 1, 1, 1, 4, 4, 1, 1]


def test_vector_two_equality_does_not_stop_the_prefix() -> None:
    assert intervals(FedLAMA(1, 3), [1.0] * 5, [100, 200, 300, 400, 1000]) == [3] * 5


def test_vector_three_the_printed_rule_relaxes_all_but_the_last() -> None:
    assert intervals(FedLAMA(1, 4, cutoff="printed"), EFF, SIZES) == [4, 4, 4, 4, 4, 4, 4, 1]


# What the switches change


def test_share_of_all_layers_lengthens_the_prefix() -> None:
    d, sizes, adaptive = [1.0, 1.5, 100.0], [60, 40, 10], [True, True, False]
    assert intervals(FedLAMA(1, 2, discrepancy_share="adaptive"), d, sizes, adaptive) == [2, 1, 1]
    assert intervals(FedLAMA(1, 2, discrepancy_share="all"), d, sizes, adaptive) == [2, 2, 1]


def test_the_crossing_layer_is_included() -> None:
    # Sorted: 1 - lambda = .9, .1; delta = 10/910, 410/910 = .45. The second layer crosses, and is still relaxed.
    assert intervals(FedLAMA(1, 2), [1.0, 5.0, 50.0], [10, 80, 10]) == [2, 2, 1]


def test_sizes_follow_the_sorted_order() -> None:
    # Trap: the paper writes dim(u_i). With unsorted sizes the first prefix would hold 1000 of 1110 parameters.
    assert intervals(FedLAMA(1, 2), [9.0, 1.0, 2.0], [1000, 10, 100]) == [2, 2, 2]
    assert intervals(FedLAMA(1, 2), [500.0, 1.0, 2.0], [10, 1000, 100]) == [1, 2, 1]


def test_accelerating_variant_by_hand() -> None:
    # d * size: 1000 of 1270 is layer 2, lambda .1 against 1 - delta .213; then layer 0: .3 against .055, included.
    strategy = FedLAMA(4, 4, accelerate=True)
    state = adjusted(strategy, [10.0, 1.0, 100.0], [20, 70, 10])
    assert list(state.intervals.values()) == [1, 4, 1]
    curves = strategy.curves(state)
    assert curves.order == ("2", "0", "1")
    assert curves.delta == pytest.approx((1000 / 1270, 1200 / 1270, 1.0))
    assert curves.rest == pytest.approx((0.9, 0.7, 0.0))


def test_no_discrepancy_relaxes_everything_and_hastens_nothing() -> None:
    assert intervals(FedLAMA(1, 2), [0.0, 0.0], [3, 4]) == [2, 2]
    assert intervals(FedLAMA(1, 2, discrepancy_share="all"), [0.0, 0.0], [3, 4]) == [2, 2]
    assert intervals(FedLAMA(2, 2, accelerate=True), [0.0, 0.0], [3, 4]) == [2, 2]


@pytest.mark.parametrize("accelerate", [False, True])
def test_nothing_may_adapt(accelerate: bool) -> None:
    strategy = FedLAMA(2, 2, accelerate=accelerate)
    assert intervals(strategy, [1.0, 2.0], [3, 4], [False, False]) == [2 if accelerate else 1] * 2


# Properties

Layer = tuple[int, int, bool]  # d, size, adaptive: whole numbers, so that sums are exact in float64
LAYERS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5), st.booleans()), min_size=1, max_size=12)
MEASURED = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**5)), min_size=1, max_size=12)


def columns(layers: Sequence[Sequence[int]]) -> list[list[int]]:
    """Turn rows into columns."""
    return [list(column) for column in zip(*layers, strict=True)]


@given(LAYERS, st.integers(2, 16), st.sampled_from(["all", "adaptive"]), st.sampled_from(["crossing", "printed"]))
def test_agrees_with_the_restatement(layers: list[Layer], phi: int, share: str, cutoff: str) -> None:
    d, sizes, adaptive = columns(layers)
    ours = intervals(FedLAMA(1, phi, cutoff=cutoff, discrepancy_share=share), d, sizes, adaptive)
    assert ours == adjust_intervals(d, sizes, phi, adaptive, cutoff, share)


@given(LAYERS, st.integers(2, 16))
def test_acceleration_agrees_with_the_restatement(layers: list[Layer], phi: int) -> None:
    d, sizes, adaptive = columns(layers)
    ours = intervals(FedLAMA(phi, phi, accelerate=True), d, sizes, adaptive)
    assert ours == accelerate_intervals(d, sizes, phi, adaptive, "adaptive")


@given(MEASURED)
def test_the_prefix_is_the_shortest_that_crosses(layers: list[tuple[int, int]]) -> None:
    d, sizes = ({str(i): row[k] for i, row in enumerate(layers)} for k in (0, 1))
    curves = least_critical(d, sizes)
    total, size = sum(d[name] * sizes[name] for name in d), sum(sizes.values())
    crosses, held, parameters = [], 0, 0
    for name in curves.order:
        held, parameters = held + d[name] * sizes[name], parameters + sizes[name]
        rest, delta = 1 - Fraction(parameters, size), Fraction(held, total or 1)
        assume(rest != delta or rest == 0)  # at an exact tie the rounding of 1 - lambda decides
        crosses.append(rest < delta)
    first = crosses.index(True) if True in crosses else len(crosses) - 1
    assert curves.chosen == set(curves.order[: first + 1])
    assert [d[name] for name in curves.order] == sorted(d.values())


@given(MEASURED)
def test_delta_never_exceeds_lambda(layers: list[tuple[int, int]]) -> None:
    d, sizes = ({str(i): row[k] for i, row in enumerate(layers)} for k in (0, 1))
    rising, falling = least_critical(d, sizes), most_critical(d, sizes)
    for delta, rest in zip(rising.delta, rising.rest, strict=True):
        assert delta <= 1 - rest + 1e-12
    if any(d.values()):
        for delta, rest in zip(falling.delta, falling.rest, strict=True):
            assert delta >= 1 - rest - 1e-12


@given(MEASURED, st.integers(1, 1000))
def test_the_scale_of_the_discrepancies_is_of_no_matter(layers: list[tuple[int, int]], scale: int) -> None:
    d, sizes = columns(layers)
    for strategy in (FedLAMA(1, 2), FedLAMA(1, 2, cutoff="printed"), FedLAMA(2, 2, accelerate=True)):
        assert intervals(strategy, [scale * value for value in d], sizes) == intervals(strategy, d, sizes)


@given(MEASURED, st.randoms(use_true_random=False))
def test_the_order_of_the_layers_is_of_no_matter(layers: list[tuple[int, int]], random: Random) -> None:
    assume(len({row[0] for row in layers}) == len(layers))  # the model's order breaks ties
    shuffled = list(range(len(layers)))
    random.shuffle(shuffled)
    for strategy in (FedLAMA(1, 2), FedLAMA(1, 2, cutoff="printed"), FedLAMA(2, 2, accelerate=True)):
        straight = intervals(strategy, *columns(layers))
        mixed = intervals(strategy, *columns([layers[index] for index in shuffled]))
        assert mixed == [straight[index] for index in shuffled]


@given(LAYERS, st.integers(2, 16), st.sampled_from(["all", "adaptive"]))
def test_only_adaptive_layers_are_relaxed(layers: list[Layer], phi: int, share: str) -> None:
    d, sizes, adaptive = columns(layers)
    chosen = intervals(FedLAMA(1, phi, discrepancy_share=share), d, sizes, adaptive)
    assert set(chosen) <= {1, phi}
    assert all(flag for flag, interval in zip(adaptive, chosen, strict=True) if interval > 1)
    # Something always is: the quietest adaptive layer is in every prefix.
    assert any(interval > 1 for interval in chosen) == any(adaptive)
