"""FedLUAR's scores, draws and staleness, by literal numbers and without any tensor."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from fedlama import ConfigError, FedLUAR
from fedlama.choices.strategies import LayerStatistics
from fedlama.choices.strategies.fedluar import FedLUARState
from tests.core.helpers import layers_of
from tests.reference import recycling_probabilities


def moved(**norms: tuple[float, float]) -> dict[str, LayerStatistics]:
    """Statistics of layers "0", "1", ... given as l0=(update norm, value norm)."""
    return {name[1:]: LayerStatistics(0.0, *pair) for name, pair in norms.items()}


def after(strategy: FedLUAR, scores: list[float], seed: int, round_index: int = 0) -> FedLUARState:
    """The state after a round in which every layer came up with the given score (value norms of 1)."""
    state = strategy.init(layers_of([1] * len(scores)), seed)
    stats = {str(i): LayerStatistics(0.0, score, 1.0 - 1e-6) for i, score in enumerate(scores)}
    return strategy.fold(state, strategy.plan(state, round_index), stats)


def test_scores_are_relative_updates() -> None:
    strategy = FedLUAR(1, 1)
    state = strategy.init(layers_of([1, 1]), 0)
    state = strategy.fold(state, strategy.plan(state, 0), moved(l0=(3.0, 4.0), l1=(1.0, 0.0)))
    assert state.scores == {"0": 3.0 / 4.000001, "1": 1.0 / 0.000001}


def test_first_round_uploads_everything() -> None:
    strategy = FedLUAR(1, 2)
    plan = strategy.plan(strategy.init(layers_of([1, 1, 1]), 0), 0)
    assert plan.upload == {"0", "1", "2"}
    assert not plan.recycle
    assert plan.cycle_start


def test_a_recycled_layer_stays_away_and_keeps_its_score() -> None:
    strategy = FedLUAR(1, 1)
    state = after(strategy, [1.0, 2.0, 4.0], seed=0)
    (stale,) = state.recycle
    plan = strategy.plan(state, 1)
    assert plan.upload == {"0", "1", "2"} - {stale}
    assert plan.recycle == {stale}
    assert not plan.held(layers_of([1, 1, 1]))
    fresh = {name: LayerStatistics(0.0, 10.0, 1.0) for name in plan.upload}
    later = strategy.fold(state, plan, fresh).scores
    assert later[stale] == state.scores[stale]
    assert all(later[name] == 10.0 / (1.0 + 1e-6) for name in plan.upload)


def test_staleness_is_unbounded() -> None:
    # A layer that hardly changes is recycled again and again.
    strategy = FedLUAR(1, 1)
    state = after(strategy, [1e-12, 1.0, 1.0], seed=0)
    for e in range(1, 50):
        assert state.recycle == {"0"}
        fresh = {name: LayerStatistics(0.0, 1.0, 1.0) for name in ("1", "2")}
        state = strategy.fold(state, strategy.plan(state, e), fresh)


def test_layers_that_never_moved_can_be_drawn() -> None:
    assert len(after(FedLUAR(1, 2), [0.0, 0.0, 1.0], seed=0).recycle) == 2
    assert after(FedLUAR(1, 2), [0.0, 0.0, 1.0], seed=0).recycle == {"0", "1"}


def test_one_layer_is_drawn_with_the_inverse_score() -> None:
    # Scores 1, 1/2, 1/4: probabilities 1/7, 2/7, 4/7.
    draws = 4000
    seen = Counter(next(iter(after(FedLUAR(1, 1), [1.0, 0.5, 0.25], seed).recycle)) for seed in range(draws))
    for name, p in zip("012", recycling_probabilities([1.0, 0.5, 0.25]), strict=True):
        assert seen[name] / draws == pytest.approx(p, abs=4 * (p * (1 - p) / draws) ** 0.5)


def test_two_layers_are_drawn_one_after_the_other_without_replacement() -> None:
    scores, draws = [1.0, 0.5, 0.25, 0.125], 4000
    p = recycling_probabilities(scores)
    exact: Counter[frozenset[str]] = Counter()
    for first, second in permutations(range(4), 2):
        exact[frozenset(f"{first}{second}")] += p[first] * p[second] / (1 - p[first])  # type: ignore[assignment]
    seen = Counter(after(FedLUAR(1, 2), scores, seed).recycle for seed in range(draws))
    for pair, probability in exact.items():
        assert seen[pair] / draws == pytest.approx(
            probability, abs=4 * (probability * (1 - probability) / draws) ** 0.5
        )


def test_the_random_control_is_uniform() -> None:
    draws = 3000
    seen = Counter(
        name
        for seed in range(draws)
        for name in after(FedLUAR(1, 2, rule="random"), [1e-9, 1.0, 1.0, 1e9], seed).recycle
    )
    for name in "0123":
        assert seen[name] / draws == pytest.approx(0.5, abs=4 * 0.5 / draws**0.5)


def test_the_round_robin_control_goes_round() -> None:
    strategy = FedLUAR(1, 2, rule="round-robin")
    state = strategy.init(layers_of([1] * 5), 0)
    sets = []
    for e in range(6):
        plan = strategy.plan(state, e)
        sets.append(plan.recycle)
        state = strategy.fold(state, plan, {name: LayerStatistics(0.0, 1.0, 1.0) for name in plan.upload})
    assert sets == [set(), {"0", "1"}, {"2", "3"}, {"4", "0"}, {"1", "2"}, {"3", "4"}]


def test_draws_depend_on_seed_and_round() -> None:
    strategy = FedLUAR(1, 4)
    sets = {after(strategy, [1.0] * 9, seed, e).recycle for seed in range(5) for e in range(5)}
    assert len(sets) > 15
    assert after(strategy, [1.0] * 9, 1, 3).recycle == after(strategy, [1.0] * 9, 1, 3).recycle


@pytest.mark.parametrize("rule", ["score", "random", "round-robin"])
def test_only_adaptive_layers_are_recycled(rule: str) -> None:
    strategy = FedLUAR(1, 2, rule=rule)
    state = strategy.init(layers_of([1] * 6, [True, False] * 3), 0)
    for e in range(20):
        plan = strategy.plan(state, e)
        assert not plan.recycle & {"1", "3", "5"}
        state = strategy.fold(state, plan, {name: LayerStatistics(0.0, 1.0, 1.0) for name in plan.upload})
    assert set(state.scores) == {"0", "2", "4"}


def test_one_layer_at_least_must_travel() -> None:
    layers = layers_of([1, 1, 1], [True, True, False])
    FedLUAR(1, 1).init(layers, 0)
    with pytest.raises(ConfigError, match=r"recycled_layers is 2, but only 2 layers.*choose 1 or fewer"):
        FedLUAR(1, 2).init(layers, 0)


def test_bad_hyper_parameters_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError, match="did you mean 'score'") as caught:
        FedLUAR(0, -1, rule="scores")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3
