"""FedLPA's factors and its three solves against literal numbers, and what holds for all models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.choices.aggregators.gradient_steps import gradient_steps
from fedlama.core.factors import factor_layers, from_triangles, triangle
from fedlama.engines.factors import factors_of

SOLVES: list[Any] = ["ea", "authors", "exact"]


def exact(value: Any) -> Tensor:  # noqa: ANN401  (nested lists)
    return torch.tensor(value, dtype=torch.float64)


SHARES = exact([0.25, 0.75])
DAMPING = 0.001**0.5 * torch.eye(2, dtype=torch.float64)
INPUTS = exact([[[1.25, 0.5], [0.5, 1.0]], [[1.0, 0.2], [0.2, 0.29]]]) + DAMPING
OUTPUTS = exact([[[2.0]], [[0.5]]]) + DAMPING[:1, :1]
MODELS = exact([[[1, 2]], [[3, -1]]])


@pytest.mark.parametrize(
    ("aggregator", "expected"),
    [
        (fl.FedLPA("ea"), [1.7957551628, 2.1328763062]),
        (fl.FedLPA("authors", steps=1), [1.2777765376, 1.6540909814]),
        (fl.FedLPA("authors"), [1.7836536248, 1.2537223718]),
        (fl.FedLPA("exact"), [1.7836536248, 1.2537223718]),
    ],
    ids=str,
)
def test_two_clients(aggregator: fl.FedLPA, expected: list[float]) -> None:
    solved = aggregator.solution(MODELS, INPUTS, OUTPUTS, SHARES)
    assert solved[0].tolist() == pytest.approx(expected, rel=1e-9)
    swapped = aggregator.solution(MODELS.flip(0), INPUTS.flip(0), OUTPUTS.flip(0), SHARES.flip(0))
    torch.testing.assert_close(swapped, solved, rtol=1e-9, atol=1e-12)


def random_factors(clients: int, outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)

    def made(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    sides = [made(clients, size, size + 2) for size in (inputs, outputs)]
    eye = [0.1 * torch.eye(size, dtype=torch.float64) for size in (inputs, outputs)]
    positive = [side @ side.transpose(1, 2) / side.shape[2] + one for side, one in zip(sides, eye, strict=True)]
    shares = torch.rand(clients, generator=draw, dtype=torch.float64)
    return made(clients, outputs, inputs), positive[0], positive[1], shares / shares.sum()


def test_the_exact_solve_is_that_of_the_whole_linear_system() -> None:
    models, inputs, outputs, shares = random_factors(4, 3, 5)
    solved = fl.FedLPA("exact").solution(models, inputs, outputs, shares)
    # vec(B M A) = (A kron B) vec(M), column by column; A is symmetric
    pairs = [(p * torch.kron(a, b), m) for p, a, b, m in zip(shares, inputs, outputs, models, strict=True)]
    system = sum(matrix for matrix, _ in pairs)
    right = sum(matrix @ model.T.reshape(-1) for matrix, model in pairs)
    expected = torch.linalg.solve(torch.as_tensor(system), torch.as_tensor(right)).reshape(5, 3).T
    torch.testing.assert_close(solved, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("largest", [0.02, 0.9, 1.4])  # eigenvalues of F; of c F^2 they end at 0.0004, 0.81 and 1.96
@pytest.mark.parametrize("steps", [1, 2, 37, 10_000])
def test_many_gradient_steps_end_where_single_steps_end(steps: int, largest: float) -> None:
    start, target = exact([[0.5, -1]]), exact([[1, 2]])
    turn = exact([[0.6, 0.8], [-0.8, 0.6]])
    square = turn @ torch.diag(exact([1e-3, largest])) @ turn.T
    calls = []

    def forward(value: Tensor) -> Tensor:
        calls.append(value)
        return value @ square

    expected = start
    for _ in range(steps):  # the gradient of the mean of two squares
        expected = expected - (expected @ square - target) @ square
    ended = gradient_steps(forward, target, start, steps, largest)
    torch.testing.assert_close(ended, expected, rtol=1e-10, atol=1e-12)
    assert len(calls) <= 2 * steps
    assert len(calls) < 2100


def test_steps_that_diverge_are_taken_one_by_one() -> None:
    ended = gradient_steps(lambda value: 2 * value, exact([[0, 0]]), exact([[1, 1]]), 3, 2.0)
    assert ended.tolist() == [[-27, -27]]  # the target is 0: 1, -3, 9, -27


def test_the_steps_of_large_layers_are_those_of_single_steps() -> None:
    models, inputs, outputs, shares = random_factors(4, 12, 20)
    outputs = outputs / 4
    solved = fl.FedLPA("authors", steps=500).solution(models, inputs, outputs, shares)
    kept = torch.einsum("k,kab,kbc,kcd->ad", shares, outputs, models, inputs)
    mean_inputs, mean_outputs = (torch.einsum("k,kab->ab", shares, side) for side in (inputs, outputs))
    expected = torch.linalg.inv(mean_outputs) @ kept @ torch.linalg.inv(mean_inputs)
    for _ in range(500):
        error = torch.einsum("k,kab,bc,kcd->ad", shares, outputs, expected, inputs) - kept
        expected = expected - 2 / 240 * torch.einsum("k,kab,bc,kcd->ad", shares, outputs, error, inputs)
    torch.testing.assert_close(solved, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("solve", SOLVES)
def test_one_client_keeps_its_model_and_equal_factors_give_the_mean(solve: Any) -> None:  # noqa: ANN401
    models, inputs, outputs, shares = random_factors(3, 2, 4)
    alone = fl.FedLPA(solve).solution(models[:1], inputs[:1], outputs[:1], exact([1.0]))
    torch.testing.assert_close(alone, models[0], rtol=1e-8, atol=1e-10)
    same = fl.FedLPA(solve).solution(models, inputs[:1].expand(3, 4, 4), outputs[:1].expand(3, 2, 2), shares)
    torch.testing.assert_close(same, torch.einsum("k,koi->oi", shares, models), rtol=1e-8, atol=1e-10)


def test_factors_of_a_dense_layer() -> None:
    layer = nn.Linear(2, 2).double()
    layer.load_state_dict({"weight": exact([[1, 0], [0.5, -1]]), "bias": exact([0, 0])})
    x = exact([[1, 2], [3, -1]])
    output = layer(x)
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(output, torch.tensor([0, 1])), output)
    inputs, outputs = factors_of(layer, x, 2 * gradient)
    assert inputs.tolist() == [[5, -0.5, 2], [-0.5, 2.5, 0.5], [2, 0.5, 1]]
    expected = exact([[0.19660505, -0.19660504], [-0.19660504, 0.19660503]])
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-8)


def test_factors_of_a_convolution() -> None:
    layer = nn.Conv2d(1, 1, 2).double()
    layer.load_state_dict({"weight": torch.full((1, 1, 2, 2), 0.1), "bias": torch.zeros(1)})
    x = torch.arange(9, dtype=torch.float64).view(1, 1, 3, 3)
    output = layer(x)
    (gradient,) = torch.autograd.grad(output.square().mean(), output)
    inputs, outputs = factors_of(layer, x, gradient)
    assert outputs.tolist() == [[pytest.approx(11.84, rel=1e-6)]]
    expected = [
        [1.625, 2.125, 3.125, 3.625, 0.5],
        [2.125, 2.875, 4.375, 5.125, 0.75],
        [3.125, 4.375, 6.875, 8.125, 1.25],
        [3.625, 5.125, 8.125, 9.625, 1.5],
        [0.5, 0.75, 1.25, 1.5, 0.25],
    ]
    assert inputs.tolist() == expected


def test_triangles() -> None:
    matrix = exact([[1, 2, 3], [2, 4, 5], [3, 5, 6]])
    assert triangle(matrix).tolist() == [1, 2, 3, 4, 5, 6]
    for size in (1, 2, 7, 401):
        symmetric = torch.randn(size, size)
        symmetric = symmetric + symmetric.T
        assert torch.equal(from_triangles(triangle(symmetric).unsqueeze(0))[0], symmetric)


def lenet(channels: int, flat: int) -> nn.Module:
    """The authors' networks: their tensors, without a forward pass."""
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5),
        nn.Conv2d(6, 16, 5),
        nn.Linear(flat, 120),
        nn.Linear(120, 84),
        nn.Linear(84, 10),
    )


@pytest.mark.parametrize(
    ("model", "parameters", "triangles", "ratio"),
    [
        (lenet(3, 400), 62_006, 117_081, 2.8882),
        (lenet(1, 256), 44_426, 67_058, 2.5094),
        (
            nn.Sequential(nn.Linear(784, 256), nn.Linear(256, 64), nn.Linear(64, 10)),
            218_058,
            None,
            None,
        ),
    ],
    ids=["cifar", "mnist", "mlp"],
)
def test_bytes_of_the_authors_networks(model: nn.Module, parameters: int, triangles: int, ratio: float) -> None:
    layers = fl.by_module(model)
    own = sum(layer.parameters for layer in layers)
    assert own == parameters
    if triangles is not None:
        factors = sum(layer.parameters for layer in factor_layers(model, layers))
        assert factors == triangles
        assert (own + factors) / own == pytest.approx(ratio, abs=5e-5)
