"""Which code trains with which solver: kernels take what they know, all else the general path, nothing is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from fedlama import SGD, Adam, AdamW, Auto, Clipping, FedAvg, FedProx, ParameterGroup, Run, Schedule
from fedlama.choices.solvers import LocalSolver, SolverOptions
from fedlama.choices.solvers.per_client import along_clients, client_norms, tensor_norms
from fedlama.choices.solvers.sgd import plain_sgd
from fedlama.engines import Recorded, Stacked, Workers
from tests.core.helpers import FEATURES, mlp, skewed_clients
from tests.engines.cases import assert_same, federation, run

PLAIN = [SGD(0.1), SGD(0.1, 0.9, 0.01), FedProx(0.1, 0.9, proximal=0.1), SGD(0.1, schedule=Schedule("cosine"))]
OTHER = [
    SGD(0.1, 0.9, velocity="step"),
    SGD(0.1, 0.9, nesterov=True),
    SGD(0.1, clipping=Clipping(norm=1.0)),
    FedProx(0.1, clipping=Clipping(value=1.0)),
    SGD(0.1, groups=(ParameterGroup("2.*", rate_factor=0.1),)),
    AdamW(0.01, epsilon=1e-3),
]
DENSE: dict[str, Any] = {"clients": skewed_clients(), "strategy": FedAvg(3), "local_steps": 9}


def label(engine: Any, solver: LocalSolver) -> str:  # noqa: ANN401
    """Return the words of an engine that trains a dense network with a solver."""
    return str(Run(federation(engine, model=mlp().float(), solver=solver, **DENSE)).engine.label)  # type: ignore[attr-defined]


def test_every_field_of_sgd_is_known_to_kernels_or_refused_by_them() -> None:
    """A field that is added later must not be ignored by the kernels."""
    changed = {"nesterov": True, "velocity": "step", "clipping": Clipping(norm=1.0), "groups": (ParameterGroup("*"),)}
    known = {"learning_rate", "momentum", "weight_decay", "decay_normalisation", "state_scope", "schedule", "proximal"}
    known |= {"warm_up_steps", "decay_at", "decay_factor"}
    assert {field.name for field in fields(FedProx)} == known | changed.keys()
    for name, value in changed.items():
        assert plain_sgd(replace(FedProx(0.1, momentum=0.5), **{name: value})) is None, name
    assert plain_sgd(SGD(0.1, momentum=0.5, weight_decay=0.01)) == (0.5, 0.01, True, None)
    assert plain_sgd(FedProx(0.1, proximal=0.2, decay_normalisation=False)) == (0.0, 0.0, False, 0.2)


def test_a_subclass_of_sgd_is_not_taken_for_plain_sgd() -> None:
    class Doubled(SGD):
        """It inherits what SGD says, but its steps are its own."""

    assert plain_sgd(Doubled(0.1)) is None


@pytest.mark.parametrize("engine", [Stacked(), Auto()], ids=lambda engine: type(engine).__name__)
def test_kernels_train_plain_sgd_and_nothing_else(engine: Any) -> None:  # noqa: ANN401
    pytest.importorskip("numba")
    assert all(label(engine, solver).startswith("NumbaTrainer") for solver in PLAIN)
    assert not any(label(engine, solver).startswith("NumbaTrainer") for solver in OTHER)


@pytest.mark.selection
@pytest.mark.parametrize("engine", [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(), Auto()], ids=str)
@pytest.mark.parametrize("solver", PLAIN + OTHER, ids=lambda solver: type(solver).__name__)
def test_a_chain_of_dense_layers_gives_the_results_of_loop(engine: Any, solver: LocalSolver) -> None:  # noqa: ANN401
    settings: dict[str, Any] = {**DENSE, "model": mlp().float(), "solver": solver}
    assert_same(run(engine, **settings), run("loop", **settings))


@dataclass(frozen=True)
class LayerNormalised(SolverOptions):
    """Steps of a size that is a share of the parameter's norm, for each tensor (as LAMB without Adam)."""

    name: ClassVar[str] = "layer-normalised"
    always_stacked: ClassVar[bool] = True
    learning_rate: float = 0.05
    mixes: bool = False

    def init(self, parameters: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the gradient's norm over all tensors, for each of them: a number per client."""
        return {"seen": [torch.zeros((), dtype=p.dtype) for p in parameters]}

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: dict[str, list[Tensor]],
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Move each tensor by rate * ||x|| / ||g|| along its gradient."""
        if self.mixes:  # right for one client, wrong for several
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.sub_(rate * gradient / gradient.norm())
            return
        whole = client_norms(gradients)
        sizes, slopes = tensor_norms(parameters), tensor_norms(gradients)
        for p, g, size, slope, seen in zip(parameters, gradients, sizes, slopes, optimizer_state["seen"], strict=True):
            seen.copy_(whole)
            p.sub_(along_clients(rate * (size + 0.1) / (slope + 1e-3), p) * g)


@pytest.mark.parametrize("engine", [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(), Auto()], ids=str)
def test_a_solver_with_norms_is_right_in_every_engine(engine: Any) -> None:  # noqa: ANN401
    settings: dict[str, Any] = {**DENSE, "model": mlp().float(), "solver": LayerNormalised()}
    assert_same(run(engine, **settings), run("loop", **settings))


def test_a_solver_that_mixes_clients_goes_on_client_by_client() -> None:
    settings: dict[str, Any] = {**DENSE, "model": mlp().float(), "solver": LayerNormalised(mixes=True)}
    with pytest.warns(UserWarning, match="cannot use the solver LayerNormalised"):
        stacked = run(Stacked(), **settings)
    assert_same(stacked, run("loop", **settings))


@pytest.mark.parametrize("solver", [Adam(0.1), AdamW(0.1), SGD(0.1, 0.9, nesterov=True), FedProx(0.1)], ids=str)
def test_solvers_of_the_package_pass_the_check_of_the_first_step(solver: LocalSolver) -> None:
    Run(federation(Stacked(), model=nn.Linear(FEATURES, 3), solver=solver, **DENSE)).advance()  # warnings are errors
