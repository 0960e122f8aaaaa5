"""FLAYER's mask, rates and element-wise mean, against numbers by hand and those of the authors' networks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.choices.codecs import Codec, codec_for
from fedlama.choices.solvers.layer_rates import RatesOfChildren
from fedlama.core.layers import by_tensor
from fedlama.engines.divergence import average_divergence
from fedlama.engines.transfers import payload_bytes
from tests.core.helpers import mlp, skewed_clients

HERE = fl.CodecContext().address


def cnn(classes: int, channels: int = 3, flat: int = 1600) -> nn.Module:
    """The authors' CNN: its tensors, without a forward pass."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 5), nn.Conv2d(32, 64, 5), nn.Linear(flat, 512), nn.Linear(512, classes)
    )


def _block(inner: int, outer: int, stride: int) -> nn.Module:
    parts = [nn.Conv2d(inner, outer, 3, bias=False), nn.BatchNorm2d(outer), nn.Conv2d(outer, outer, 3, bias=False)]
    parts.append(nn.BatchNorm2d(outer))
    if stride > 1:
        parts += [nn.Conv2d(inner, outer, 1, bias=False), nn.BatchNorm2d(outer)]
    return nn.Sequential(*parts)


def resnet18(classes: int) -> nn.Module:
    """The tensors of ResNet-18, without a forward pass."""
    stages = [
        nn.Sequential(_block(inner, outer, stride), _block(outer, outer, 1))
        for inner, outer, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2))
    ]
    return nn.Sequential(nn.Conv2d(3, 64, 7, bias=False), nn.BatchNorm2d(64), *stages, nn.Linear(512, classes))


def kept(codec: Codec, layers: fl.Layers) -> list[int]:
    return [codec.kept(spec) for layer in layers for spec in layer.tensors]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("model", "tensors", "sent", "total", "share", "with_map"),
    [
        (cnn(100), 8, 883_424, 924_708, 95.535, 95.719),
        (cnn(10), 8, 837_254, 878_538, 95.301, 95.494),
        (cnn(10, 1, 1024), 8, 542_150, 582_026, 93.149, 93.431),
        (resnet18(100), 62, 8_451_354, 11_227_812, 75.272, 78.382),
        (resnet18(10), 62, 8_405_184, 11_181_642, 75.169, 78.293),
    ],
    ids=["cnn-100", "cnn-10", "cnn-mnist", "resnet-100", "resnet-10"],
)
def test_shares_of_the_authors_networks(
    model: nn.Module, tensors: int, sent: int, total: int, share: float, with_map: float
) -> None:
    layers = by_tensor(model, statistics="local")
    codec = codec_for(fl.LayerMask(one_by_one="mask"), layers)
    counts = kept(codec, layers)
    assert (len(counts), sum(counts)) == (tensors, sent)
    assert sum(layer.parameters for layer in layers) == total
    assert 100 * sent / total == pytest.approx(share, abs=6e-4)
    assert 100 * sum(payload_bytes(layer, codec) for layer in layers) / (4 * total) == pytest.approx(with_map, abs=6e-4)


def test_counts_of_every_tensor() -> None:
    layers = by_tensor(cnn(100))
    codec = codec_for(fl.LayerMask(), layers)
    left = [codec.left_out(spec) for layer in layers for spec in layer.tensors]  # type: ignore[attr-defined]
    assert left == [22, 28, 19, 40, 0, 192, 0, 0]
    assert kept(codec, layers) == [288, 4, 12_288, 24, 819_200, 320, 51_200, 100]


def test_kernels_of_one_number_are_sent_unless_it_is_said() -> None:
    layers = by_tensor(nn.Sequential(nn.Conv2d(4, 8, 1), nn.Linear(3, 3), nn.Linear(3, 2)))
    assert kept(codec_for(fl.LayerMask(), layers), layers)[0] == 32
    assert kept(codec_for(fl.LayerMask(one_by_one="mask"), layers), layers)[0] == 0


def test_the_smallest_changes_of_every_slice_are_left_out() -> None:
    layers = by_tensor(nn.Sequential(nn.Conv2d(1, 2, 2, bias=False), nn.Linear(2, 2), nn.Linear(2, 2)))
    codec = codec_for(fl.LayerMask(), layers)  # ratio 0.9 of four numbers: three
    start = torch.zeros(2, 1, 2, 2)
    value = torch.tensor([[[[1.0, -5.0], [2.0, 3.0]]], [[[0.1, 0.2], [0.4, 0.3]]]])
    known = fl.CohortContext(start + 1, {}, HERE, (0,))
    received, _ = codec.transmit_with(value.unsqueeze(0), known)
    expected = torch.full((2, 1, 2, 2), math.nan)
    expected[0, 0, 0, 1], expected[1, 0, 0, 0] = -5.0, 0.1  # |-5 - 1| and |0.1 - 1| are the largest changes
    assert torch.equal(received[0].nan_to_num(77.0), expected.nan_to_num(77.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.complex64])
def test_bytes_are_what_a_cohort_transmits(dtype: torch.dtype) -> None:
    codec, draw = fl.LayerMask(), torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, 2, 3, 3, generator=draw).to(dtype)
    known = fl.CohortContext(torch.ones(4, 2, 3, 3, dtype=dtype), {}, HERE, (4, 5, 6))
    received, _ = codec.transmit_with(values, known)
    spec = fl.TensorSpec("w", (4, 2, 3, 3), dtype, trainable=True)
    for row in range(3):
        data, _ = codec.encode_with(values[row], known.row(row))
        assert len(data) == codec.payload_bytes(spec) == 9 + 8 * dtype.itemsize  # one of nine numbers of eight slices
        decoded = codec.decode_with(data, spec, known.row(row))
        assert torch.equal(torch.isnan(decoded), torch.isnan(received[row]))
        assert torch.equal(decoded[~torch.isnan(decoded)], received[row][~torch.isnan(decoded)])
    for wrong in (data[:-1], bytes([data[0] ^ 1]) + data[1:]):
        with pytest.raises(fl.DataError, match="'w'"):
            codec.decode_with(wrong, spec, known.row(0))


