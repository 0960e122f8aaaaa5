"""Optimizer state that belongs to a client for the whole run: it survives while other cohorts train."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.engines import Recorded, Stacked, Workers
from fedlama.errors import DataError
from tests.core.helpers import Line, mlp, product, pushed, skewed_clients
from tests.engines.cases import assert_same, run

ENGINES: list[Any] = [Stacked(), Stacked(chunk=1), Workers(threads=2), Recorded(share=2), fl.Auto()]


class OneAfterAnother(fl.Sampler):
    """Round r trains client r modulo the population."""

    def cohort_size(self, population: int) -> int:
        return 1

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        return (round_index % population,)


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_velocity_waits_for_its_client(engine: Any) -> None:  # noqa: ANN401
    """By hand: gradients 1 and 10, momentum .5, rate 1; rounds train clients 0, 1, 0, 1.

    Velocities: 1; 10; .5 * 1 + 1 = 1.5; .5 * 10 + 10 = 15. The model ends at minus their sum. With scope "cohort" the
    velocities would be 1, 10, 1, 10.
    """
    settings: dict[str, Any] = {"clients": pushed(1.0, 10.0), "strategy": fl.FedAvg(1), "local_steps": 4}
    settings |= {"sampler": OneAfterAnother(), "objective": product, "engine": engine, "model": Line(0.0)}
    kept = fl.Federation(solver=fl.SGD(1.0, momentum=0.5, state_scope="client"), **settings).run()
    fresh = fl.Federation(solver=fl.SGD(1.0, momentum=0.5), **settings).run()
    assert float(kept.model["free"]) == pytest.approx(-27.5, abs=1e-12)
    assert float(fresh.model["free"]) == pytest.approx(-22.0, abs=1e-12)


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_adam_counts_a_clients_own_steps(engine: Any) -> None:  # noqa: ANN401
    federation = fl.Federation(
        model=nn.Linear(6, 3),
        clients=skewed_clients(3),
        strategy=fl.FedAvg(2),
        local_steps=10,
        solver=fl.Adam(0.01, state_scope="client"),
        sampler=OneAfterAnother(),
        engine=engine,
    )
    whole = fl.Run(federation)
    while whole.round_index < 5:  # clients 0, 1, 2, 0, 1
        whole.advance()
    state = whole.engine.state_dict()
    counts = {client: int(kinds["steps"]["weight"]) for client, kinds in state.inactive.items()}
    assert counts == {0: 4, 2: 2}
    assert state.clients == (1,)
    assert int(state.optimizer_state["steps"]["weight"][0]) == 4


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("absent", [False, True])
def test_engines_agree(engine: Any, absent: bool) -> None:  # noqa: ANN401
    settings: dict[str, Any] = {"clients": skewed_clients(5), "strategy": fl.FedAvg(2), "local_steps": 16}
    settings |= {"sampler": fl.UniformSampler(3), "model": mlp().float()}
    settings |= {"solver": fl.Adam(0.01, epsilon=1e-3, state_scope="client")}
    settings |= {"availability": fl.RandomAbsence(away=0.15)} if absent else {}
    assert_same(run(engine, **settings), run("loop", **settings))


def test_a_forged_state_of_inactive_clients_is_refused() -> None:
    federation = fl.Federation(
        model=nn.Linear(6, 3),
        clients=skewed_clients(3),
        strategy=fl.FedAvg(2),
        local_steps=6,
        solver=fl.Adam(0.01, state_scope="client"),
        sampler=OneAfterAnother(),
    )
    first = fl.Run(federation)
    before = [first.advance(), first.advance()]
    snapshot = first.state_dict()
    name = "inactive/0/mean/weight"
    assert name in snapshot.tensors
    for wrong in (
        {**snapshot.tensors, name: torch.zeros(2, 2)},
        {**snapshot.tensors, "inactive/7/mean/weight": torch.zeros(3, 6)},
        {**snapshot.tensors, "inactive/1/mean/weight": torch.zeros(3, 6)},
    ):
        with pytest.raises(DataError, match="is not one of this run"):
            fl.Run(federation).load_state_dict(fl.Snapshot(2, wrong, snapshot.facts), before)
