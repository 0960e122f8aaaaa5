"""Kernels of sequences against PyTorch in float64, on sizes that fill neither vectors nor tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

from tests.kernels.parts import Floats
from tests.kernels.sequence_parts import Attention, Normalisation, PositionDense, Tokens, gelus, position_loss


def _drawn(seed: int, *shape: int) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _exact(array: Floats) -> Tensor:
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def _assert_close(result: Floats, expected: Tensor, tolerance: float = 2e-6) -> None:
    """Compare with a tolerance that is a share of the largest number."""
    exact = expected.detach().numpy()
    assert result.shape == exact.shape
    assert np.abs(result - exact).max() < tolerance * np.abs(exact).max()


@pytest.mark.parametrize("tall", [False, True], ids=["6", "16"])
@pytest.mark.parametrize(("batch", "positions"), [(1, 1), (7, 5), (16, 4), (21, 3), (33, 9)])
@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (17, 19), (50, 33), (33, 64)])
def test_dense(batch: int, positions: int, rows: int, columns: int, tall: bool) -> None:
    x, weight = _drawn(1, batch, positions, columns), _drawn(2, rows, columns)
    bias, above, before = _drawn(3, rows), _drawn(4, batch, positions, rows), _drawn(5, rows, columns)
    inputs, matrix = _exact(x), _exact(weight)
    out = functional.linear(inputs, matrix, torch.tensor(bias, dtype=torch.float64))
    slopes = torch.autograd.grad(out, [inputs, matrix], torch.tensor(above, dtype=torch.float64))
    dense = PositionDense(x, weight, tall)
    _assert_close(dense.forward(bias), out)
    _assert_close(dense.forward(bias[:0]), out - torch.tensor(bias, dtype=torch.float64))
    _assert_close(dense.backward(above), slopes[0])
    _assert_close(dense.weights(above, before, 0.5, -2.0), 0.5 * torch.tensor(before) - 2 * slopes[1], 4e-6)


def test_tiles_of_any_height_give_the_same_bits() -> None:
    x, weight, above = _drawn(1, 21, 5, 33), _drawn(2, 50, 33), _drawn(3, 21, 5, 50)
    low, tall = (PositionDense(x, weight, tall) for tall in (False, True))
    bias, before = _drawn(4, 50), _drawn(5, 50, 33)
    assert np.array_equal(low.forward(bias), tall.forward(bias))
    assert np.array_equal(low.backward(above), tall.backward(above))
    assert np.array_equal(low.weights(above, before, 1.0, 1.0), tall.weights(above, before, 1.0, 1.0))


@pytest.mark.parametrize(("batch", "positions"), [(1, 1), (7, 5), (16, 4), (21, 3)])
@pytest.mark.parametrize("features", [5, 16, 19])
def test_layer_norm(batch: int, positions: int, features: int) -> None:
    x, above = _drawn(1, batch, positions, features) * 3 + 4, _drawn(2, batch, positions, features)
    weight, bias, before = _drawn(3, features), _drawn(4, features), _drawn(5, batch, positions, features)
    given = [_exact(array) for array in (x, weight, bias)]
    out = functional.layer_norm(given[0], (features,), given[1], given[2], float(np.float32(1e-5)))
    slopes = torch.autograd.grad(out, given, torch.tensor(above, dtype=torch.float64))
    norm = Normalisation(x, weight)
    _assert_close(norm.forward(bias), out)
    for result, expected in zip(norm.backward(above), slopes, strict=True):
        assert np.abs(result - expected.numpy()).max() < 4e-6 * max(float(expected.abs().max()), 1.0)
    _assert_close(norm.backward(above, before)[0], slopes[0] + torch.tensor(before), 4e-6)


def test_layer_norm_of_literal_numbers() -> None:
    """(1, 3) has mean 2 and variance 1; (0, 8) has mean 4 and variance 16."""
    norm = Normalisation(np.array([[[1, 3]], [[0, 8]]], np.float32), np.array([1, 2], np.float32))
    out = norm.forward(np.array([0, 0.5], np.float32))
    assert out == pytest.approx(np.array([[[-1, 2.5]], [[-1, 2.5]]]), abs=2e-5)
    below, weight, bias = norm.backward(np.array([[[1, 0]], [[0, 3]]], np.float32))
    assert weight == pytest.approx([-1, 3], abs=2e-5)
    assert bias == pytest.approx([1, 3])
    assert np.abs(below).max() < 1e-4  # whatever two numbers are, their normalised values are -1 and 1


def test_gelu_and_its_derivative_are_exact_to_float32() -> None:
    x = np.concatenate([np.linspace(-14, 14, 40000 - 16), np.geomspace(1e-30, 1, 16)]).astype(np.float32)
    exact = _exact(x)
    out = functional.gelu(exact)
    slope = torch.autograd.grad(out.sum(), exact)[0]
    ours, slopes = gelus(x)
    assert np.abs(ours - out.detach().numpy()).max() < 5e-7  # at x = 14 float32 itself is 5e-7 apart
    near = np.abs(x) < 3
    assert np.abs(ours - out.detach().numpy())[near].max() < 4e-7
    assert np.abs(slopes - slope.numpy()).max() < 2e-7
    tail = (x < -1) & (x > -5)  # small numbers are exact by their own size
    assert np.abs(ours[tail] / out.detach().numpy()[tail] - 1).max() < 2e-6
    assert np.isnan(gelus(np.full(16, np.nan, np.float32))).all()


@pytest.mark.parametrize(("batch", "positions"), [(1, 1), (7, 5), (16, 4), (21, 3)])
@pytest.mark.parametrize("features", [1, 16, 19])
def test_tokens_and_positions(batch: int, positions: int, features: int) -> None:
    table, others, above = _drawn(1, 11, features), _drawn(2, 6, features), _drawn(3, batch, positions, features)
    tokens = np.random.default_rng(4).integers(0, 11, (batch, positions))
    given = [_exact(table), _exact(others)]
    out = functional.embedding(torch.tensor(tokens), given[0]) + given[1][:positions]
    slopes = torch.autograd.grad(out, given, torch.tensor(above, dtype=torch.float64))
    embedding = Tokens(tokens, table, others)
    _assert_close(embedding.forward(), out)
    for result, expected in zip(embedding.backward(above), slopes, strict=True):
        _assert_close(result, expected)


@pytest.mark.parametrize("batch", [1, 7, 16])
@pytest.mark.parametrize("positions", [3, 4, 5, 17])
@pytest.mark.parametrize(("width", "heads"), [(6, 1), (12, 3), (40, 2)])
def test_attention(batch: int, positions: int, width: int, heads: int) -> None:
    x, above = 2 * _drawn(1, batch, positions, 3 * width), _drawn(2, batch, positions, width)
    exact = _exact(x)
    query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in exact.split(width, 2))
    mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    out = mixed.transpose(1, 2).flatten(2)
    slope = torch.autograd.grad(out, exact, torch.tensor(above, dtype=torch.float64))[0]
    attention = Attention(x, heads)
    _assert_close(attention.forward(), out, 1e-5)  # weights of large scores: one unit in their last digit
    _assert_close(attention.backward(above), slope, 1e-5)


def test_attention_of_literal_numbers() -> None:
    """Scores of 0 mix all positions that are seen equally; a large score selects one position."""
    x = np.zeros((1, 3, 6), np.float32)
    x[0, :, 4] = [3, 6, 12]  # the first feature of the values
    x[0, 2, 0], x[0, 1, 2] = 100, 100  # the last query meets the second key
    out = Attention(x, 1).forward()
    assert out[0, :, 0] == pytest.approx([3, 4.5, 6])
    assert (out[0, :, 1] == 0).all()


@pytest.mark.parametrize(("batch", "positions"), [(1, 1), (7, 5), (16, 4), (21, 3)])
def test_cross_entropy_at_positions(batch: int, positions: int) -> None:
    logits, y = 3 * _drawn(1, batch, positions, 11), np.random.default_rng(2).integers(0, 11, (batch, positions))
    exact = _exact(logits)
    expected = functional.cross_entropy(exact.flatten(0, 1), torch.tensor(y).flatten())
    loss, slopes = position_loss(logits, y)
    assert math.isclose(loss, float(expected.detach()), rel_tol=1e-6)
    _assert_close(slopes, torch.autograd.grad(expected, exact)[0])
