"""Adam, schedules, clipping and parameter groups: against torch.optim, by hand, and per client."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedlama import SGD, Adam, AdamW, Clipping, ConfigError, FedAvg, Federation, FedProx, ParameterGroup, Schedule
from fedlama.choices.solvers import LocalSolver
from fedlama.choices.solvers.local_update import LocalUpdate
from fedlama.choices.solvers.options import rates_of
from fedlama.choices.solvers.per_client import along_clients, client_norms, tensor_norms
from fedlama.core.budget import Budget
from fedlama.core.layers import by_module, by_tensor
from tests.core.helpers import mlp, pushed, skewed_clients

SHAPES = [(4, 3), (3,), ()]


def draws(seed: int = 0, dtype: torch.dtype = torch.float64) -> Iterator[list[Tensor]]:
    """Yield tensors of SHAPES without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield [torch.randn(shape, generator=generator, dtype=dtype) for shape in SHAPES]


def against_torch(solver: LocalSolver, optimiser: Callable[[list[Tensor]], torch.optim.Optimizer], steps: int) -> None:
    """Take the same steps with a solver, for one client and for two stacked ones, and with an optimizer of PyTorch."""
    source = draws()
    ours = next(source)
    theirs = [value.clone().requires_grad_() for value in ours]
    exact = optimiser(theirs)
    alone = [value.clone().unsqueeze(0) for value in ours]
    both = [torch.stack([value, value]) for value in ours]
    state_alone = {kind: [b.unsqueeze(0) for b in buffers] for kind, buffers in solver.init(ours).items()}
    state_both = {kind: [torch.stack([b, b]) for b in buffers] for kind, buffers in solver.init(ours).items()}
    for step in range(steps):
        gradients = next(source)
        for parameter, gradient in zip(theirs, gradients, strict=True):
            parameter.grad = gradient.clone()
        exact.step()
        rate, decayed = solver.rate(step), [True] * len(ours)
        solver.step(alone, [g.clone().unsqueeze(0) for g in gradients], state_alone, rate, decayed, [])
        solver.step(both, [torch.stack([g, -3 * g]) for g in gradients], state_both, rate, decayed, [])
        for mine, pair, parameter in zip(alone, both, theirs, strict=True):
            torch.testing.assert_close(mine[0], parameter.detach(), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(pair[0], parameter.detach(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.7), (0.0, 0.9)])
def test_adam_is_torch_optim_adam(weight_decay: float, betas: tuple[float, float]) -> None:
    solver = Adam(0.05, *betas, epsilon=1e-6, weight_decay=weight_decay)
    against_torch(solver, lambda p: torch.optim.Adam(p, 0.05, betas, 1e-6, weight_decay), 12)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_is_torch_optim_adamw(weight_decay: float) -> None:
    against_torch(
        AdamW(0.05, weight_decay=weight_decay),
        lambda p: torch.optim.AdamW(p, 0.05, weight_decay=weight_decay),
        12,
    )


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_nesterov_is_torch_optim_sgd(weight_decay: float) -> None:
    against_torch(
        SGD(0.05, momentum=0.9, nesterov=True, weight_decay=weight_decay),
        lambda p: torch.optim.SGD(p, 0.05, 0.9, nesterov=True, weight_decay=weight_decay),
        12,
    )


def test_nesterov_by_hand_in_both_conventions() -> None:
    # Gradient 1 twice, momentum .5, rate .1. Torch: v = 1, 1.5; steps .1 (1 + .5 v) = .15, .175.
    # Keras with a constant rate is the same walk: v = -.1, -.15; steps .5 v - .1.
    for velocity in ("gradient", "step"):
        solver = SGD(0.1, momentum=0.5, nesterov=True, velocity=velocity)  # type: ignore[arg-type]
        x = [torch.zeros(1, 1, dtype=torch.float64)]
        state = {"velocity": [torch.zeros(1, 1, dtype=torch.float64)]}
        walk = []
        for _ in range(2):
            solver.step(x, [torch.ones(1, 1, dtype=torch.float64)], state, 0.1, [True], [])
            walk.append(float(x[0]))
        assert walk == pytest.approx([-0.15, -0.325], abs=1e-15)


