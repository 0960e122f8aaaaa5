"""Group normalisation in compiled kernels, against PyTorch and against numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

from tests.kernels.parts import Floats, Groups


def _drawn(batch: int, channels: int, side: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return inputs far from 0, weight, bias, and a gradient of the outputs."""
    draw = np.random.default_rng(batch * channels)
    shape = batch, channels, side, side + 1
    x = (draw.standard_normal(shape) * draw.uniform(0.5, 3, (batch, 1, 1, 1)) + 4).astype(np.float32)
    weight, bias = draw.standard_normal((2, channels)).astype(np.float32)
    return x, weight, bias, draw.standard_normal(shape).astype(np.float32)


def _by_torch(given: tuple[Floats, ...], groups: int, relu: bool, dtype: torch.dtype) -> list[Tensor]:
    """Return outputs and the gradients of inputs, weight and bias as PyTorch computes them."""
    x, weight, bias, above = (torch.tensor(value, dtype=dtype) for value in given)
    watched = [value.requires_grad_() for value in (x, weight, bias)]
    out = functional.group_norm(x, groups, weight, bias, float(np.float32(1e-5)))
    out = out.relu() if relu else out
    return [out.detach(), *torch.autograd.grad(out, watched, above)]


@pytest.mark.parametrize("batch", [1, 7, 16, 21, 40])
@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (6, 2), (5, 1)])
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
def test_against_torch(batch: int, channels: int, groups: int, relu: bool) -> None:
    given = _drawn(batch, channels, 5)
    norm = Groups(given[0], given[1], groups, relu, margin=batch % 2)
    results = [norm.forward(given[2]), *norm.backward(given[3])]
    exact = _by_torch(given, groups, relu, torch.float64)
    single = _by_torch(given, groups, relu, torch.float32)
    for result, expected, other in zip(results, exact, single, strict=True):
        scale = float(expected.abs().max())
        assert np.abs(result - expected.numpy()).max() < 2e-6 * scale  # measured: up to 8e-7; PyTorch's float32: 1e-6
        assert np.abs(result - other.numpy()).max() < 4e-6 * scale


def test_against_numbers_by_hand() -> None:
    """Two samples of one pixel, two groups of two channels.

    The first group of sample 0 is (1, 3): mean 2, variance 1, so its outputs are -1 and 1 before scale and shift. The
    second is (10, 50): mean 30, variance 400. Sample 1 is (0, 8), mean 4, variance 16, and (5, 5), variance 0.
    """
    x = np.array([[1, 3, 10, 50], [0, 8, 5, 5]], np.float32).reshape(2, 4, 1, 1)
    weight, bias = np.array([1, 2, 1, 1], np.float32), np.array([0, 0, 0.5, 0.5], np.float32)
    norm = Groups(x, weight, 2, False, margin=1)
    out = norm.forward(bias).reshape(2, 4)
    assert out == pytest.approx(np.array([[-1, 2, -0.5, 1.5], [-1, 2, 0.5, 0.5]]), abs=2e-5)
    above = np.array([[1, 0, 0, 0], [0, 1, 0, 3]], np.float32).reshape(2, 4, 1, 1)
    _, slopes, shifts = norm.backward(above)
    assert shifts == pytest.approx([1, 1, 0, 3])
    assert slopes == pytest.approx([-1, 1, 0, 0], abs=2e-5)


def test_a_group_of_two_numbers_passes_no_gradient_on() -> None:
    """Whatever two numbers are, their normalised values are -1 and 1."""
    x = np.array([[1, 3]], np.float32).reshape(1, 2, 1, 1)
    norm = Groups(x, np.ones(2, np.float32), 1, False, margin=0)
    norm.forward(np.zeros(2, np.float32))
    below, *_ = norm.backward(np.array([[5, -2]], np.float32).reshape(1, 2, 1, 1))
    assert np.abs(below).max() < 1e-4
