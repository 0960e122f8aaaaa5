"""The byte budget: intervals by hand, against all tables of a small model and the closed form; staggered rounds."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedlama as fl
from fedlama.choices.strategies.ranking import Order, same_share, scores
from fedlama.core.layers import Layer, Layers, TensorSpec
from fedlama.core.plan import LayerStatistics, Plan
from tests.core.helpers import mlp, skewed_clients


def layers_of(sizes: Mapping[str, int], fixed: tuple[str, ...] = ()) -> Layers:
    """Layers of float32 parameters; those named in `fixed` do not adapt."""
    return tuple(
        Layer(name, (TensorSpec(name, (size,), torch.float32, trainable=True),), adaptive=name not in fixed)
        for name, size in sizes.items()
    )


def course(budget: fl.Budget, layers: Layers, d: Mapping[str, float], rounds: int) -> list[Plan]:
    """The plans of a run in which layer l always has the unit discrepancy d_l."""
    state, plans = budget.init(layers, 0), []
    sizes = {layer.name: layer.parameters for layer in layers}
    for index in range(rounds):
        plan = budget.plan(state, index)
        measured = {
            name: LayerStatistics(d[name] * plan.rounds_apart(name) * budget.local_steps * sizes[name], 0.0, 0.0)
            for name in plan.upload
        }
        plans.append(plan)
        state = budget.fold(state, plan, measured)
    return plans


def sent(plans: list[Plan], layers: Layers) -> int:
    """Bytes that one client uploads."""
    sizes = {layer.name: 4 * layer.parameters for layer in layers}
    return sum(sizes[name] for plan in plans for name in plan.upload)


def test_by_hand() -> None:
    # F = 4, all layers 100 bytes. The budget is 2 of 4 rounds: 600 of 1,200 bytes. First cycle: tau = 2 for all.
    # Then each has 1 upload (300), and 300 bytes are left. a: 9 * 16 is the largest; halved once (+100): 9 * 4 = 36.
    # b: 4 * 16 = 64 (+100), then a again would take 200, only 100 are left: c: 1 * 16 (+100). Nothing is left.
    layers = layers_of({"a": 25, "b": 25, "c": 25})
    plans = course(fl.Budget(1, share=0.5, levels=3), layers, {"a": 9.0, "b": 4.0, "c": 1.0}, 8)
    assert [set(plan.intervals.values()) for plan in plans[:4]] == [{2}] * 4
    assert dict(plans[4].intervals) == {"a": 2, "b": 2, "c": 2}
    steep = course(fl.Budget(1, share=0.5, levels=3), layers, {"a": 90.0, "b": 4.0, "c": 1.0}, 8)
    assert dict(steep[4].intervals) == {"a": 1, "b": 4, "c": 4}
    assert sent(steep[4:], layers) == 600


def test_layers_that_do_not_adapt_count_and_what_is_left_is_kept() -> None:
    # F = 2, 400 + 40 bytes, share 0.75: 660 a cycle. First cycle: tau = 2 for all (1 / 0.75 rounded up): 400 + 2 * 40,
    # 180 are left. Second: 660 + 180 - 480 = 360 < 400, so nothing is halved. Third: 540 left, a is halved.
    layers = layers_of({"a": 100, "bias": 10}, fixed=("bias",))
    plans = course(fl.Budget(1, share=0.75, levels=2), layers, {"a": 1.0, "bias": 0.0}, 8)
    assert [plan.intervals["a"] for plan in plans[::2]] == [2, 2, 1, 2]
    assert all("bias" in plan.upload for plan in plans)


def test_megabytes_are_those_of_a_client_in_a_cycle() -> None:
    layers = layers_of({"a": 100_000, "b": 150_000})  # 0.4 and 0.6 MB
    plans = course(fl.Budget(1, megabytes=1.6, levels=2), layers, {"a": 1.0, "b": 2.0}, 6)
    # The first cycle sends each once (1.0 MB); so the second may send 2.2, which is everything, and the third 1.8.
    assert [dict(plans[start].intervals) for start in (0, 2, 4)] == [
        {"a": 2, "b": 2},
        {"a": 1, "b": 1},
        {"a": 2, "b": 1},
    ]
    assert sent(plans[4:], layers) == 1_600_000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.floats(0.01, 100.0)), min_size=1, max_size=4),
    st.sampled_from([2, 3, 4]),
    st.floats(0.3, 1.0),
)
def test_no_table_within_the_budget_is_better_by_more_than_the_last_layer(
    given_layers: list[tuple[int, float]], levels: int, share: float
) -> None:
    """The greedy rule is exact up to the layer that no longer fits: its gain per byte bounds what is missed."""
    sizes = {str(i): size for i, (size, _) in enumerate(given_layers)}
    d = {str(i): value for i, (_, value) in enumerate(given_layers)}
    budget, layers = fl.Budget(1, share=share, levels=levels), layers_of(sizes)
    cycle, total = budget.cycle_rounds, 4 * sum(sizes.values())
    room = int(share * cycle * total)
    if room < total:
        return
    found = budget.intervals_within(budget.init(layers, 0), d, room)

    def cost(taus: Mapping[str, int]) -> int:
        return sum(4 * sizes[name] * (cycle // tau) for name, tau in taus.items())

    def waste(taus: Mapping[str, int]) -> float:
        return sum(d[name] * 4 * sizes[name] * tau for name, tau in taus.items())

    assert cost(found) <= room
    powers = [2**k for k in range(levels)]
    tables = [dict(zip(sizes, taus, strict=True)) for taus in itertools.product(powers, repeat=len(sizes))]
    best = min(waste(table) for table in tables if cost(table) <= room)
    # By linear programming, the course up to the first layer that no longer fits is optimal; its halving gains this.
    last = max((d[name] * 4 * sizes[name] * tau / 2 for name, tau in found.items() if tau > 1), default=0.0)
    assert waste(found) <= best + last + 1e-6 * best


def test_intervals_follow_one_over_the_root_of_d() -> None:
    # d = 1, 4, 16, 64: tau proportional to 8, 4, 2, 1, which is 1 + 2 + 4 + 8 uploads of 40 bytes in 8 rounds.
    budget, layers = fl.Budget(1, share=0.5), layers_of({"a": 10, "b": 10, "c": 10, "d": 10})
    d = {"a": 1.0, "b": 4.0, "c": 16.0, "d": 64.0}
    assert budget.intervals_within(budget.init(layers, 0), d, room=15 * 40) == {"a": 8, "b": 4, "c": 2, "d": 1}


def test_a_run_keeps_to_its_budget() -> None:
    layers = layers_of({"a": 1000, "b": 3000, "c": 500, "bias": 10}, fixed=("bias",))
    plans = course(fl.Budget(6, share=0.25), layers, {"a": 3.0, "b": 0.5, "c": 7.0, "bias": 1.0}, 80)
    assert sent(plans, layers) <= 0.25 * 80 * 4 * 4510
    assert sent(plans, layers) >= 0.24 * 80 * 4 * 4510


def test_staggered_layers_are_due_in_different_rounds_and_know_how_long_they_trained() -> None:
    layers = layers_of({"a": 10, "b": 10, "c": 10, "d": 10})
    budget = fl.Budget(1, share=0.25, levels=3, stagger=True)
    plans = course(budget, layers, dict.fromkeys("abcd", 1.0), 12)
    assert [sorted(plan.upload) for plan in plans[:4]] == [["d"], ["c"], ["b"], ["a"]]
    assert [plans[i].rounds_apart(name) for i, name in enumerate("dcba")] == [1, 2, 3, 4]
    assert [plan.rounds_apart("d") for plan in plans[1:5]] == [1, 2, 3, 4]
    assert [plan.cycle_start for plan in plans] == [True] + [False] * 11


def test_a_staggered_run_records_the_discrepancy_per_step_that_it_trained() -> None:
    strategy = fl.Budget(1, share=0.75, levels=2, stagger=True)
    result = fl.Federation(mlp().float(), skewed_clients(2), strategy, local_steps=6).run()
    last: dict[str, int] = {}
    for record in result.rounds:
        for name, layer in record.layers.items():
            if layer.synchronised:
                rounds = record.round_index - last.get(name, -1)
                size = result.model[name].numel()
                assert layer.discrepancy is not None
                assert layer.unit_discrepancy == pytest.approx(layer.discrepancy / (rounds * size), rel=1e-12)
                last[name] = record.round_index


def test_what_needs_layers_in_sync_is_refused_for_a_staggered_schedule() -> None:
    strategy = fl.Budget(1, share=0.75, levels=2, stagger=True)
    with pytest.raises(fl.ConfigError) as caught:
        fl.Federation(
            mlp().float(),
            skewed_clients(4),
            strategy,
            local_steps=4,
            sampler=fl.UniformSampler(2),
            availability=fl.RandomAbsence(away=0.5),
        ).run()
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"megabytes": -1.0}, "megabytes is -1.0"),
        ({"share": 0.0}, "share is 0.0, expected a number in"),
        ({"share": 1.5}, "share is 1.5"),
        ({"share": 0.5, "order": "sizes"}, "order is 'sizes'"),
        ({"share": 0.5, "levels": 0}, "levels is 0"),
    ],
)
def test_bad_settings(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(fl.ConfigError, match=problem):
        fl.Budget(1, **options)


def test_a_budget_that_is_too_small_says_what_is_needed() -> None:
    layers = layers_of({"a": 100, "bias": 100}, fixed=("bias",))  # 400 + 400 * 8 of 6,400 bytes
    with pytest.raises(fl.ConfigError, match=r"take share 0\.563, or 0\.01 megabytes"):
        fl.Budget(1, share=0.5).init(layers, 0)
    fl.Budget(1, share=0.563).init(layers, 0)


# The order of layers, a control


def test_scores_of_each_order() -> None:
    d, sizes = {"a": 2.0, "b": 0.0}, {"a": 10, "b": 40}
    assert scores("discrepancy", d, sizes, 0, 0) == d
    assert scores("inverse", d, sizes, 0, 0) == {"a": 0.5, "b": float("inf")}
    draws = [tuple(scores("random", d, sizes, 7, k).values()) for k in range(20)]
    assert set(draws) == {(1.0, 2.0), (2.0, 1.0)}
    assert draws == [tuple(scores("random", d, sizes, 7, k).values()) for k in range(20)]


def test_controls_relax_as_many_parameters_as_the_criterion() -> None:
    d, sizes = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}, {"a": 50, "b": 30, "c": 60, "d": 20}
    chosen = frozenset({"a", "b"})  # 80 parameters
    assert same_share("size", chosen, d, sizes, 0, 0) == {"c"}  # 60 misses by 20, with a it would miss by 30
    assert same_share("inverse", chosen, d, sizes, 0, 0) == {"d", "c"}
    assert same_share("discrepancy", chosen, d, sizes, 0, 0) == chosen


def test_fedlama_relaxes_the_largest_layers_under_order_size() -> None:
    layers = layers_of({"small": 10, "large": 1000})
    d = {"small": 0.001, "large": 5.0}

    def relaxed(order: Order) -> set[str]:
        strategy = fl.FedLAMA(1, 2, order=order)
        state = strategy.init(layers, 0)
        for index in range(2):
            plan = strategy.plan(state, index)
            apart = {name: plan.rounds_apart(name) * layers[i].parameters for i, name in enumerate(("small", "large"))}
            measured = {name: LayerStatistics(d[name] * apart[name], 0.0, 0.0) for name in plan.upload}
            state = strategy.fold(state, plan, measured)
        return {name for name, interval in state.intervals.items() if interval == 2}

    assert relaxed("discrepancy") == {"small", "large"}  # the crossing includes the layer at which it happens
    assert relaxed("size") == {"large", "small"}
    assert relaxed("inverse") == {"large", "small"}


def test_bad_order() -> None:
    with pytest.raises(fl.ConfigError, match="order is 'size', which is not defined for accelerate"):
        fl.FedLAMA(4, 2, accelerate=True, order="size")
