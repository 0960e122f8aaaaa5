"""FedRep: the head's steps, then the body's, by hand and against torch.optim with parameters that are switched off."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.choices.solvers.local_update import LocalUpdate
from tests.engines.test_local_layers import Sum, summed

LAYERS = fl.tagged(fl.by_tensor(Sum()), local=["mine"])


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    """Two clients whose losses have the derivatives 1 and 10 in the body `ours`, at 0, and in the head `mine`, at 5."""
    given: dict[str, Any] = {
        "model": Sum(),
        "clients": [fl.ClientData(torch.full((1, 1), push).double(), torch.zeros(1, 1), 1) for push in (1.0, 10.0)],
        "strategy": fl.FedAvg(3),
        "rounds": 1,
        "solver": fl.FedRep(1.0, head_steps=2),
        "objective": summed,
        "layers": LAYERS,
        "engine": "loop",
    }
    return fl.Federation(**(given | changes))


def ends(given: fl.Federation) -> tuple[float, list[float]]:
    """Return the body and both heads at the end of a run."""
    live = fl.Run(given)
    result = live.to_end([])
    return float(result.model["ours"]), [float(live.engine.client_values(client)["mine"]) for client in (0, 1)]


def test_two_steps_of_the_head_and_one_of_the_body() -> None:
    """5 - 2 and 5 - 20; the body moves by 1 and by 10 from 0, on average by 5.5."""
    assert ends(federation()) == (-5.5, [3.0, -15.0])
    assert ends(federation(rounds=2)) == (-11.0, [1.0, -35.0])


def test_the_body_is_sent_and_the_head_is_not() -> None:
    result = federation(rounds=2).run()
    assert {row.layer for row in result.ledger.rows()} == {"ours"}
    assert result.ledger.payload_bytes("up") == 2 * 2 * 8  # rounds, clients, a number of float64


def test_weight_decay_spares_what_is_fixed() -> None:
    """Client 0: 5 - (1 + 2.5) = 1.5, then 1.5 - (1 + 0.75) = -0.25; its body 0 - 1 = -1. Client 1 likewise by 10."""
    solver = fl.FedRep(1.0, head_steps=2, weight_decay=0.5)
    assert ends(federation(solver=solver)) == (-5.5, [-0.25, -13.75])  # 5 - 12.5 = -7.5, -7.5 - 10 + 3.75


def test_momentum_waits_while_a_part_is_fixed() -> None:
    """Head 5 - 1 - 1.5 = 2.5, body -1 - 1.5 = -2.5; velocities begin with zeros in the second round."""
    solver = fl.FedRep(1.0, head_steps=2, momentum=0.5)
    assert ends(federation(solver=solver, strategy=fl.FedAvg(4))) == (-13.75, [2.5, -20.0])
    assert ends(federation(solver=solver, strategy=fl.FedAvg(4), rounds=2)) == (-27.5, [0.0, -45.0])


def test_a_client_that_is_too_slow_sends_its_body_as_it_was() -> None:
    """Client 1 takes two steps: head 5 - 20, body 0; the average of -1 and 0."""
    assert ends(federation(local_work=fl.LocalWork(limits={1: 2}))) == (-0.5, [3.0, -15.0])


def test_central_training_is_that_of_sgd() -> None:
    pooled = fl.pooled(federation(solver=fl.FedRep(1.0, head_steps=2, weight_decay=0.5)))
    assert pooled.solver == fl.SGD(1.0, weight_decay=0.5)
    pooled.run()


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "weight_decay": 0.1}])
def test_it_is_torch_with_requires_grad_switched(options: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    layers = fl.tagged(fl.by_module(model), local=["1"])
    draw = torch.Generator().manual_seed(0)
    names = [name for name, _ in model.named_parameters()]
    ours = [parameter.detach().clone() for parameter in model.parameters()]
    solver = fl.FedRep(0.1, head_steps=2, **options)
    update, state = LocalUpdate(solver, layers, names), solver.init(ours)
    both = list(model.parameters())
    optimisers = [torch.optim.SGD(part, lr=0.1, **options) for part in (both[2:], both[:2])]
    for step in range(5):
        given = [torch.randn(p.shape, generator=draw, dtype=torch.float64) for p in ours]
        update.one(ours, [gradient.clone() for gradient in given], state, 0.1, [])
        for parameter, gradient in zip(both, given, strict=True):
            parameter.grad = gradient.clone()
        optimisers[0 if step < 2 else 1].step()
        for mine, exact in zip(ours, both, strict=True):
            torch.testing.assert_close(mine, exact.detach(), rtol=1e-14, atol=1e-14)


def test_clients_of_a_stack_may_be_at_different_steps() -> None:
    """The first client is in the head's phase and the second in the body's."""
    solver = fl.FedRep(1.0, head_steps=2).with_head([False, True])
    rows = [torch.zeros(2, 1), torch.zeros(2, 1)]
    gradients: list[Tensor] = [torch.ones(2, 1), torch.full((2, 1), 3.0)]
    state = {"steps": [torch.tensor([1, 2]), torch.tensor([1, 2])]}
    solver.step(rows, gradients, state, 1.0, [True, True], [])
    assert [row.flatten().tolist() for row in rows] == [[0.0, -1.0], [-3.0, 0.0]]
    assert [row.tolist() for row in state["steps"]] == [[2, 3], [2, 3]]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": fl.by_tensor(Sum())}, r"solver is 'fedrep', .* no layer is tagged 'local'; name the output layers"),
        ({"strategy": fl.FedAvg(2)}, "head_steps is 2, but no client takes more than 2 local steps in a round"),
        ({"local_work": fl.LocalWork(epochs=1.0)}, "head_steps is 2, but no client takes more than 1 local steps"),
    ],
    ids=["no head", "no step for the body", "short epochs"],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(fl.ConfigError, match=said):
        fl.Run(federation(**changes))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match="head_steps is 0, expected 1 or more"):
        fl.FedRep(0.1, head_steps=0)
    with pytest.raises(fl.ConfigError, match="state_scope is 'cohort', expected 'round'"):
        fl.FedRep(0.1, state_scope="cohort")
