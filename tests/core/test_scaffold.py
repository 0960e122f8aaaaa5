"""SCAFFOLD by hand, against its source's option II, with clients that are away, and what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fedlama as fl
from tests.core.helpers import mlp, quadratics, skewed_clients
from tests.core.test_fedlamb import ENGINES, A, B, Two, gradients


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    settings: dict[str, Any] = {
        "model": Two(),
        "clients": gradients(A, B, rounds=4),
        "strategy": fl.FedAvg(2),
        "local_steps": 8,
        "solver": fl.Scaffold(0.1),
        "weighting": "equal",
        "objective": lambda output, _: output.mean(),
    }
    return fl.Federation(**(settings | changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_four_rounds_against_option_two(engine: str) -> None:
    run = fl.Run(federation(engine=engine))
    steps = np.array([A, B])  # (clients, steps, parameters)
    x, c, own = np.array([3.0, 4.0, 1.0]), np.zeros(3), np.zeros((2, 3))
    for _ in range(4):
        trained, changes = [], []
        for client in (0, 1):
            y = x.copy()
            for step in (0, 1):
                y = y - 0.1 * (steps[client, step] - own[client] + c)
            new = own[client] - c + (x - y) / (2 * 0.1)  # option II
            changes.append(new - own[client])
            own[client] = new
            trained.append(y)
        x, c = np.mean(trained, axis=0), c + np.mean(changes, axis=0)
        run.advance()
        ours = np.concatenate([run.values["first"].numpy(), run.values["second"].numpy()])
        control = np.concatenate([run.values["control/first"].numpy(), run.values["control/second"].numpy()])
        np.testing.assert_allclose(ours, x, rtol=1e-12)
        np.testing.assert_allclose(control, c, rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_half_of_the_clients_count_for_half(engine: str) -> None:
    run = fl.Run(federation(engine=engine, sampler=fl.UniformSampler(1)))
    run.advance()
    (client,) = run.cohort
    mean = np.mean([A, B][client], axis=0)
    assert run.values["control/first"].tolist() == pytest.approx((0.5 * mean[:2]).tolist(), rel=1e-12)


def test_rounds_that_may_not_count_are_refused() -> None:
    # In such a round clients train and move their variates, but the server never hears of it.
    message = (
        "solver 'scaffold' counts how far clients moved .* lower availability.min_replies until one reply is enough"
    )
    with pytest.raises(fl.ConfigError, match=message):
        federation(availability=fl.RandomAbsence(away=0.6, min_replies=0.9)).run()
    federation(availability=fl.RandomAbsence(away=0.6, min_replies=0.01)).run()


def test_twice_the_bytes() -> None:
    ours, fedavg = federation().run(), federation(solver=fl.SGD(0.1)).run()
    for direction in ("up", "down"):
        assert ours.ledger.payload_bytes(direction) == 2 * fedavg.ledger.payload_bytes(direction)


def test_without_differences_between_clients_it_is_fedavg() -> None:
    # Clients with the same gradients have c_i = c, so the correction is 0 up to rounding.
    ours = federation(clients=gradients(A, A, rounds=4)).run()
    fedavg = federation(clients=gradients(A, A, rounds=4), solver=fl.SGD(0.1)).run()
    for name, value in fedavg.model.items():
        torch.testing.assert_close(ours.model[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.thorough
def test_it_removes_the_bias_of_long_rounds() -> None:
    def optimum(solver: fl.LocalSolver) -> float:
        return float(quadratics(fl.FedAvg(20), rounds=200, solver=solver).run().model["x"])

    assert optimum(fl.SGD(0.1)) == pytest.approx(0.5, abs=0.1)
    assert optimum(fl.Scaffold(0.1)) == pytest.approx(0.9, abs=1e-6)


def test_unequal_steps_are_counted_by_client() -> None:
    choices = {
        "model": mlp().float(),
        "clients": skewed_clients(3),
        "local_work": fl.LocalWork(epochs=1),
        "objective": None,
        "local_steps": 6,
        "weighting": "samples",
    }
    loop = federation(**choices).run()
    for engine in ENGINES[1:]:
        ours = federation(**choices, engine=engine).run()
        for name, value in loop.model.items():
            torch.testing.assert_close(ours.model[name], value, rtol=1e-4, atol=1e-5)