def test_adams_first_two_steps_by_hand() -> None:
    # Gradients 2 and -1, rate .1, betas .5 and .5, no epsilon. Step 1: m = 1, v = 2, both corrected by 1/2:
    # 2 / sqrt(4) = 1. Step 2: m = 0, so nothing moves.
    solver = Adam(0.1, beta1=0.5, beta2=0.5, epsilon=0.0)
    x = [torch.tensor([[1.0]], dtype=torch.float64)]
    state = {kind: [b.unsqueeze(0) for b in buffers] for kind, buffers in solver.init([x[0][0]]).items()}
    for gradient, expected in ((2.0, 0.9), (-1.0, 0.9), (3.0, 0.9 - 0.1 * (1.5 / 0.875) / math.sqrt(5.25 / 0.875))):
        solver.step(x, [torch.tensor([[gradient]], dtype=torch.float64)], state, 0.1, [True], [])
        assert float(x[0]) == pytest.approx(expected, abs=1e-12)
    assert state["steps"][0].tolist() == [3]


def test_adam_counts_steps_for_each_client() -> None:
    """A client whose buffers are fresh gets the bias correction of a first step, beside one at its fifth."""
    solver, source = Adam(0.1), draws()
    old, new = next(source), next(source)
    state_old = {kind: [b.unsqueeze(0) for b in buffers] for kind, buffers in solver.init(old).items()}
    for _ in range(4):
        gradients = [g.unsqueeze(0) for g in next(source)]
        solver.step([p.unsqueeze(0) for p in old], gradients, state_old, 0.1, [True] * 3, [])
    state_new = {kind: [b.unsqueeze(0) for b in buffers] for kind, buffers in solver.init(new).items()}
    both = [torch.stack(pair) for pair in zip(old, new, strict=True)]
    pairs = {kind: zip(state_old[kind], state_new[kind], strict=True) for kind in ("mean", "square", "steps")}
    state = {kind: [torch.cat(pair) for pair in both_clients] for kind, both_clients in pairs.items()}
    first, second = next(source), next(source)
    solver.step(both, [torch.stack(pair) for pair in zip(first, second, strict=True)], state, 0.1, [True] * 3, [])
    alone_old, alone_new = [p.clone().unsqueeze(0) for p in old], [p.clone().unsqueeze(0) for p in new]
    solver.step(alone_old, [g.unsqueeze(0) for g in first], state_old, 0.1, [True] * 3, [])
    solver.step(alone_new, [g.unsqueeze(0) for g in second], state_new, 0.1, [True] * 3, [])
    for stacked, one, other in zip(both, alone_old, alone_new, strict=True):
        torch.testing.assert_close(stacked, torch.cat([one, other]), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("limit", [0.5, 3.0, 100.0])
def test_clipping_by_norm_is_torchs(limit: float) -> None:
    gradients = next(draws(3))
    parameters = [torch.zeros_like(g).requires_grad_() for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_norm_(parameters, limit)
    clipped = Clipping(norm=limit).clipped([torch.stack([100 * g, g]) for g in gradients])
    for parameter, pair in zip(parameters, clipped, strict=True):
        torch.testing.assert_close(pair[1], parameter.grad, rtol=1e-13, atol=1e-15)


def test_clipping_by_value_is_torchs_and_comes_first() -> None:
    gradients = next(draws(4))
    parameters = [torch.zeros_like(g).requires_grad_() for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    nn.utils.clip_grad_value_(parameters, 0.3)
    nn.utils.clip_grad_norm_(parameters, 0.4)
    clipped = Clipping(norm=0.4, value=0.3).clipped([g.unsqueeze(0) for g in gradients])
    for parameter, mine in zip(parameters, clipped, strict=True):
        torch.testing.assert_close(mine[0], parameter.grad, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6, math.inf])
def test_one_clients_gradient_does_not_change_anothers(scale: float) -> None:
    gradients = next(draws(5))
    clipped = Clipping(norm=0.1, value=0.2).clipped([torch.stack([scale * g, g]) for g in gradients])
    alone = Clipping(norm=0.1, value=0.2).clipped([g.unsqueeze(0) for g in gradients])
    for pair, single in zip(clipped, alone, strict=True):
        torch.testing.assert_close(pair[1], single[0], rtol=1e-14, atol=0)
    assert float(client_norms(clipped)[1]) <= 0.1


def test_norms_by_hand() -> None:
    tensors = [torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([12.0, 0.0])]
    assert [norm.tolist() for norm in tensor_norms(tensors)] == [[5.0, 1.0], [12.0, 0.0]]
    assert client_norms(tensors).tolist() == [13.0, 1.0]
    assert along_clients(torch.tensor(2.0), torch.zeros(3)).shape == (1,)
    assert along_clients(torch.ones(2), torch.zeros(2, 3, dtype=torch.complex64)).dtype == torch.float32


BUDGET = Budget(local_steps=20, rounds=5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), [1, 1, 1, 1]),
        (Schedule(warm_up=4), [0.25, 0.5, 0.75, 1]),
        (Schedule("step", at=(1, 3), factor=0.5), [1, 0.5, 0.5, 0.25]),
        (Schedule("cosine", length=4), [1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 - math.cos(math.pi / 4)) / 2]),
        (Schedule("polynomial", length=4, end=0.2), [1, 0.8, 0.6, 0.4]),
        (Schedule("polynomial", length=4, power=2.0), [1, 0.5625, 0.25, 0.0625]),
        (Schedule("polynomial", warm_up=2, length=4), [0.5, 1, 1, 0.5]),
        (Schedule("polynomial"), [1, 0.95, 0.9, 0.85]),  # over the whole budget
        (Schedule("step", unit="rounds", at=(1,)), [1, 1, 1, 1]),
    ],
    ids=str,
)
def test_schedules_by_hand(schedule: Schedule, expected: list[float]) -> None:
    solver = SGD(2.0, schedule=schedule)
    assert list(rates_of(solver, 0, 4, 0, BUDGET)) == pytest.approx([2 * factor for factor in expected])


