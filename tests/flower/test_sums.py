"""The discrepancy from sums alone: what a server behind secure aggregation sees is enough."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedlama.core.layers import Layer, by_module
from fedlama.engines.api import Values
from fedlama.flower.server.aggregation import discrepancy_from_sums, from_models

_SCALE = 2.0**32  # fixed point: masks cancel exactly only in whole numbers


def clients(spread: float, count: int = 5) -> tuple[Layer, list[Values], Values, list[float]]:
    """Clients whose values differ from a reference by a given distance, with unequal weights."""
    torch.manual_seed(0)
    (layer,) = by_module(torch.nn.Linear(40, 30))
    reference = {spec.name: torch.randn(spec.shape) for spec in layer.tensors}
    models = [{n: r + spread * torch.randn(r.shape) for n, r in reference.items()} for _ in range(count)]
    weights = [(i + 1) / (count * (count + 1) / 2) for i in range(count)]
    return layer, models, reference, weights


def square(model: Values, reference: Values) -> float:
    return sum(float(((model[n].double() - reference[n].double()) ** 2).sum()) for n in reference)


@pytest.mark.parametrize("spread", [1e-4, 1e-2, 1.0, 10.0])
def test_the_identity_holds_to_many_digits(spread: float) -> None:
    layer, models, reference, weights = clients(spread)
    average = from_models(layer, models, weights)
    total = sum(w * square(model, reference) for w, model in zip(weights, models, strict=True))
    assert discrepancy_from_sums(layer, average.values, total, reference) == pytest.approx(
        average.discrepancy, rel=1e-4
    )


def test_masked_uploads_reveal_nothing_but_their_sums_suffice() -> None:
    """Each pair of clients shares a mask that one adds and the other subtracts, modulo 2^64, as SecAgg does."""
    layer, models, reference, weights = clients(0.1)
    vectors = []
    for weight, model in zip(weights, models, strict=True):
        moved = [weight * (model[n].double() - reference[n].double()).reshape(-1) for n in reference]
        moved.append(torch.tensor([weight * square(model, reference)], dtype=torch.float64))
        vectors.append(np.round(torch.cat(moved).numpy() * _SCALE).astype(np.int64).view(np.uint64))
    masked = [vector.copy() for vector in vectors]
    for i in range(len(vectors)):
        for j in range(i):
            mask = np.random.default_rng([i, j]).integers(0, 2**64, len(vectors[i]), dtype=np.uint64)
            masked[i] += mask
            masked[j] -= mask
    assert all(np.mean(one == other) < 0.01 for one, other in zip(vectors, masked, strict=True))
    total = np.zeros_like(vectors[0])
    for vector in masked:
        total += vector
    seen = torch.from_numpy(total.view(np.int64).astype(np.float64) / _SCALE)
    at, mean = 0, {}
    for name, value in reference.items():
        mean[name] = (value.double() + seen[at : at + value.numel()].reshape(value.shape)).float()
        at += value.numel()
    expected = from_models(layer, models, weights)
    for name, value in expected.values.items():
        torch.testing.assert_close(mean[name], value, atol=1e-6, rtol=1e-6)
    assert discrepancy_from_sums(layer, mean, float(seen[-1]), reference) == pytest.approx(
        expected.discrepancy, rel=1e-3
    )
