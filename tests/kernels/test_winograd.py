"""Winograd's convolutions: their kernels against PyTorch's in float64, whole runs against the loop engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedlama.choices.samplers import AllClients
from fedlama.choices.strategies import Cyclic
from fedlama.engines import Stacked
from fedlama.engines.trainers.numba import compiled_form
from fedlama.federation.run import Run
from fedlama.kernels.table import CONVOLUTION, WINOGRAD_3, WINOGRAD_5
from fedlama.kernels.tiling import pays
from tests.engines.cases import assert_same, clients, federation, run
from tests.kernels.models import WinogradResidual, build, winograd_first, winograd_plain

pytest.importorskip("numba", reason="the extra 'fast' is not installed")

CASES = [  # batch, inputs, outputs, height, width, filter's side, padding, margin
    (1, 16, 16, 3, 3, 3, 1, 0),  # an image smaller than a tile
    (3, 16, 16, 1, 9, 3, 1, 1),
    (10, 32, 64, 30, 30, 3, 0, 2),  # blocks of one row of tiles
    (32, 16, 16, 9, 32, 3, 1, 1),  # rows cut into blocks, the last tiles reach over the edge
    (33, 48, 16, 8, 5, 3, 2, 0),  # outputs that fill half a broad tile
    (5, 16, 32, 7, 11, 5, 0, 2),
    (17, 32, 16, 13, 4, 5, 2, 2),
    (20, 16, 48, 6, 6, 5, 4, 0),
    (3, 96, 80, 10, 13, 3, 1, 1),  # enough channels for one pair of points to fill the cache
]


@pytest.mark.parametrize(("batch", "inputs", "outputs", "height", "width", "size", "padding", "margin"), CASES)
def test_kernels_against_float64(
    batch: int, inputs: int, outputs: int, height: int, width: int, size: int, padding: int, margin: int
) -> None:
    from tests.kernels.parts import Convolution

    draw = np.random.default_rng(0)
    x = draw.standard_normal((batch, inputs, height, width)).astype(np.float32)
    weight = draw.standard_normal((outputs, inputs, size, size)).astype(np.float32)
    bias = draw.standard_normal(outputs).astype(np.float32)
    exact = [torch.from_numpy(one).double().requires_grad_() for one in (x, weight)]
    result = functional.conv2d(exact[0], exact[1], padding=padding)
    above = draw.standard_normal(result.shape).astype(np.float32)
    below, slopes = (one.numpy() for one in torch.autograd.grad(result, exact, torch.from_numpy(above).double()))
    plain = result.detach().numpy()

    ours = Convolution(x, weight, padding, margin)
    _assert_near(ours.forward(None), plain)
    _assert_near(ours.forward(bias), plain + bias[:, None, None])
    _assert_near(ours.backward(above, None), below)
    _assert_near(ours.backward(above, x), below + x)
    _assert_near(ours.weights(above, weight, 0.0, 1.0), slopes)
    _assert_near(ours.weights(above, weight, 0.9, -0.5), 0.9 * weight - 0.5 * slopes)


def _assert_near(ours: np.ndarray, exact: np.ndarray) -> None:
    """Errors stay below a few hundred-thousandths of the largest number."""
    assert np.abs(ours - exact).max() <= 2e-5 * np.abs(exact).max()
    assert np.sqrt(np.square(ours - exact).mean()) <= 3e-6 * np.sqrt(np.square(exact).mean())


def test_blocks_of_literal_sizes() -> None:
    from fedlama.kernels.winograd import Cut, cut

    # 28 pixels are 7 tiles of 4; 7 x 10 samples are about 2048 / 32 = 64 columns, filled up to 80
    assert cut(28, 28, 10, 32, 3, 0) == Cut(4, 0, 7, 7, 1, 7, 80)
    # 8 tiles x 32 samples are 256 columns where 2048 / 16 = 128 are wanted: two pieces
    assert cut(32, 32, 32, 16, 3, 1) == Cut(4, 1, 8, 8, 1, 4, 128)
    # 2 tiles x 8 samples are 16 columns where 64 are wanted: three rows are all there are
    assert cut(6, 4, 8, 32, 5, 2) == Cut(2, 2, 3, 2, 3, 2, 48)
    # 7 tiles x 20 samples where 32 columns are wanted: 3 + 3 + 1 tiles are 4 + 4 + 2 vectors, 2 + 2 + 2 + 1 one more
    assert cut(14, 14, 20, 64, 5, 2) == Cut(2, 2, 7, 7, 1, 3, 64)
    # with many channels 128 columns are wanted: 4 + 3 tiles of 33 are 9 + 7 vectors
    assert cut(28, 28, 33, 256, 3, 1) == Cut(4, 1, 7, 7, 1, 4, 144)
    assert cut(4, 4, 100, 64, 3, 1) == Cut(4, 1, 1, 1, 1, 1, 112)  # never less than a tile


@pytest.mark.parametrize(
    ("inputs", "outputs", "batch", "size", "padding", "expected"),
    [
        ((16, 32, 32), (16, 32, 32), 32, 3, 1, True),
        ((64, 8, 8), (64, 8, 8), 32, 3, 1, True),
        ((64, 8, 8), (64, 8, 8), 1, 3, 1, False),  # one sample: 16 columns for 4 tiles
        ((32, 14, 14), (64, 14, 14), 20, 5, 2, True),
        ((16, 4, 4), (32, 4, 4), 16, 5, 2, False),  # most of the taps meet only zeros
        ((3, 32, 32), (16, 32, 32), 32, 3, 1, False),  # channels that fill no vector
        ((16, 32, 32), (24, 32, 32), 32, 3, 1, False),
        ((16, 32, 32), (16, 33, 33), 32, 4, 2, False),
        ((16, 32, 32), (16, 36, 36), 32, 3, 3, False),
    ],
)
def test_when_it_pays(
    inputs: tuple[int, ...], outputs: tuple[int, ...], batch: int, size: int, padding: int, expected: bool
) -> None:
    assert pays(inputs, outputs, batch, size, padding) is expected


@pytest.fixture(autouse=True)
def _wherever_possible(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small models take the algorithm too, but where the rule itself is tested."""
    if "expected" not in request.fixturenames:
        monkeypatch.setattr("fedlama.kernels.tiling._DIRECT", 1e9)


