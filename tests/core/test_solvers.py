"""Local solvers: against torch.optim.SGD, and by hand where the convention differs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from fedlama import SGD, ConfigError, FedAvg, Federation, FedProx
from fedlama.choices.solvers import LocalSolver, OptimizerState
from tests.core.helpers import assert_same_run, mlp, skewed_clients


def walk(
    solver: SGD, gradients: list[float], start: float = 1.0, decayed: bool = True, anchor: float | None = None
) -> list[float]:
    """Positions of one number under given gradients."""
    parameter = [torch.tensor([start], dtype=torch.float64)]
    optimizer_state = solver.init(parameter)
    reference = [] if anchor is None else [torch.tensor([anchor], dtype=torch.float64)]
    places = []
    for step, gradient in enumerate(gradients):
        given = [torch.tensor([gradient], dtype=torch.float64)]
        solver.step(parameter, given, optimizer_state, solver.rate(step), [decayed], reference)
        places.append(float(parameter[0]))
    return places


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
@pytest.mark.parametrize("decay_at", [(), (3, 5)])
def test_the_torch_convention_is_torch_optim_sgd(
    momentum: float, weight_decay: float, decay_at: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (3,)]
    ours = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    theirs = [value.clone().requires_grad_() for value in ours]
    solver = SGD(0.3, momentum=momentum, weight_decay=weight_decay, decay_at=decay_at, decay_factor=0.5)
    optimiser = torch.optim.SGD(theirs, lr=0.3, momentum=momentum, weight_decay=weight_decay)
    optimizer_state = solver.init(ours)
    for step in range(8):
        gradients = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        optimiser.param_groups[0]["lr"] = 0.3 * 0.5 ** sum(step >= at for at in decay_at)
        optimiser.step()
        solver.step(ours, gradients, optimizer_state, solver.rate(step), [True, True], [])
        for mine, exact in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, exact.detach(), rtol=1e-14, atol=1e-14)


def test_torch_velocity_collects_gradients_by_hand() -> None:
    # Gradient 1 twice, momentum .5, rates 1 and .1: steps of 1 * 1 and .1 * 1.5.
    solver = SGD(1.0, momentum=0.5, decay_at=(1,))
    assert walk(solver, [1.0, 1.0], start=0.0) == pytest.approx([-1.0, -1.15], abs=1e-15)


def test_keras_velocity_collects_steps_by_hand() -> None:
    # The old rate stays inside: v = -1, then .5 * -1 - .1.
    solver = SGD(1.0, momentum=0.5, velocity="step", decay_at=(1,))
    assert walk(solver, [1.0, 1.0], start=0.0) == pytest.approx([-1.0, -1.6], abs=1e-15)


def test_keras_l2_is_twice_the_weight_decay() -> None:
    # The penalty .25 * w^2 has the gradient .5 * w.
    assert walk(SGD(0.1, weight_decay=2 * 0.25, velocity="step"), [0.0], start=4.0) == pytest.approx([4.0 - 0.1 * 2.0])


def test_decay_can_spare_normalisation() -> None:
    spare = SGD(0.1, weight_decay=0.5, decay_normalisation=False)
    assert walk(spare, [1.0], start=4.0, decayed=False) == pytest.approx([3.9])
    assert walk(spare, [1.0], start=4.0, decayed=True) == pytest.approx([3.7])
    assert walk(SGD(0.1, weight_decay=0.5), [1.0], start=4.0, decayed=False) == pytest.approx([3.7])


@pytest.mark.parametrize("velocity", ["gradient", "step"])
def test_fedprox_by_hand(velocity: str) -> None:
    # Anchor 0, mu .5, rate .1: 1 -> 1 - .1 (2 + .5) = .75 -> velocity .5 * 2.5 + 2 + .375, times .1.
    solver = FedProx(0.1, momentum=0.5, velocity=velocity, proximal=0.5)
    assert walk(solver, [2.0, 2.0], anchor=0.0) == pytest.approx([0.75, 0.75 - 0.1 * (1.25 + 2.375)])


def test_fedprox_pulls_nothing_at_the_anchor_and_is_sgd_without_the_pull() -> None:
    assert walk(FedProx(0.1, proximal=3.0), [0.0, 0.0], start=2.0, anchor=2.0) == [2.0, 2.0]
    assert walk(FedProx(0.1, proximal=0.0), [1.0, 2.0], anchor=7.0) == walk(SGD(0.1), [1.0, 2.0])


def test_fedprox_adds_weight_decay_beside_the_pull() -> None:
    # Gradient 1 + mu (4 - 2) + wd * 4.
    solver = FedProx(0.1, weight_decay=0.25, proximal=0.5)
    assert walk(solver, [1.0], start=4.0, anchor=2.0) == pytest.approx([4.0 - 0.1 * (1.0 + 1.0 + 1.0)])


def test_only_fedprox_looks_back() -> None:
    assert FedProx(0.1).uses_reference
    assert not SGD(0.1).uses_reference


def test_no_momentum_needs_no_memory() -> None:
    parameters: list[Tensor] = [torch.zeros(3)]
    assert SGD(0.1).init(parameters) == {}
    (velocity,) = SGD(0.1, momentum=0.9).init(parameters)["velocity"]
    assert torch.equal(velocity, parameters[0])


def test_learning_rate_schedule() -> None:
    solver = SGD(0.8, warm_up_steps=4, decay_at=(6, 8), decay_factor=0.5)
    rates = [solver.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2])
    assert SGD(0.8).rate(10**6) == 0.8


def test_bad_settings_are_told_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        SGD(-1.0, momentum=1.0, weight_decay=float("nan"), velocity="grad", state_scope="ever")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 5
    for word in ("learning_rate is -1.0", "momentum is 1.0", "weight_decay is nan", "'gradient'", "'ever'"):
        assert word in str(caught.value)
    with pytest.raises(ConfigError, match="proximal is -1"):
        FedProx(0.1, proximal=-1)


@dataclass(frozen=True)
class Plain(LocalSolver):
    """The shortest solver: what it does not define has a default."""

    name: ClassVar[str] = "plain"
    learning_rate: float

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.sub_(rate * gradient)


def test_a_new_solver_needs_only_a_step() -> None:
    plain = Plain(0.5)
    assert (plain.state_scope, plain.uses_reference, plain.rate(7), plain.init([])) == ("cohort", False, 0.5, {})


def test_it_trains_as_plain_sgd_does() -> None:
    rate = 0.0625  # a power of two, so that both round alike
    ours, theirs, stacked = (
        Federation(mlp().float(), skewed_clients(), FedAvg(2), 4, solver=solver, engine=engine).run()
        for solver, engine in ((Plain(rate), "loop"), (SGD(rate), "loop"), (Plain(rate), "stacked"))
    )
    assert_same_run(ours, theirs)
    for name, value in ours.model.items():
        assert torch.allclose(stacked.model[name], value, rtol=1e-5, atol=1e-6), name


def test_numbers_of_numpy_become_plain_ones() -> None:
    solver = FedProx(np.float64(0.5), warm_up_steps=np.int64(3), decay_at=[np.int64(4), 5], proximal=np.float32(0.25))  # type: ignore[arg-type]
    assert repr(solver) == repr(FedProx(0.5, warm_up_steps=3, decay_at=(4, 5), proximal=0.25))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"warm_up_steps": 1.5}, "SGD: warm_up_steps is 1.5, expected an integer; use an integer such as 1"),
        ({"decay_at": 5}, "SGD: decay_at is 5, expected a tuple of local steps"),
        ({"decay_at": (5, 0.5)}, r"SGD: decay_at is \(5, 0.5\), expected a tuple of local steps"),
        ({"learning_rate": "fast"}, "SGD: learning_rate is 'fast', expected a number; use one of 0 or more"),
        ({"momentum": True}, "SGD: momentum is True, expected a number; give one, not true or false"),
    ],
)
def test_wrong_types_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        SGD(**{"learning_rate": 0.1, **given})  # type: ignore[arg-type]
