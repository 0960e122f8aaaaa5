"""Mime-LAMB against NumPy, on every engine and in a deployment; full gradients of clients with short batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedlama as fl
from tests.core.test_fedlamb import ENGINES, Two
from tests.engines.cases import assert_same, run
from tests.flower.cases import assert_same_bits, deployed, in_process
from tests.flower.cases import federation as deployable
from tests.resume.test_exact import assert_exact
from tests.resume.test_exact import federation as resumable

SIZES = (3, 5)  # batches of 2, so the last one of an epoch is short


def clients() -> list[fl.ClientData]:
    draw = torch.Generator().manual_seed(0)
    return [
        fl.ClientData(torch.randn(size, 3, dtype=torch.float64, generator=draw), torch.zeros(size), 2) for size in SIZES
    ]


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    settings: dict[str, Any] = {
        "solver": fl.MimeLAMB(0.1, beta1=0.9, beta2=0.99, weight_decay=0.01),
        "weighting": "equal",
        "objective": lambda output, _: output.mean(),
    }
    return fl.Federation(Two(), clients(), fl.FedAvg(2), rounds=3, **(settings | changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_three_rounds_against_numpy(engine: str) -> None:
    run = fl.Run(federation(engine=engine))
    source = run.clients
    x, vhat, v, m = np.array([3.0, 4.0, 1.0]), np.zeros(3), np.zeros(3), np.zeros((2, 3))
    full = np.mean([data.x.numpy().mean(0) for data in clients()], axis=0)
    for round_index in range(3):
        trained = []
        for client in (0, 1):
            y = x.copy()
            for step in (0, 1):
                g = np.asarray(source.batch(client, 2 * round_index + step, 0)[0]).mean(0)  # type: ignore[index]
                m[client] = 0.9 * m[client] + 0.1 * g
                u = m[client] / (np.sqrt(vhat) + 1e-8) + 0.01 * y
                for part in (slice(0, 2), slice(2, 3)):
                    y[part] -= 0.1 * np.linalg.norm(y[part]) * u[part] / np.linalg.norm(u[part])
            trained.append(y)
        x = np.mean(trained, axis=0)
        v = 0.99 * v + 0.01 * full**2  # the gradient does not depend on the model here
        vhat = np.maximum(vhat, v)
        run.advance()
        ours = np.concatenate([run.values["first"].numpy(), run.values["second"].numpy()])
        second = np.concatenate([run.values["second/first"].numpy(), run.values["second/second"].numpy()])
        np.testing.assert_allclose(second, vhat, rtol=1e-12)
        np.testing.assert_allclose(ours, x, rtol=1e-10)


SOLVER = fl.MimeLAMB(0.01, epsilon=1e-3, weight_decay=0.1)


@pytest.mark.selection
@pytest.mark.parametrize("engine", [fl.Stacked(), fl.Stacked(chunk=2), fl.Workers(threads=2), fl.Recorded()], ids=str)
@pytest.mark.parametrize("strategy", [fl.FedAvg(2), fl.FedLAMA(2, 2)], ids=lambda strategy: strategy.name)
def test_engines_agree(engine: Any, strategy: Any) -> None:  # noqa: ANN401
    choices = {"solver": SOLVER, "strategy": strategy}
    assert_same(run(engine, **choices), run("loop", **choices), 1e-4)


@pytest.mark.parametrize("engine", ["loop", "stacked", "workers", "recorded"])
def test_a_run_goes_on_from_any_round(engine: str) -> None:
    assert_exact(resumable(engine, solver=SOLVER))


def test_a_deployment_gives_the_same_bits(tmp_path: Path) -> None:
    given = deployable(strategy=fl.FedAvg(2), solver=SOLVER)
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


def test_running_statistics_are_as_without_the_pass() -> None:
    # With a rate of 0 the model stays, so the statistics are those of the local steps alone.
    ours = run("loop", solver=fl.MimeLAMB(0.0), strategy=fl.FedAvg(2))
    plain = run("loop", solver=fl.SGD(0.0), strategy=fl.FedAvg(2))
    assert torch.equal(ours.model["1.running_mean"], plain.model["1.running_mean"])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(fl.ConfigError, match="interval and first_round are of Fed-LAMB's own second moment"):
        fl.MimeLAMB(interval=2)
    replayed = fl.ReplayedClients([[(torch.ones(1, 3, dtype=torch.float64), torch.zeros(1))] * 6])
    given = fl.Federation(
        Two(),
        replayed,
        fl.FedAvg(2),
        6,
        solver=fl.MimeLAMB(0.1),
        weighting="equal",
        objective=lambda out, _: out.mean(),
    )
    with pytest.raises(fl.ConfigError, match="does not know how many batches an epoch of a client has"):
        given.run()


@pytest.mark.parametrize("optimizer", [fl.ServerMomentum(), fl.ServerAdam()])
def test_resumes_with_a_server_optimizer_that_keeps_other_buffers(optimizer: fl.ServerOptimizer) -> None:
    whole = fl.Run(federation(server_optimizer=optimizer))
    records = [whole.advance(), whole.advance()]
    snapshot = whole.state_dict()
    whole.advance()  # which changes the server's buffers in place, but not the snapshot
    again = fl.Run(federation(server_optimizer=optimizer))
    again.load_state_dict(snapshot, records)
    again.advance()
    for name, value in whole.values.items():
        assert torch.equal(again.values[name], value)
