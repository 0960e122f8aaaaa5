"""FedDyn by hand, on every engine, and what it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fedlama as fl
from tests.core.helpers import quadratics
from tests.core.test_fedlamb import ENGINES, A, B, Two, gradients
from tests.engines.cases import assert_same, run
from tests.resume.test_exact import assert_exact
from tests.resume.test_exact import federation as resumable

DYNAMIC = {"solver": fl.FedDyn(0.1, alpha=0.5), "server_optimizer": fl.ServerFedDyn(alpha=0.5)}


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    settings: dict[str, Any] = {
        "model": Two(),
        "clients": gradients(A, B, rounds=4),
        "strategy": fl.FedAvg(2),
        "local_steps": 8,
        "weighting": "equal",
        "objective": lambda output, _: output.mean(),
    }
    return fl.Federation(**(settings | DYNAMIC | changes))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("active", [1, 2])
def test_four_rounds_by_hand(engine: str, active: int) -> None:
    run = fl.Run(federation(engine=engine, sampler=fl.UniformSampler(active)))
    steps = np.array([A, B])  # (clients, steps, parameters)
    x, h, dynamic = np.array([3.0, 4.0, 1.0]), np.zeros(3), np.zeros((2, 3))
    for _ in range(4):
        run.advance()
        trained = []
        for client in run.cohort:
            y = x.copy()
            for step in (0, 1):
                y = y - 0.1 * (steps[client, step] - dynamic[client] + 0.5 * (y - x))
            dynamic[client] -= 0.5 * (y - x)
            trained.append(y)
        h = h - 0.5 * sum(y - x for y in trained) / 2  # over all clients, active or not
        x = np.mean(trained, axis=0) - h / 0.5
        ours = np.concatenate([run.values["first"].numpy(), run.values["second"].numpy()])
        np.testing.assert_allclose(ours, x, rtol=1e-12)


@pytest.mark.thorough
def test_it_removes_the_bias_of_long_rounds() -> None:
    given = quadratics(fl.FedAvg(40), rounds=200, **DYNAMIC)
    assert float(given.run().model["x"]) == pytest.approx(0.9, abs=1e-6)


@pytest.mark.parametrize("engine", [fl.Stacked(), fl.Stacked(chunk=2), fl.Workers(threads=2), fl.Recorded()], ids=str)
def test_engines_agree(engine: Any) -> None:  # noqa: ANN401
    choices = DYNAMIC | {
        "strategy": fl.FedAvg(2),
        "availability": fl.RandomAbsence(away=0.1),
        "sampler": fl.AllClients(),
    }
    assert_same(run(engine, **choices), run("loop", **choices))


@pytest.mark.parametrize("engine", ["loop", "stacked", "recorded"])
def test_a_run_goes_on_from_any_round(engine: str) -> None:
    assert_exact(resumable(engine, strategy=fl.FedAvg(2), **DYNAMIC))


def test_what_does_not_fit_is_refused() -> None:
    for changes in (
        {"solver": fl.SGD(0.1)},
        {"server_optimizer": fl.Replace()},
        {"solver": fl.FedDyn(0.1, alpha=0.25)},
    ):
        with pytest.raises(fl.ConfigError, match="FedDyn is both with the same alpha"):
            federation(**changes).run()
    with pytest.raises(fl.ConfigError, match="fedlama synchronises layers over several rounds"):
        federation(strategy=fl.FedLAMA(2, 2)).run()
    with pytest.raises(fl.ConfigError, match="alpha is 0, expected more than 0"):
        fl.FedDyn(alpha=0.0)
    with pytest.raises(fl.ConfigError, match="alpha is 0, expected more than 0"):
        fl.ServerFedDyn(alpha=0.0)
