"""Averages of every kind of number: complex, large integers, booleans, infinities, and statistics beyond float16."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.core import averaging
from fedlama.core.averaging import average_rows, integer_mean, weighted_mean
from fedlama.core.layers import Layer, TensorSpec
from fedlama.engines.cohort.averaging import mean_and_discrepancy
from fedlama.engines.cohort.threads import WorkerThreads

ENGINES = ("loop", "stacked", "workers", "auto")
AGGREGATORS = (fl.Mean(), fl.Median(), fl.TrimmedMean(0.34), fl.NormBound())
WEIGHTS = [0.5, 0.25, 0.25]


class WithBuffers(nn.Module):
    """A dense layer with buffers that no local step changes."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(6, 3)
        self.register_buffer("mask", torch.tensor([True, False, True, True, False, True]))
        self.register_buffer("large", torch.tensor([2**60 + 1, -(2**53) - 1]))
        self.register_buffer("rotary", torch.tensor([1 + 2j, 0.25 - 0.5j]))
        self.register_buffer("causal", torch.tensor([0.0, float("-inf"), float("inf")]))
        self.register_buffer("empty", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(x * self.mask)
        return logits


class Fourier(nn.Module):
    """A complex filter before a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.filter = nn.Parameter(torch.tensor([0.5 + 0.25j, 1 - 1j, 0.125j, 0.75 + 0j], dtype=torch.complex64))
        self.dense = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.dense(torch.fft.irfft(torch.fft.rfft(x) * self.filter, n=6))
        return logits


def run(model: nn.Module, **changes: Any) -> fl.Result:  # noqa: ANN401  (settings of a federation)
    torch.manual_seed(3)
    x, y = torch.randn(96, 6), torch.randint(0, 3, (96,))
    clients = [fl.ClientData(x[i::3], y[i::3], batch_size=8) for i in range(3)]
    settings: dict[str, Any] = {"strategy": fl.FedAvg(2), "local_steps": 4, "solver": fl.SGD(0.05)} | changes
    return fl.Federation(model=model, clients=clients, **settings).run()


def test_complex_numbers_are_averaged_as_such() -> None:
    rows = [torch.tensor([1 + 2j, 4j]), torch.tensor([3 - 2j, 0j]), torch.tensor([1 + 0j, 8 + 0j])]
    assert weighted_mean(rows, WEIGHTS).tolist() == [1.5 + 0.5j, 2 + 2j]
    mean, discrepancy = mean_and_discrepancy(torch.stack(rows), torch.tensor(WEIGHTS).double(), True, WorkerThreads(1))
    assert mean.tolist() == [1.5 + 0.5j, 2 + 2j]
    # |1+2j - u|^2 = 2.5, |3-2j - u|^2 = 8.5, |1 - u|^2 = 0.5; |4j - u|^2 = 8, |u|^2 = 8, |8 - u|^2 = 40
    assert discrepancy == pytest.approx(0.5 * 2.5 + 0.25 * 8.5 + 0.25 * 0.5 + 0.5 * 8 + 0.25 * 8 + 0.25 * 40, rel=1e-6)


def test_integers_beyond_float64_are_averaged_exactly() -> None:
    large = 2**60 + 1
    rows = torch.tensor([[large, large], [large, large + 2], [large, large + 2]])
    assert integer_mean(rows, torch.tensor(WEIGHTS).double()).tolist() == [large, large + 1]
    assert integer_mean(rows - large, torch.tensor(WEIGHTS).double()).tolist() == [0, 1]


@pytest.mark.parametrize("elements", [3, 40, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("measure", [False, True])
def test_equal_infinities_average_to_themselves(elements: int, dtype: torch.dtype, measure: bool) -> None:
    row = torch.zeros(elements, dtype=dtype)
    row[::3], row[1::3] = float("-inf"), float("inf")
    weights = torch.tensor(WEIGHTS).double()
    mean, discrepancy = mean_and_discrepancy(row.repeat(3, 1), weights, measure, WorkerThreads(2))
    assert torch.equal(mean, row)
    assert float(discrepancy) == 0.0
    layer = Layer("m", (TensorSpec("m", (elements,), dtype, trainable=measure),), adaptive=False)
    means, discrepancy = average_rows(layer, {"m": row.repeat(3, 1)}, weights)
    assert torch.equal(means["m"], row)
    assert discrepancy == 0.0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda aggregator: aggregator.name)
def test_buffers_that_no_step_changes_keep_their_values(engine: str, aggregator: fl.Aggregator) -> None:
    if aggregator.orders_values:
        model = nn.Sequential(nn.Linear(6, 3))
        for name, value in WithBuffers().named_buffers():
            if not value.is_complex():
                model.register_buffer(name, value)
    else:
        model = WithBuffers()
    result = run(model, engine=engine, aggregator=aggregator)
    for name, value in model.named_buffers():
        assert torch.equal(result.model[name], value), name
        assert result.model[name].dtype == value.dtype


def test_complex_parameters_train_alike_on_all_engines() -> None:
    before = Fourier().filter.detach()
    found = {engine: run(Fourier(), engine=engine).model["filter"] for engine in ENGINES}
    assert not torch.allclose(found["loop"], before, atol=1e-4)
    for engine, after in found.items():
        assert torch.allclose(after, found["loop"], atol=1e-6), engine


def test_server_optimizers_step_complex_numbers_as_pairs() -> None:
    plain, doubled = (
        run(Fourier(), local_steps=2, server_optimizer=fl.ServerMomentum(learning_rate=rate, momentum=0.0))
        for rate in (1.0, 2.0)
    )
    start = Fourier().filter.detach()
    assert torch.allclose(doubled.model["filter"] - start, 2 * (plain.model["filter"] - start), atol=1e-6)


def test_an_aggregator_that_sorts_refuses_complex_numbers() -> None:
    with pytest.raises(fl.ConfigError, match="sorts values, but the tensor filter is complex"):
        run(Fourier(), aggregator=fl.Median())


@pytest.mark.parametrize("engine", ENGINES)
def test_statistics_beyond_float16_are_sent_as_they_are(engine: str) -> None:
    torch.manual_seed(5)
    x = torch.randn(90, 6) * 400
    y = x[:, :3].argmax(1)
    clients = [fl.ClientData(x[i::3], y[i::3], batch_size=10) for i in range(3)]
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    found = [
        fl.Federation(model, clients, fl.FedAvg(5), 100, solver=fl.SGD(0.1), codec=codec, engine=engine).run()
        for codec in (fl.Float32(), fl.Float16())
    ]
    plain, halved = (result.model["0.running_var"] for result in found)
    assert plain.min() > 65_504
    assert torch.allclose(plain, halved, rtol=1e-5)
    # 33 parameters at 4 or 2 bytes, 12 statistics at 4 and one counter at 8: 20 rounds, 3 clients
    assert [r.ledger.payload_bytes("up") for r in found] == [60 * (33 * 4 + 48 + 8), 60 * (33 * 2 + 48 + 8)]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_codec_that_cannot_hold_a_weight_is_named(engine: str) -> None:
    model = nn.Linear(6, 3)
    with torch.no_grad():
        model.weight[0, 0] = 1e5
    with pytest.raises(fl.DivergenceError, match=r"codec 'float16' cannot hold weight, .* 1e\+05\); use the codec"):
        run(model, codec=fl.Float16(), solver=fl.SGD(1e-6), engine=engine)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
@pytest.mark.parametrize("large", [False, True])
def test_integers_are_averaged_alike_on_every_device(dtype: torch.dtype, large: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 2 if dtype == torch.bool else 100, (3, 2, 5), generator=draw).to(dtype)
    if large and dtype == torch.int64:
        rows = rows + 2**60 + 1
    shares = torch.tensor(WEIGHTS).double()
    elsewhere = averaging._integer_mean_on_device(rows, rows.double(), shares)
    assert torch.equal(elsewhere, integer_mean(rows, shares))