def _kinds(**choices: Any) -> set[int]:  # noqa: ANN401
    program = compiled_form(Run(federation("loop", **choices)).engine._setup)  # type: ignore[attr-defined]
    assert program is not None
    return {row.kind for row in program.program.rows} & {CONVOLUTION, WINOGRAD_3, WINOGRAD_5}


@pytest.mark.parametrize(
    ("make", "kinds"),
    [(winograd_plain, {CONVOLUTION, WINOGRAD_3}), (WinogradResidual, {CONVOLUTION, WINOGRAD_3, WINOGRAD_5})],
)
@pytest.mark.parametrize("batch", [3, 16, 21])
def test_same_as_loop(make: Callable[[], nn.Module], kinds: set[int], batch: int) -> None:
    choices = {"model": build(make), "clients": clients((40, 34, 71, 36, 33), batch), "local_steps": 8}
    assert _kinds(**choices) == kinds
    assert_same(run(Stacked(), **choices), run("loop", **choices))


def test_the_first_layer_and_frozen_ones() -> None:
    source = clients((40, 34, 71, 36, 33), 8)
    source.prepare = lambda pixels: (pixels.float() / 128 - 1).repeat(1, 8, 1, 1)[:, :, :2, :2]
    choices = {"model": build(winograd_first), "clients": source, "local_steps": 8}
    assert _kinds(**choices) == {WINOGRAD_5}
    assert_same(run(Stacked(), **choices), run("loop", **choices))
    choices |= {"strategy": Cyclic(2, layers_per_turn=1)}
    assert_same(run(Stacked(), **choices), run("loop", **choices))


def test_any_chunk_and_any_number_of_threads_give_the_same_bits() -> None:
    source = clients((40, 34, 71, 36, 33), [8, 3, 16, 5, 8])  # type: ignore[arg-type]
    choices = {"model": build(WinogradResidual), "clients": source, "sampler": AllClients(), "local_steps": 8}
    expected = run(Stacked(chunk=5, threads=1), **choices)
    for engine in (Stacked(chunk=1, threads=1), Stacked(chunk=2, threads=3), Stacked(chunk=5, threads=2)):
        other = run(engine, **choices)
        assert all(torch.equal(value, expected.model[name]) for name, value in other.model.items())
        assert_same(other, expected, 0.0)