def test_a_schedule_over_rounds_counts_rounds() -> None:
    solver = Adam(1.0, schedule=Schedule("polynomial", unit="rounds"))
    assert [rates_of(solver, 4 * r + 1, 1, r, BUDGET)[0] for r in range(5)] == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])
    cosine = SGD(1.0, schedule=Schedule("step", unit="rounds", at=(2, 4)))
    assert [rates_of(cosine, 4 * r, 1, r, BUDGET)[0] for r in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_cosine_is_torchs() -> None:
    parameter = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.SGD([parameter], 0.7)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=9, eta_min=0.07)
    schedule = Schedule("cosine", length=9, end=0.1)
    for step in range(9):
        assert 0.7 * schedule.at_position(step, 0) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


def test_groups_are_torchs_parameter_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    layers, names = by_module(model), [name for name, _ in model.named_parameters()]
    groups = (ParameterGroup("0", rate_factor=0.1, weight_decay=0.0), ParameterGroup("*.bias"))
    solver = AdamW(0.05, weight_decay=0.2, groups=groups)
    update, source = LocalUpdate(solver, layers, names), torch.Generator().manual_seed(1)
    ours = [p.detach().clone().unsqueeze(0) for p in model.parameters()]
    state = {kind: [b.unsqueeze(0) for b in bs] for kind, bs in solver.init([p[0] for p in ours]).items()}
    first, second = list(model[0].parameters()), list(model[1].parameters())
    exact = torch.optim.AdamW(
        [{"params": first, "lr": 0.005, "weight_decay": 0.0}, {"params": second, "lr": 0.05, "weight_decay": 0.2}]
    )
    for _ in range(6):
        gradients = [torch.randn(p.shape, generator=source, dtype=p.dtype) for p in model.parameters()]
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        exact.step()
        update(ours, [g.unsqueeze(0) for g in gradients], state, 0.05, [])
        for mine, parameter in zip(ours, model.parameters(), strict=True):
            torch.testing.assert_close(mine[0], parameter.detach(), rtol=1e-12, atol=1e-12)


