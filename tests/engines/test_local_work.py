"""Clients that take unequal numbers of local steps: budgets, epochs, limits and stragglers, in every engine."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.core.budget import Budget, GivenBudget
from fedlama.core.local_work import LocalWork
from fedlama.engines import Recorded, Stacked, Workers
from fedlama.errors import ConfigError
from tests.core.helpers import FEATURES, Line, mlp, product, pushed, skewed_clients
from tests.engines.cases import assert_same, clients, federation, run

ENGINES: list[Any] = [
    Stacked(),
    Stacked(chunk=2),
    Stacked(threads=2, chunk=2),
    Workers(threads=2),
    Recorded(),
    fl.Auto(),
]
WORK = LocalWork(epochs=1.0, limits={2: 1})
STRAGGLERS = LocalWork(straggler_share=0.6)


def dropping() -> nn.Module:
    """A dense network with dropout, whose masks must go on from phase to phase."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))


class Branching(nn.Module):
    """A network that is no chain, with dropout, so that it takes the vectorised trainer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.second = nn.Linear(FEATURES, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, features) to logits."""
        hidden = torch.tanh(self.first(x))
        return self.second(self.drop(hidden) + hidden)


MODELS = {"kernels": lambda: mlp().float(), "dropout": dropping, "vectorised": Branching}
DENSE: dict[str, Any] = {"clients": skewed_clients(5), "strategy": fl.FedAvg(2), "sampler": fl.UniformSampler(4)}
DENSE |= {"local_steps": 6}


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("work", [WORK, STRAGGLERS], ids=["epochs", "stragglers"])
@pytest.mark.parametrize("model", MODELS)
def test_every_engine_gives_the_results_of_loop(engine: Any, work: LocalWork, model: str) -> None:  # noqa: ANN401
    settings: dict[str, Any] = {**DENSE, "local_work": work, "model": MODELS[model]()}
    settings |= {"solver": fl.SGD(0.05, momentum=0.9, schedule=fl.Schedule("cosine"))}
    assert_same(run(engine, **settings), run("loop", **settings))


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize(
    "solver", [fl.AdamW(0.01, epsilon=1e-3), fl.FedProx(0.05, 0.9), fl.SGD(0.05, 0.9, state_scope="slot")], ids=str
)
def test_networks_with_statistics_and_every_kind_of_solver(engine: Any, solver: Any) -> None:  # noqa: ANN401
    settings: dict[str, Any] = {"local_work": WORK, "solver": solver, "clients": clients()}
    assert_same(run(engine, **settings), run("loop", **settings))


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_steps_by_hand(engine: Any) -> None:  # noqa: ANN401
    """Gradient 1 for client 0 with 1 batch an epoch, 10 for client 1 with 3 batches; two rounds of one epoch.

    Each round, client 0 moves by -1 and client 1 by -30; equal weights, so the model ends at 2 * -15.5.
    """
    both = pushed(1.0, 10.0, samples=[2, 6])
    given = [fl.ClientData(client.x, client.y, 2) for client in both]
    settings: dict[str, Any] = {"model": Line(0.0), "objective": product, "engine": engine, "weighting": "equal"}
    one = fl.Federation(
        clients=given,
        strategy=fl.FedAvg(2),
        rounds=2,
        solver=fl.SGD(1.0),
        local_work=LocalWork(epochs=1),
        **settings,
    )
    result = one.run()
    assert float(result.model["free"]) == pytest.approx(-31.0, abs=1e-12)
    assert [record.client_steps for record in result.rounds] == [{0: 1, 1: 3}] * 2
    assert [record.local_steps for record in result.rounds] == [2, 4]  # the run's clock
    limited = fl.Federation(
        clients=given,
        strategy=fl.FedAvg(2),
        rounds=1,
        solver=fl.SGD(1.0),
        local_work=LocalWork(epochs=2, limits={1: 4}),
        **settings,
    ).run()
    assert float(limited.model["free"]) == pytest.approx(-(2 + 40) / 2, abs=1e-12)


