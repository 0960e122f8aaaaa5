"""A run taken apart after any round and put together again ends in the same bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.engines import ENGINES

ENGINES_HERE = sorted(set(ENGINES) - {"distributed"})  # that one needs a process group; see tests/engines

STRATEGIES = [
    fl.FedAvg(2),
    fl.FedLAMA(2, 3),
    fl.FedLAMA(4, 2, accelerate=True),
    fl.FedLUAR(2, 1),
    fl.FedLUAR(2, 1, rule="round-robin"),
    fl.Cyclic(2),
    fl.Cyclic(2, others="with-weights", order="random"),
    fl.FixedIntervals(2, {"0.weight": 3}),
    fl.Budget(2, share=0.75, levels=2),
    fl.FedLAMA(2, 3, order="random"),
    fl.FedLDF(2, senders=2),
    fl.FedLP(2, keep=0.4),
    fl.AdaComm(2, first_interval=2, adapt_every=3),
]
SOLVERS = [
    fl.SGD(0.1, momentum=0.9, state_scope="slot"),
    fl.SGD(0.1, momentum=0.9, velocity="step", weight_decay=1e-3, decay_at=(7,), warm_up_steps=3),
    fl.FedProx(0.1, momentum=0.5, state_scope="round"),
    fl.AdamW(0.01, schedule=fl.Schedule("cosine", unit="rounds"), clipping=fl.Clipping(norm=1.0)),
    fl.Adam(0.01, state_scope="client", groups=(fl.ParameterGroup("*.bias", rate_factor=0.5),)),
    fl.FedLAMB(0.01, interval=3),
    fl.FedAMS(0.01),
    fl.Scaffold(0.1),
    fl.LayerRates(0.1),
    fl.MimeLAMB(0.01),
]
SERVER_STEPS = [
    fl.Replace(),
    fl.ServerMomentum(),
    fl.ServerNesterov(),
    fl.ServerAdam(),
    fl.ServerYogi(),
    fl.ServerAdagrad(),
]


def federation(engine: str, **changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        clients = [fl.ClientData(torch.randn(8 + 2 * i, 6), torch.randint(3, (8 + 2 * i,)), 4) for i in range(5)]
        x, y = torch.randn(20, 6), torch.randint(3, (20,))
    settings = {"strategy": fl.FedLAMA(2, 3), "sampler": fl.UniformSampler(3), "solver": SOLVERS[0]} | changes
    return fl.Federation(net, clients, local_steps=12, test_set=fl.TestSet(x, y), engine=engine, **settings)


def taken_apart(given: fl.Federation) -> fl.Result:
    """Run a federation in parts of one round, each of which is loaded from the state of the one before."""
    records, state = list[fl.RoundRecord](), None
    for _ in range(given.budget.rounds - 1):
        part = continued(given, state, records)
        records.append(part.advance())
        state = part.state_dict()
    return continued(given, state, records).to_end([], records)


def continued(given: fl.Federation, state: Any, records: list[fl.RoundRecord]) -> fl.Run:  # noqa: ANN401
    """Return a new run that goes on from a state, if there is one."""
    run = fl.Run(given)
    if state is not None:
        run.load_state_dict(state, records)
    return run


def assert_exact(given: fl.Federation) -> None:
    """Take a run apart after every round: what is lost or changed anywhere is so in the end."""
    whole, result = given.run(), taken_apart(given)
    assert result.model.keys() == whole.model.keys()
    for name, value in whole.model.items():
        assert torch.equal(result.model[name], value), name
    assert result.ledger.transfers == whole.ledger.transfers
    assert [r.layers for r in result.rounds] == [r.layers for r in whole.rounds]
    assert [(r.loss, r.score) for r in result.rounds] == [(r.loss, r.score) for r in whole.rounds]


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_every_strategy(engine: str, strategy: Any) -> None:  # noqa: ANN401  (any strategy)
    assert_exact(federation(engine, strategy=strategy))


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name + solver.state_scope)
def test_every_solver(engine: str, solver: Any) -> None:  # noqa: ANN401  (any solver)
    assert_exact(federation(engine, solver=solver))


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("solver", [fl.Adam(0.01, state_scope="client"), fl.SGD(0.1, 0.9, state_scope="client")])
def test_state_of_inactive_clients(engine: str, solver: Any) -> None:  # noqa: ANN401  (any solver)
    assert_exact(federation(engine, solver=solver, strategy=fl.FedAvg(2), sampler=fl.UniformSampler(2)))


def test_a_client_that_is_away_keeps_its_state_in_the_snapshot() -> None:
    absence = fl.RandomAbsence(away=0.4)
    one = federation("loop", solver=fl.Adam(0.01, state_scope="client"), availability=absence, strategy=fl.FedAvg(2))
    assert_exact(one)


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES_HERE)
@pytest.mark.parametrize("step", SERVER_STEPS, ids=lambda step: step.name)
def test_every_server_step(engine: str, step: Any) -> None:  # noqa: ANN401  (any server optimizer)
    assert_exact(federation(engine, server_optimizer=step, codec=fl.Float16()))


class Counted(fl.ServerOptimizer):
    """A user's optimizer, whose buffers have neither the tensor's shape nor its dtype, and grow."""

    name: ClassVar[str] = "counted"

    def apply(self, previous: torch.Tensor, average: torch.Tensor, optimizer_state: Any) -> torch.Tensor:  # noqa: ANN401
        count = optimizer_state.setdefault("count", torch.zeros((), dtype=torch.int64)).add_(1)
        lengths = optimizer_state.get("lengths", torch.zeros(0, dtype=torch.float64))
        optimizer_state["lengths"] = torch.cat([lengths, (average - previous).norm().double().reshape(1)])
        return previous + (average - previous) / count + 1e-3 * optimizer_state["lengths"].sum()


@pytest.mark.parametrize("engine", ENGINES_HERE[:2])
def test_buffers_of_a_users_server_optimizer_may_have_any_shape(engine: str) -> None:
    assert_exact(federation(engine, server_optimizer=Counted()))


def test_buffers_of_our_server_optimizers_have_the_tensors_shape() -> None:
    first = fl.Run(federation("loop", server_optimizer=fl.ServerMomentum()))
    before, state = [first.advance()], first.state_dict()
    name = next(name for name in state.tensors if name.startswith("server/") and state.tensors[name].dim())
    forged = replace(state, tensors={**state.tensors, name: torch.zeros(())})
    with pytest.raises(fl.DataError, match=r"is torch.float32 \(\), expected \("):
        fl.Run(federation("loop", server_optimizer=fl.ServerMomentum())).load_state_dict(forged, before)


def test_a_snapshot_moves_between_engines() -> None:
    first = fl.Run(federation("loop"))
    before = [first.advance() for _ in range(4)]
    second = fl.Run(federation("stacked"))
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    for name, value in federation("loop").run().model.items():
        torch.testing.assert_close(result.model[name], value, rtol=1e-4, atol=1e-5)