def test_a_frozen_group_does_not_move() -> None:
    model = mlp()
    settings: dict[str, Any] = {"clients": skewed_clients(dtype=torch.float64), "strategy": FedAvg(3), "local_steps": 6}
    solver = SGD(0.1, momentum=0.9, weight_decay=0.1, groups=(ParameterGroup("0.*", frozen=True),))
    result = Federation(model=model, solver=solver, **settings).run()
    moved = {name: not torch.equal(value, result.model[name]) for name, value in model.state_dict().items()}
    assert moved == {name: not name.startswith("0.") for name in moved}
    assert not any(row.layer.startswith("0.") for row in result.ledger.rows())  # nor are they sent


def test_clipping_covers_all_groups_together() -> None:
    """The norm is that of the whole gradient, as in PyTorch, not of each group."""
    model = mlp()
    names = [name for name, _ in model.named_parameters()]
    one = SGD(1.0, clipping=Clipping(norm=0.5))
    two = SGD(1.0, clipping=Clipping(norm=0.5), groups=(ParameterGroup("0.*", rate_factor=1.0),))
    ends = []
    for solver in (one, two):
        values = [p.detach().clone().unsqueeze(0) for p in model.parameters()]
        LocalUpdate(solver, by_tensor(model), names)(values, [torch.ones_like(v) for v in values], {}, 1.0, [])
        ends.append(values)
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Clipping(norm=0.0), "norm is 0, expected more than 0"),
        (lambda: Clipping(value=-1.0), "value is -1.0, expected 0 or more"),
        (lambda: Clipping(norm=math.nan), "expected a finite number"),
        (lambda: Schedule("cosin"), "cosine"),  # type: ignore[arg-type]
        (lambda: Schedule(at=(3,)), "has none; remove at"),
        (lambda: Schedule(length=9), "has none; remove length"),
        (lambda: Schedule("step"), "at is empty"),
        (lambda: Schedule("cosine", warm_up=9, length=9), "expected more than warm_up"),
        (lambda: ParameterGroup(""), "expected a pattern"),
        (lambda: ParameterGroup("a", rate_factor=0.5, frozen=True), "is frozen, so it has no rate"),
        (lambda: SGD(0.1, nesterov=True), "momentum is 0"),
        (lambda: SGD(0.1, warm_up_steps=3, schedule=Schedule("cosine")), "older form"),
        (lambda: Adam(0.1, beta2=1.0), "expected a number in [0, 1)"),
        (lambda: AdamW(0.1, state_scope="forever"), "state_scope is 'forever'"),  # type: ignore[arg-type]
    ],
)
def test_values_that_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        (SGD(0.1, groups=(ParameterGroup("0.weigth", frozen=True),)), "'0.weigth' matches no parameter"),
        (SGD(0.1, groups=(ParameterGroup("*"), ParameterGroup("0.*", rate_factor=2))), "an earlier group leaves"),
        (SGD(0.1, groups=(ParameterGroup("*", frozen=True),)), "nothing would be trained"),
        (FedProx(0.1, schedule=Schedule("cosine", warm_up=6)), "nothing is left for the cosine decay"),
    ],
)
def test_options_that_do_not_fit_the_federation(solver: LocalSolver, words: str) -> None:
    settings: dict[str, Any] = {"clients": skewed_clients(dtype=torch.float64), "strategy": FedAvg(3), "local_steps": 6}
    with pytest.raises(ConfigError) as caught:
        Federation(model=mlp(), solver=solver, **settings).run()
    assert words in str(caught.value)


def test_pushed_clients_follow_the_schedule() -> None:
    """A whole run by hand: gradient 1 in every step, so the model ends at minus the sum of all rates."""
    from tests.core.helpers import Line, product

    solver = SGD(1.0, schedule=Schedule("polynomial", warm_up=2))
    result = Federation(
        model=Line(0.0), clients=pushed(1.0), strategy=FedAvg(2), local_steps=6, solver=solver, objective=product
    ).run()
    total = 0.5 + 1 + (1 + 0.75 + 0.5 + 0.25)
    assert float(result.model["free"]) == pytest.approx(-total, abs=1e-12)