def test_a_client_that_diverged_is_seen() -> None:
    layers = by_tensor(cnn(10))
    codec = codec_for(fl.LayerMask(), layers)
    wrong = torch.full((32, 3, 5, 5), math.nan)
    received = codec.transmit(wrong.unsqueeze(0))
    assert torch.isinf(received).any()
    error = average_divergence(layers[0], 3, [(7, {"0.weight": wrong})], codec)
    assert (error.client, error.layer) == (7, "0.weight")


def test_rates_of_the_children() -> None:
    names = [f"{child}.{kind}" for child in ("conv1", "conv2", "fc1", "fc") for kind in ("weight", "bias")]
    rates = factors(fl.LayerRates(0.005, factor=20), names, [1, 1, 0.5, 2, 1, 0.25, 1, 1])
    assert [0.005 * rate for rate in rates] == pytest.approx(
        [0.005, 0.005, *[0.1250679566129379] * 2, *[0.17675283643313486] * 2, 0.001, 0.001], rel=1e-14
    )
    names = ["0.w", "1.w", "1.b", "2.w", "3.w", "4.w", "5.x", "5.y", "5.z", "6.w"]
    rates = factors(fl.LayerRates(0.1), names, [1, 0.5, 2, 1, 1, 1, 1, 0.25, 4, 1])
    assert 0.1 * rates[1] == pytest.approx(0.11253397830646897, rel=1e-14)
    assert 0.1 * rates[6] == pytest.approx(0.17015912900856267, rel=1e-14)
    assert factors(fl.LayerRates(0.1, most=1.5), names, [0.0] * 10)[6] == 1.5
    assert factors(fl.LayerRates(0.1), ["w", "w.b"], [1, 1]) == [1.0, 1.0]  # one child


def factors(solver: fl.LayerRates, names: list[str], norms: list[float]) -> list[float]:
    bound: RatesOfChildren = solver.for_parameters(names, names)
    return [float(factor) for factor in bound.factors([torch.tensor([norm], dtype=torch.float64) for norm in norms])]


@pytest.mark.parametrize("engine", ["loop", "stacked", "workers"])
def test_rates_are_those_of_the_first_batch_of_a_round(engine: str) -> None:
    """An independent version of two rounds, with autograd alone."""
    given = fl.Federation(
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)).double(),
        [fl.ClientData(torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).double(), torch.arange(6) % 2, 2)],
        fl.FedAvg(3),
        local_steps=6,
        solver=fl.LayerRates(0.1, factor=2.0),
        engine=engine,
    )
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)).double()
    model.load_state_dict(given.model.state_dict())
    source = given.engine_setup().clients
    for step in range(6):
        x, y = source.batch(0, step, 0)
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        if step % 3 == 0:
            middle = sum(2.0 * (1 + 0.5 * math.log(1 + 1 / float(g.norm()))) for g in gradients[2:4]) / 2
            rates = [0.1, 0.1, 0.1 * middle, 0.1 * middle, 0.02, 0.02]
        with torch.no_grad():
            for parameter, gradient, rate in zip(model.parameters(), gradients, rates, strict=True):
                parameter -= rate * gradient
    for name, value in given.run().model.items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=1e-10, atol=1e-12)


def combine(rows: list[list[float]], weights: list[float], aggregator: fl.ElementMean) -> list[float]:
    layer = fl.Layer("w", (fl.TensorSpec("w", (4,), torch.float32, trainable=True),), adaptive=True)
    combined = aggregator.combine(
        layer, {"w": torch.tensor(rows, dtype=torch.float32)}, weights, {"w": torch.full((4,), 9.0)}
    )
    return list(combined.values["w"].tolist())


def test_the_mean_of_what_was_sent() -> None:
    nan = math.nan
    assert combine([[1, nan, 3, nan], [2, 4, nan, nan]], [0.25, 0.75], fl.ElementMean()) == [1.75, 4, 3, 9]
    assert combine([[1, 0, 3, 0], [2, 4, 0, 0]], [0.25, 0.75], fl.ElementMean(zeros="left-out")) == [1.75, 4, 3, 9]
    assert combine([[1, 0, 3, 0], [2, 4, 0, 0]], [0.25, 0.75], fl.ElementMean()) == [1.75, 3, 0.75, 0]


def test_clients_that_are_equal_give_their_value() -> None:
    value = [0.3, -1.7, 2.0, 0.1]
    masked = [[0.3, math.nan, 2.0, 0.1], value, value]
    assert combine(masked, [0.2, 0.3, 0.5], fl.ElementMean()) == pytest.approx(value, rel=1e-7)


def test_a_codec_that_leaves_numbers_out_needs_an_aggregator_that_counts_them() -> None:
    given = fl.Federation(mlp(), skewed_clients(), fl.FedAvg(2), 4, codec=fl.LayerMask())
    with pytest.raises(fl.ConfigError, match=r"set aggregator\.name='element-mean'"):
        given.run()
    with pytest.raises(fl.ConfigError, match="leaves numbers out, but clients need all of a download"):
        fl.Directions(fl.Float32(), fl.LayerMask())
