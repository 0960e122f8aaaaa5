"""Single instructions on vectors and tiles."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the extra 'fast' is not installed")


def test_exponential_is_exact_to_float32() -> None:
    from tests.kernels.parts import exponentials

    x = np.concatenate([np.linspace(-87, 0, 8192), [-200.0] * 15, [np.nan]]).astype(np.float32)
    y = exponentials(x).astype(np.float64)
    assert np.abs(y[:8192] / np.exp(x[:8192].astype(np.float64)) - 1).max() < 3e-7
    assert (y[8192:-1] == y[0]).all()  # e to the -87 is as good as nothing
    assert np.isnan(y[-1])


def test_a_square_is_transposed() -> None:
    from tests.kernels.parts import transposed

    square = np.arange(256, dtype=np.float32).reshape(16, 16)
    assert np.array_equal(transposed(square), square.T)


@pytest.mark.parametrize("count", [1, 7, 16])
def test_a_tile_of_outer_products(count: int) -> None:
    from tests.kernels.parts import outer

    draw = np.random.default_rng(count)
    left, right = draw.standard_normal(8 * 3, np.float32), draw.standard_normal(32, np.float32)
    out = np.full(8 * 40, 7.0, np.float32)
    outer(out, left, right, count)
    rows = out.reshape(8, 40)
    expected = left.reshape(8, 3)[:, :1] * right + 2.0  # every third number, broadcast over a row of two vectors
    np.testing.assert_allclose(rows[:, : 16 + count], expected[:, : 16 + count], rtol=1e-6, atol=1e-6)
    assert (rows[:, 16 + count :] == 7.0).all()