def test_the_declared_interval_changes_no_number_of_a_run_in_rounds() -> None:
    """Tau is a unit only: intervals, uploads and models do not depend on it where clients do epochs of their own."""
    base: dict[str, Any] = {"rounds": 6, "local_steps": None, "local_work": LocalWork(epochs=1)}
    results = [federation("loop", strategy=fl.FedLAMA(tau, 2), **base).run() for tau in (1, 7)]
    for one, other in zip(results[0].rounds, results[1].rounds, strict=True):
        assert one.loss == other.loss
        assert {name: layer.interval for name, layer in one.layers.items()} == {
            name: layer.interval for name, layer in other.layers.items()
        }
    assert results[0].cost_percent == pytest.approx(results[1].cost_percent)
    assert all(torch.equal(value, results[1].model[name]) for name, value in results[0].model.items())


@pytest.mark.parametrize("engine", ["loop", Stacked(), Workers(), Recorded()], ids=str)
def test_resumed_runs_end_in_the_same_bits(engine: Any) -> None:  # noqa: ANN401
    one = federation(engine, local_work=LocalWork(epochs=0.5, straggler_share=0.5), keep_client_models=False)
    whole = one.run()
    first = fl.Run(one)
    before = [first.advance() for _ in range(3)]
    second = fl.Run(one)
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    assert all(torch.equal(value, whole.model[name]) for name, value in result.model.items())
    assert [record.client_steps for record in result.rounds] == [record.client_steps for record in whole.rounds]


def test_clients_that_are_away_count_their_own_steps() -> None:
    settings: dict[str, Any] = {**DENSE, "model": mlp().float(), "local_work": WORK}
    settings |= {"availability": fl.RandomAbsence(away=0.2)}
    assert_same(run(Stacked(), **settings), run("loop", **settings))


def test_budgets_in_local_steps_rounds_and_epochs_are_one_run() -> None:
    # Clients of 12, 10, 14, 12 and 7 samples and batches of 4: 3, 3, 4, 3 and 2 batches an epoch, 3 on average.
    base: dict[str, Any] = {"strategy": fl.FedAvg(2), "local_steps": None, "keep_client_models": False}
    same = [
        federation("loop", **{**base, "local_steps": 6}),
        federation("loop", **base, rounds=3),
        federation("loop", **base, epochs=2),
    ]
    assert [one.budget for one in same] == [Budget(6, 3)] * 3
    assert same[0].describe() == same[1].describe() == same[2].describe()
    assert [one.rounds for one in same] == [3] * 3
    assert federation("loop", **base, epochs=2.1).budget == Budget(8, 4)  # rounded up to whole rounds
    assert federation("loop", **base, epochs=3, local_work=LocalWork(epochs=1 / 3)).budget.rounds == 9


def test_rounds_are_a_number_that_other_settings_may_change() -> None:
    steps = federation("loop", strategy=fl.FedAvg(2), local_steps=12, keep_client_models=False)
    assert (steps.rounds, type(steps.given_budget.rounds)) == (6, type(None))
    assert replace(steps, strategy=fl.FedAvg(4)).rounds == 3  # the budget stays 12 local steps
    assert replace(steps, local_steps=8).rounds == 4
    assert replace(steps, local_steps=None, epochs=2).rounds == 3
    rounds = replace(steps, local_steps=None, rounds=np.int64(5))
    assert type(rounds.rounds) is int
    assert (rounds.rounds, replace(rounds, strategy=fl.FedAvg(4)).rounds) == (5, 5)  # now it is 5 rounds
    assert (replace(rounds, rounds=None, local_steps=8).rounds, replace(rounds, seed=3).rounds) == (4, 5)
    copied = fl.Federation(steps.model, steps.clients, fl.FedAvg(4), rounds=steps.rounds)
    assert (copied.rounds, copied.budget) == (6, Budget(24, 6))
    kept = replace(steps, clients=skewed_clients(5))
    for given in (kept, replace(kept, local_steps=None, rounds=5), replace(kept, local_steps=None, epochs=2)):
        again = pickle.loads(pickle.dumps(given))
        assert (again.rounds, again.given_budget) == (given.rounds, given.given_budget)
        assert f"rounds: {given.rounds}, " in repr(given)


