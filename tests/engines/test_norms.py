"""How far a tensor moved, with and without compiled kernels."""

from __future__ import annotations

import pytest
import torch

from fedlama.engines.cohort.norms import squared_norms
from fedlama.engines.cohort.threads import WorkerThreads

_ONE = WorkerThreads(1)


@pytest.fixture(params=["compiled", "by torch"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    else:
        monkeypatch.setattr("fedlama.engines.cohort.norms.can_compile", lambda: False)


def test_of_literal_numbers() -> None:
    moved, held = squared_norms(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 4.0]]), _ONE)
    assert (moved, held) == pytest.approx((4.0 + 9.0 + 16.0, 17.0))
    assert squared_norms(torch.zeros(0, 3), torch.zeros(0, 3), _ONE) == (0.0, 0.0)
    assert squared_norms(torch.tensor(2.0), torch.tensor(-1.0), _ONE) == pytest.approx((9.0, 1.0))


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("elements", [(1 << 16) + 1, 200_017, 1 << 18])
def test_of_large_tensors_are_exact_to_float32_for_any_number_of_threads(elements: int) -> None:
    draws = torch.Generator().manual_seed(elements)
    new, previous = torch.randn(2, elements, generator=draws)
    new[-1], previous[-1] = 300.0, -500.0  # the last element must count
    moved, held = squared_norms(new, previous, WorkerThreads(2))
    exact = new.double(), previous.double()
    assert moved == pytest.approx(float((exact[0] - exact[1]).square().sum()), rel=1e-5)
    assert held == pytest.approx(float(exact[1].square().sum()), rel=1e-5)
    for count in (1, 3):
        assert squared_norms(new, previous, WorkerThreads(count)) == (moved, held)


@pytest.mark.usefixtures("_either_way")
def test_of_tensors_that_lie_otherwise() -> None:
    new, previous = torch.ones(300, 400).t(), torch.zeros(400, 300)
    previous[7, 9] = 3.0
    assert squared_norms(new, previous, _ONE) == pytest.approx((120_000 - 1 + 4.0, 9.0))
    assert squared_norms(new.double(), previous.double(), _ONE) == pytest.approx((120_000 - 1 + 4.0, 9.0))
