"""FedLUAR's controls and bounds: freezing, equal bytes, a bound on age, the authors' cost, the server's memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

import fedlama as fl
from fedlama.choices.strategies import LayerStatistics
from fedlama.choices.strategies.fedluar import FedLUARState
from tests.core.helpers import Line, layers_of, product, pushed
from tests.engines.cases import assert_same, run
from tests.reference import recycling_probabilities
from tests.resume.test_exact import assert_exact, federation

SIZES = [100, 10, 40, 80, 30, 20]


def course(strategy: fl.FedLUAR, rounds: int, sizes: list[int] = SIZES, seed: int = 0) -> list[frozenset[str]]:
    """What is recycled in each round when small layers move most."""
    state, recycled = strategy.init(layers_of(sizes), seed), []
    for index in range(rounds):
        plan = strategy.plan(state, index)
        recycled.append(plan.recycle)
        state = strategy.fold(state, plan, {n: LayerStatistics(0.0, 1.0 / sizes[int(n)], 1.0) for n in plan.upload})
    return recycled


def test_literal_scores_and_probabilities() -> None:
    values = {"0": [3.0, 4.0], "1": [10.0], "2": [1.0, 2.0, 2.0]}
    updates = {"0": [0.3, 0.4], "1": [0.1], "2": [0.3, 0.6, 0.6]}
    strategy = fl.FedLUAR(1, 1)
    state = strategy.init(layers_of([2, 1, 3]), 0)
    norms = {
        name: LayerStatistics(0.0, float(np.linalg.norm(updates[name])), float(np.linalg.norm(value)))
        for name, value in values.items()
    }
    scores = [strategy.fold(state, strategy.plan(state, 0), norms).scores[name] for name in "012"]
    assert scores == pytest.approx([0.09999998, 0.009999999, 0.2999999000], abs=1e-9)
    assert recycling_probabilities(scores) == pytest.approx([0.0882353016, 0.8823529273, 0.0294117711], abs=1e-9)
    drawn = np.random.RandomState(0)  # the authors' generator: their sequential scheme, with literal draws
    p = np.array(recycling_probabilities(scores))
    draws = [drawn.choice(3, size=2, replace=False, p=p).tolist() for _ in range(5)]
    assert draws == [[1, 0], [1, 0], [1, 2], [1, 0], [1, 0]]


@pytest.mark.parametrize(("fill", "places"), [("recycle", [9.0, 8.0, 7.0]), ("freeze", [10.0, 10.0, 10.0])])
@pytest.mark.parametrize("engine", ["loop", "stacked", "workers", "recorded"])
def test_a_skipped_layer_repeats_its_update_or_keeps_its_value(engine: str, fill: Any, places: list[float]) -> None:  # noqa: ANN401
    # x = 10, D = -1, skipped for three rounds. The round before is made by hand: the strategy skips "held" always.
    @dataclasses.dataclass(frozen=True)
    class SkipsHeld(fl.FedLUAR):
        def plan(self, state: FedLUARState, round_index: int) -> fl.Plan:
            names, skipped = frozenset(state.names), frozenset({"held"} if 0 < round_index < 4 else set())
            return fl.Plan(round_index, names - skipped, dict.fromkeys(names, 1), True, recycle=skipped)

    run = fl.Run(
        fl.Federation(
            Line(11.0),
            pushed(1.0, 1.0),
            SkipsHeld(1, 1, fill=fill),
            5,
            solver=fl.SGD(1.0),
            objective=product,
            engine=engine,
        )
    )
    run.advance()
    assert float(run.values["held"]) == 10.0
    seen, scores = [], []
    for _ in range(3):
        run.advance()
        seen.append(float(run.values["held"]))
        scores.append(run.state.scores["held"])
    assert seen == places
    assert len(set(scores)) == 1


def test_freezing_moves_the_bytes_of_recycling() -> None:
    ledgers = [
        run("loop", strategy=fl.FedLUAR(2, 1, rule="random", fill=fill)).ledger.transfers  # type: ignore[arg-type]
        for fill in ("recycle", "freeze")
    ]
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize("rule", ["random", "round-robin", "size"])
def test_a_control_skips_about_as_many_bytes_as_the_score(rule: Any) -> None:  # noqa: ANN401
    by_score = sum(sum(SIZES[int(n)] for n in group) for group in course(fl.FedLUAR(1, 2), 60))
    counted = course(fl.FedLUAR(1, 2, rule=rule, max_age=2), 60)
    matched = course(fl.FedLUAR(1, 2, rule=rule, match="bytes", max_age=2), 60)
    assert all(len(group) <= 2 for group in counted)
    by_score_bounded = sum(sum(SIZES[int(n)] for n in group) for group in course(fl.FedLUAR(1, 2, max_age=2), 60))
    total = sum(sum(SIZES[int(n)] for n in group) for group in matched)
    assert abs(total / by_score_bounded - 1.0) < 0.15
    assert by_score > by_score_bounded  # the bound costs bytes: the score would skip the largest layer always


def test_the_score_acts_as_a_rule_of_size_here() -> None:
    # Large layers move least, so the score skips far more bytes than blind choices of as many layers.
    saved = {
        rule: sum(sum(SIZES[int(n)] for n in group) for group in course(fl.FedLUAR(1, 2, rule=rule), 60))
        for rule in ("score", "random")
    }
    assert saved["score"] > 1.3 * saved["random"]


@pytest.mark.parametrize("rule", ["score", "random", "round-robin", "size"])
@pytest.mark.parametrize("match", ["count", "bytes"])
def test_no_layer_is_skipped_longer_than_its_bound(rule: Any, match: Any) -> None:  # noqa: ANN401
    if rule == "score" and match == "bytes":
        pytest.skip("refused")
    recycled = course(fl.FedLUAR(1, 3, rule=rule, match=match, max_age=2), 40)
    longest = 0
    for name in map(str, range(len(SIZES))):
        ages = [0]
        for group in recycled:
            ages.append(ages[-1] + 1 if name in group else 0)
        longest = max(longest, *ages)
    assert longest <= 2
    assert longest == 2 or rule == "round-robin"


def test_the_authors_cost_is_off_by_one_round() -> None:
    # Layers of 10 and 30; {} , {second}, {first}, {second} are drawn for rounds 0 to 3, and 3 rounds are run.
    state = FedLUARState(
        names=("a", "b"),
        candidates=("a", "b"),
        scores={},
        recycle=frozenset({"b"}),
        seed=0,
        sizes={"a": 10, "b": 30},
        ages={},
        counted={"a": 2, "b": 1},  # after rounds 0, 1, 2: b, a and b were drawn
        draws=3,
    )
    figures = fl.FedLUAR(1, 1).figures(state, active=32, rounds=3)
    assert figures["cost as the authors print it, %"] == pytest.approx(100 * 50 / 120)
    assert round(100 * 50 / 120, 2) == 41.67
    assert round(100 * (40 + 10 + 30) / 120, 2) == 66.67  # the true one, which the ledger has


def test_both_costs_of_a_run() -> None:
    given = federation("loop", strategy=fl.FedLUAR(2, 1, rule="round-robin"))
    result = given.run()
    sizes = {layer.name: layer.parameters for layer in given.labelling()}
    recycled = [[n for n, layer in record.layers.items() if layer.discrepancy is None] for record in result.rounds]
    assert recycled[0] == []
    drawn = [*recycled[1:], [["0.weight"], ["3.weight"]][len(recycled) % 2 == 0]]
    expected = sum(sum(size for name, size in sizes.items() if name not in group) for group in drawn)
    printed = result.figures["cost as the authors print it, %"]
    assert printed == pytest.approx(100 * expected / (len(drawn) * sum(sizes.values())))
    assert printed < result.cost_percent


def test_server_memory_is_that_of_the_papers_table() -> None:
    # FEMNIST: 32 clients, 6,603,710 parameters: 806.117 MiB for FedAvg.
    state = fl.FedLUAR(1, 0).init(layers_of([6_603_710]), 0)
    state = fl.FedLUAR(1, 0).fold(state, fl.FedLUAR(1, 0).plan(state, 0), {"0": LayerStatistics(0.0, 1.0, 1.0)})
    assert fl.FedLUAR(1, 0).figures(state, 32, 1)["server memory, MiB"] == pytest.approx(806.117, abs=5e-4)


OTHERS = [
    fl.FedLUAR(2, 1, fill="freeze"),
    fl.FedLUAR(2, 1, rule="random", match="bytes"),
    fl.FedLUAR(2, 1, rule="size", max_age=1, fill="freeze"),
    fl.FedLUAR(2, 1, max_age=1),
]


@pytest.mark.selection
@pytest.mark.parametrize("engine", [fl.Stacked(), fl.Workers(threads=2), fl.Recorded()], ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("strategy", OTHERS, ids=str)
def test_engines_agree(engine: Any, strategy: fl.FedLUAR) -> None:  # noqa: ANN401
    assert_same(run(engine, strategy=strategy), run("loop", strategy=strategy))


@pytest.mark.parametrize("strategy", OTHERS, ids=str)
def test_a_run_goes_on_from_any_round(strategy: fl.FedLUAR) -> None:
    assert_exact(federation("stacked", strategy=strategy))


@pytest.mark.parametrize("strategy", [*OTHERS, fl.FedLUAR(2, 1, rule="round-robin", max_age=3)], ids=str)
def test_a_run_is_within_the_forecast(strategy: fl.FedLUAR) -> None:
    given = federation("loop", strategy=strategy)
    result = given.run()
    forecast = fl.forecast(
        strategy,
        given.labelling(),
        codec=given.codec,
        sampler=given.sampler,
        population=5,
        local_steps=12,
        base_interval=2,
    )
    assert forecast.low.bytes_up <= result.ledger.total_bytes("up") <= forecast.high.bytes_up
    if strategy.rule == "round-robin":
        assert forecast.certainty == "exact"


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match="rule is 'size' without max_age"):
        fl.FedLUAR(1, 1, rule="size")
    with pytest.raises(fl.ConfigError, match="match is 'bytes', which compares a control with the score"):
        fl.FedLUAR(1, 1, match="bytes")
    with pytest.raises(fl.ConfigError, match="max_age is 0"):
        fl.FedLUAR(1, 1, max_age=0)


def test_the_round_robin_control_of_fedlama_relaxes_every_layer_in_turn() -> None:
    strategy = fl.FedLAMA(1, 2, order="round-robin")
    state = strategy.init(layers_of([10, 10, 10, 10]), 0)
    relaxed: list[list[str]] = []
    for index in range(16):
        plan = strategy.plan(state, index)
        found = {name: LayerStatistics(float(name) + 1.0, 1.0, 1.0) for name in plan.upload}
        state = strategy.fold(state, plan, found)
        if index % 2:
            relaxed.append(sorted(name for name, interval in state.intervals.items() if interval == 2))
    assert [group[0] for group in relaxed[:1]] == ["0"]
    assert set().union(*relaxed) == {"0", "1", "2", "3"}
    assert len({len(group) for group in relaxed}) == 1


def test_the_figures_are_in_the_results_of_other_strategies_not_at_all() -> None:
    assert run("loop", strategy=fl.FedAvg(2)).figures == {}
    torch.manual_seed(0)
