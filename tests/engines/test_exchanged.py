"""What solvers exchange beside the model, under absences, aggregators, codecs and evaluations, on every engine."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import fedlama as fl
from tests.engines.cases import assert_same, clients, run
from tests.flower.cases import assert_same_bits, deployed, in_process
from tests.flower.cases import federation as deployable
from tests.resume.test_exact import assert_exact, federation

ENGINES = [fl.Stacked(), fl.Stacked(chunk=2), fl.Workers(threads=2), fl.Recorded()]
# The gradient of a bias before BatchNorm is nothing but rounding. A small epsilon would divide by it, and without
# weight decay Fed-LAMB's norm would make a step of full length of it.
SOLVERS = [
    fl.Scaffold(0.05),
    fl.FedLAMB(0.01, epsilon=1e-3, weight_decay=0.1),
    fl.FedAMS(0.01, epsilon=1e-3),
]
CHOICES: dict[str, dict[str, Any]] = {
    "absences": {
        "availability": fl.RandomAbsence(away=0.2, dies=0.1),
        "strategy": fl.FedAvg(2),
        "sampler": fl.AllClients(),
    },
    "absences under fedlama": {"availability": fl.RandomAbsence(away=0.3), "sampler": fl.AllClients()},
    "median": {"aggregator": fl.Median(), "strategy": fl.FedAvg(2)},
    "few bits, both ways": {"codec": fl.Directions(fl.Differences(bits=8), fl.Differences(bits=8))},
    "cyclic": {"strategy": fl.Cyclic(2), "local_steps": 16},
    "fedluar": {"strategy": fl.FedLUAR(2, 1)},
    "server adam": {"server_optimizer": fl.ServerMomentum()},
}


@functools.cache
def of_loop(solver: Any, choice: str) -> fl.Result:  # noqa: ANN401
    """Return the result of the loop engine, computed once for all engines."""
    return run("loop", **(CHOICES[choice] | {"solver": solver}))


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
@pytest.mark.parametrize("choice", CHOICES)
def test_engines_agree(engine: Any, solver: Any, choice: str) -> None:  # noqa: ANN401
    ours = run(engine, **(CHOICES[choice] | {"solver": solver}))
    assert_same(ours, of_loop(solver, choice), 1e-3 if "bits" in choice else 1e-4)


@pytest.mark.selection
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
@pytest.mark.parametrize("choice", CHOICES)
def test_a_run_goes_on_from_any_round(solver: Any, choice: str) -> None:  # noqa: ANN401
    changes = {key: value for key, value in CHOICES[choice].items() if key != "local_steps"}
    assert_exact(federation("stacked", solver=solver, **changes))


@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: solver.name)
def test_a_snapshot_moves_between_engines(solver: Any) -> None:  # noqa: ANN401
    first = fl.Run(federation("loop", solver=solver))
    before = [first.advance() for _ in range(3)]
    second = fl.Run(federation("stacked", solver=solver))
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    for name, value in federation("loop", solver=solver).run().model.items():
        torch.testing.assert_close(result.model[name], value, rtol=1e-3, atol=1e-4)


def test_deployed_clients_are_scored_without_what_is_exchanged(tmp_path: Path) -> None:
    choices = {"clients": clients_with_tests(), "evaluate_clients": "both", "solver": fl.Scaffold(0.05)}
    given = deployable(strategy=fl.FedAvg(2), **choices)
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


def clients_with_tests() -> list[fl.ClientData]:
    source = clients()
    parts = [source.x[torch.as_tensor(rows)].float() / 128 - 1 for rows in source.rows]
    labels = [source.y[torch.as_tensor(rows)] for rows in source.rows]
    return [fl.ClientData(x[2:], y[2:], 4, test=(x[:2], y[:2])) for x, y in zip(parts, labels, strict=True)]


def test_extra_tensors_are_not_in_the_model_nor_in_the_layers() -> None:
    result = run("loop", solver=fl.Scaffold(0.05))
    assert not any("/" in name for name in result.model)
    assert not any("/" in name for record in result.rounds for name in record.layers)


@dataclass(frozen=True)
class Shares(fl.SolverOptions):
    """The shortest solver that exchanges: what goes up is averaged and comes back."""

    name: ClassVar[str] = "shares"
    learning_rate: float = 0.05

    @property
    def exchanges(self) -> tuple[fl.Exchanged, ...]:
        return (fl.Exchanged("mean gradient", start=0.25),)

    def step(self, parameters, gradients, optimizer_state, rate, decayed, reference) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
        torch._foreach_lerp_(optimizer_state["mean gradient"], list(gradients), 0.5)
        torch._foreach_add_(list(parameters), list(gradients), alpha=-rate)
        torch._foreach_add_(list(parameters), optimizer_state[fl.server_value_of("mean gradient")], alpha=-rate)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_solver_of_the_users_own(engine: Any) -> None:  # noqa: ANN401
    assert_same(run(engine, solver=Shares()), run("loop", solver=Shares()))
    first = fl.Run(federation("loop", solver=Shares()))
    assert float(first.values["mean gradient/0.weight"].min()) == 0.25


def test_other_processes_refuse_buffers_that_follow_a_client() -> None:
    from fedlama.engines.distributed import DistributedEngine

    setup = federation("loop", solver=fl.Scaffold(0.05)).engine_setup()
    with pytest.raises(fl.ConfigError, match="state_scope is 'client', but a client may train in another process"):
        DistributedEngine(setup, fl.Stacked()(setup))