def test_a_loop_by_hand_ends_with_the_budget() -> None:
    for budget in ({"local_steps": 6}, {"rounds": 3}, {"epochs": 2}):
        given = federation("loop", **{"strategy": fl.FedAvg(2), "local_steps": None, **budget})
        run, whole = fl.Run(given), given.run()
        records = []
        while run.round_index < given.rounds:
            records.append(run.advance())
        assert [record.loss for record in records] == [record.loss for record in whole.rounds]
        assert len(records) == 3


def test_a_budget_that_is_refused_has_no_rounds_and_can_be_mended() -> None:
    good = federation("loop", strategy=fl.FedAvg(2), local_steps=12)
    unknown = fl.ReplayedClients([[(torch.zeros(2, 2, 6, 6), torch.zeros(2, dtype=torch.int64))] * 30] * 3)
    for wrong in ({"local_steps": 7}, {"rounds": 3, "epochs": 2}, {"local_steps": None, "epochs": 2}):
        bad = replace(good, clients=unknown, **wrong)
        assert "rounds: " in repr(bad)
        with pytest.raises(ConfigError):
            _ = bad.budget
        mended = replace(bad, clients=good.clients, local_steps=12, rounds=None, epochs=None)
        assert (mended.rounds, mended.budget) == (6, good.budget)
    assert replace(good, local_steps=7).rounds == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"local_steps": None}, "the budget is nothing"),
        ({"rounds": 3}, "the budget is local_steps = 12, rounds = 3, expected exactly one"),
        ({"local_steps": None, "rounds": 2.5}, "rounds is 2.5, expected an integer"),
        ({"local_steps": None, "rounds": 0}, "rounds is 0, expected more than 0"),
        ({"local_steps": None, "epochs": -1.0}, "epochs is -1.0, expected more than 0"),
        ({"local_steps": 7}, "must be a whole number of rounds"),
        ({"local_work": LocalWork(limits={9: 3})}, "local_work.limits names client 9, but there are 5 clients"),
    ],
)
def test_budgets_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        fl.Run(federation("loop", **changes))
    assert words in str(caught.value)


def test_clients_that_do_not_know_their_epochs_are_refused() -> None:
    batches = [[(torch.zeros(2, 2, 6, 6), torch.zeros(2, dtype=torch.int64))] * 30] * 3
    for changes in ({"local_work": LocalWork(epochs=1)}, {"epochs": 2, "local_steps": None}):
        settings: dict[str, Any] = {"clients": fl.ReplayedClients(batches), "sampler": fl.AllClients(), **changes}
        with pytest.raises(ConfigError, match="does not know how many batches an epoch"):
            fl.Run(federation("loop", **settings))


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"epochs": -1}, {"limits": {0: 0}}, {"limits": {-1: 2}}, {"straggler_share": 1.0}]
)
def test_local_work_that_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="LocalWork"):
        LocalWork(**wrong)


def test_stragglers_take_a_part_of_their_steps() -> None:
    drawn = [LocalWork(straggler_share=0.5).steps(None, range(1000), 10, round_index=r, seed=0) for r in range(2)]
    assert drawn[0] != drawn[1]
    assert 350 < len(drawn[0]) < 500  # half of them, but a tenth of these draw all their steps
    assert set(drawn[0].values()) == set(range(1, 10))


def test_a_budget_resolves_by_hand() -> None:
    assert GivenBudget(None, 5, None).resolve(4, [], LocalWork()) == (20, 5)
    assert GivenBudget(20, None, None).resolve(4, [], LocalWork()) == (20, 5)
