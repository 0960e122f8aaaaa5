"""The two definitions of a layer's average and discrepancy, by literal numbers and against each other."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedlama import Layer
from fedlama.core.averaging import average_models, average_rows, squared_norm, weighted_mean
from fedlama.core.layers import TensorSpec

LAYER = Layer(
    "norm",
    (
        TensorSpec("weight", (2,), torch.float32, True),
        TensorSpec("mean", (2,), torch.float32, False),
        TensorSpec("count", (), torch.int64, False),
    ),
    adaptive=True,
)
CLIENTS: list[dict[str, Tensor]] = [
    {"weight": torch.tensor([1.0, 2.0]), "mean": torch.tensor([0.0, 8.0]), "count": torch.tensor(3)},
    {"weight": torch.tensor([3.0, 6.0]), "mean": torch.tensor([4.0, 0.0]), "count": torch.tensor(4)},
]
STACKED = {name: torch.stack([client[name] for client in CLIENTS]) for name in CLIENTS[0]}
WEIGHTS = [0.25, 0.75]


def exact(weights: list[float]) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64)


@pytest.mark.parametrize("way", ["models", "rows"])
def test_literal_numbers(way: str) -> None:
    means, discrepancy = (
        average_models(LAYER, CLIENTS, WEIGHTS) if way == "models" else average_rows(LAYER, STACKED, exact(WEIGHTS))
    )
    assert {name: value.tolist() for name, value in means.items()} == {
        "weight": [2.5, 5.0],
        "mean": [3.0, 2.0],  # averaged like the weights, but no part of the discrepancy
        "count": 4,  # 3.75, rounded
    }
    assert {name: value.dtype for name, value in means.items()} == {spec.name: spec.dtype for spec in LAYER.tensors}
    assert discrepancy == 0.25 * (1.5**2 + 3.0**2) + 0.75 * (0.5**2 + 1.0**2)


def test_the_two_agree_to_rounding() -> None:
    draw = torch.Generator().manual_seed(0)
    layer = Layer("w", (TensorSpec("w", (30, 20), torch.float32, True),), adaptive=True)
    stacked = {"w": torch.randn(7, 30, 20, generator=draw)}
    weights = torch.rand(7, generator=draw, dtype=torch.float64)
    weights /= weights.sum()
    one = average_models(layer, [{"w": value} for value in stacked["w"]], weights.tolist())
    other = average_rows(layer, stacked, weights)
    torch.testing.assert_close(one[0]["w"], other[0]["w"], atol=1e-6, rtol=1e-6)
    assert one[1] == pytest.approx(other[1], rel=1e-6)


def test_rows_are_squared_in_float64() -> None:
    # Squares of 1e30 overflow in float32; an aggregator must see how far such a value is away, and not infinity.
    layer = Layer("w", (TensorSpec("w", (1,), torch.float32, True),), adaptive=True)
    far = {"w": torch.tensor([[0.0], [1e30]])}
    assert average_rows(layer, far, exact([0.5, 0.5]))[1] == pytest.approx(0.25e60, rel=1e-6)
    assert average_models(layer, [{"w": value} for value in far["w"]], [0.5, 0.5])[1] == float("inf")


def test_sums_run_in_the_given_order() -> None:
    # In float32, 1e8 + 1 is 1e8: only the order decides whether the 1 survives.
    values = [torch.tensor(1e8), torch.tensor(-1e8), torch.tensor(1.0)]
    assert weighted_mean(values, [1.0, 1.0, 1.0]) == 1.0
    assert weighted_mean([values[0], values[2], values[1]], [1.0, 1.0, 1.0]) == 0.0


def test_a_norm_is_added_up_in_float64() -> None:
    assert squared_norm(torch.cat([torch.tensor([1e4]), torch.full((1000,), 0.1)])) == pytest.approx(1e8 + 10, abs=1e-3)
