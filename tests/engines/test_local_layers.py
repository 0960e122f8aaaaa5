"""Layers tagged `local`: trained by each client, kept by it while other cohorts train, and never sent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.engines import Recorded, Stacked, Workers
from fedlama.engines.api import LOCAL_VALUES
from fedlama.engines.distributed import DistributedEngine
from fedlama.engines.loop import LoopEngine
from fedlama.errors import ConfigError, DataError
from tests.engines.cases import assert_same, federation, network, run
from tests.engines.test_client_state import OneAfterAnother

ENGINES: list[Any] = [Stacked(), Stacked(chunk=1), Workers(threads=2), Recorded(share=2), fl.Auto()]
PERSONAL = fl.tagged(fl.by_module(network()), local=["4"])
"""The dense layer stays on its client; the convolution and batch normalisation are sent."""
PERSONAL_NORM = fl.tagged(fl.by_module(network()), local=["1"])
"""FedBN: batch normalisation stays on its client, its statistics included."""


class Sum(nn.Module):
    """Two numbers, of which `mine` is to stay with a client."""

    def __init__(self) -> None:
        super().__init__()
        self.ours = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.mine = nn.Parameter(torch.full((), 5.0, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.double() * (self.ours + self.mine)


def summed(output: Tensor, target: Tensor) -> Tensor:
    """Has the derivative x in both numbers."""
    return output.mean() + 0 * target.sum()


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_each_client_keeps_its_own_value(engine: Any) -> None:  # noqa: ANN401
    """By hand: both numbers fall by 1 when client 0 trains, and by 10 when client 1 does; clients 0, 1, 0, 1 train.

    `ours` ends at -(1 + 10 + 1 + 10). `mine` begins at 5 on each client: 5 - 2 on client 0, and 5 - 20 on client 1.
    """
    layers = fl.tagged(fl.by_tensor(Sum()), local=["mine"])
    given = fl.Federation(
        model=Sum(),
        clients=[fl.ClientData(torch.full((1, 1), push).double(), torch.zeros(1, 1), 1) for push in (1.0, 10.0)],
        strategy=fl.FedAvg(1),
        local_steps=4,
        solver=fl.SGD(1.0),
        sampler=OneAfterAnother(),
        objective=summed,
        layers=layers,
        engine=engine,
    )
    live = fl.Run(given)
    result = live.to_end([])
    state = live.engine.state_dict()
    assert float(result.model["ours"]) == -22.0
    assert float(result.model["mine"]) == 5.0  # the server has only the initial value
    assert float(live.engine.client_values(1)["mine"]) == -15.0
    assert {client: float(kept[LOCAL_VALUES]["mine"]) for client, kept in state.inactive.items()} == {0: 3.0}
    assert {row.layer for row in result.ledger.rows()} == {"ours"}


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {"layers": PERSONAL},
        {"layers": PERSONAL_NORM},
        {"layers": PERSONAL, "solver": fl.Adam(0.01, epsilon=1e-3, state_scope="client")},
        {"layers": PERSONAL, "solver": fl.SGD(0.05, momentum=0.9, state_scope="slot"), "strategy": fl.FedAvg(2)},
        {"layers": PERSONAL, "availability": fl.RandomAbsence(away=0.15)},
        {"layers": PERSONAL, "codec": fl.Float16()},
    ],
    ids=["dense", "normalisation", "client's state", "slot's state", "absences", "codec"],
)
def test_engines_agree(engine: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401
    assert_same(run(engine, **changes), run("loop", **changes))


@pytest.mark.parametrize("layers", [PERSONAL, PERSONAL_NORM], ids=["dense", "normalisation"])
def test_no_transfer_holds_a_local_layer(layers: fl.Layers) -> None:
    given = replace(federation("loop"), layers=layers)
    local = {layer.name for layer in layers if layer.tag == "local"}
    result = given.run()
    assert {row.layer for row in result.ledger.rows()} == {layer.name for layer in layers} - local
    assert all(not local & record.layers.keys() for record in result.rounds)


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
@pytest.mark.parametrize("absent", [False, True])
def test_a_resumed_run_goes_on_bit_for_bit(engine: Any, absent: bool) -> None:  # noqa: ANN401
    changes: dict[str, Any] = {"layers": PERSONAL, "local_steps": 20}
    changes |= {"availability": fl.RandomAbsence(away=0.15)} if absent else {}
    given = federation(engine, **changes)
    whole = given.run()
    first = fl.Run(given)
    before = [first.advance() for _ in range(5)]
    second = fl.Run(given)
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    assert [record.loss for record in result.rounds] == [record.loss for record in whole.rounds]
    for ours, theirs in zip(result.rounds, whole.rounds, strict=True):
        for client, values in theirs.client_models.items():
            assert all(torch.equal(ours.client_models[client][name], value) for name, value in values.items())


def test_forged_values_of_local_layers_are_refused() -> None:
    given = federation("loop", layers=PERSONAL, sampler=OneAfterAnother(), strategy=fl.FedAvg(2))
    first = fl.Run(given)
    before = [first.advance(), first.advance()]
    snapshot = first.state_dict()
    name = f"inactive/0/{LOCAL_VALUES}/4.weight"
    assert name in snapshot.tensors
    for wrong in (
        {**snapshot.tensors, name: torch.zeros(2, 2)},
        {key: value for key, value in snapshot.tensors.items() if key != name},
        {key: value for key, value in snapshot.tensors.items() if key != "client/4.weight"},
        {**snapshot.tensors, "client/4.weight": torch.zeros(1, 2)},
    ):
        with pytest.raises(DataError, match="is not one of this run"):
            fl.Run(given).load_state_dict(fl.Snapshot(2, wrong, snapshot.facts), before)


def test_a_layer_that_becomes_local_is_another_federation() -> None:
    plain, personal = (federation("loop", layers=layers) for layers in (fl.by_module(network()), PERSONAL))
    assert personal.describe()["layers"]["4"]["tag"] == "local"
    assert "tag" not in plain.describe()["layers"]["4"]
    assert plain.differences(plain.describe()) == personal.differences(personal.describe()) == []
    assert any("tag" in clause for clause in personal.differences(plain.describe()))
    assert any("tag" in clause for clause in plain.differences(personal.describe()))


def test_the_global_model_has_the_initial_values_of_local_layers() -> None:
    given = federation("loop", layers=PERSONAL)
    result = given.run()
    start = network().state_dict()
    assert torch.equal(result.model["4.weight"], start["4.weight"])
    assert not torch.equal(result.model["0.weight"], start["0.weight"])


def test_a_frozen_layer_is_neither_trained_nor_sent() -> None:
    frozen = fl.tagged(fl.by_module(network()), frozen=["4"])
    result = federation("loop", layers=frozen).run()
    start = network().state_dict()
    assert torch.equal(result.model["4.weight"], start["4.weight"])
    assert {row.layer for row in result.ledger.rows()} == {"0", "1"}
    same = federation("loop", layers=fl.by_module(network()), solver=_freezing()).run()
    assert all(torch.equal(result.model[name], value) for name, value in same.model.items())


def _freezing() -> fl.SGD:
    group = fl.ParameterGroup("4", frozen=True)
    return fl.SGD(learning_rate=0.05, momentum=0.9, weight_decay=0.01, groups=(group,))


def test_what_cannot_work_is_refused_with_the_reason() -> None:
    layers = fl.by_module(network())
    with pytest.raises(ConfigError, match=r"layers\.local names 'dense', which matches no layer"):
        fl.tagged(layers, local=["dense"])
    with pytest.raises(ConfigError, match="is tagged 'local' and 'head', expected one tag"):
        fl.tagged(layers, local=["4"], head=["4"])
    with pytest.raises(ConfigError, match="expected one that is sent"):
        fl.tagged(layers, local=["*"])
    with pytest.raises(ConfigError, match="layer '4' is tagged 'local' and has none"):
        federation("loop", layers=PERSONAL, solver=fl.FedProx(0.05)).run()


def test_the_distributed_engine_refuses_local_layers() -> None:
    given = federation("loop", layers=PERSONAL)
    with pytest.raises(ConfigError, match=r"layer '4' is tagged 'local', .*; leave it out of layers\.local"):
        fl.Run(replace(given, engine=lambda setup: DistributedEngine(setup, LoopEngine(setup))))
