"""Codecs: encoding, decoding and the shortcut for engines that do not send must agree, to the bit and to the byte."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedlama import SGD, DataError, DivergenceError, FedAvg, Federation, Float16, Float32
from fedlama.choices.codecs import Codec
from fedlama.choices.codecs.float32 import check_length
from fedlama.core.layers import TensorSpec
from tests.core.helpers import Normed, mlp, skewed_clients


@dataclass(frozen=True)
class Doubled(Codec):
    """A codec that sends every tensor twice, and leaves `transmit` to its base class."""

    name: ClassVar[str] = "doubled"

    def payload_bytes(self, spec: TensorSpec) -> int:
        return 2 * Float32().payload_bytes(spec)

    def encode(self, tensor: torch.Tensor) -> bytes:
        return 2 * Float32().encode(tensor)

    def decode(self, data: bytes, spec: TensorSpec) -> torch.Tensor:
        check_length(data, spec, self.payload_bytes(spec))
        return Float32().decode(data[: len(data) // 2], spec)


CODECS = [Float32(), Float16(), Doubled()]
SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 2, 2)]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool]


def made(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random values of any dtype."""
    values = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype)


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Describe a tensor."""
    return TensorSpec("w", tuple(tensor.shape), tensor.dtype, True)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_encode_decode_transmit_and_length_agree(codec: Codec, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    clients = torch.stack([made(shape, dtype, seed) for seed in range(3)])
    arrived = codec.transmit(clients)
    assert arrived.dtype == dtype
    for sent, received in zip(clients, arrived, strict=True):
        data = codec.encode(sent)
        assert len(data) == codec.payload_bytes(spec_of(sent))
        decoded = codec.decode(data, spec_of(sent))
        assert decoded.shape == sent.shape
        assert decoded.dtype == dtype
        assert torch.equal(decoded, received)


def test_float32_is_the_tensors_own_bytes() -> None:
    assert Float32().encode(torch.tensor([1.0, -2.5])) == struct.pack("<2f", 1.0, -2.5)
    assert Float32().encode(torch.tensor([1, -2])) == struct.pack("<2q", 1, -2)
    assert Float32().encode(torch.tensor([1.0, 2.0], dtype=torch.float64)) == struct.pack("<2d", 1.0, 2.0)


def test_views_are_written_row_by_row() -> None:
    matrix = torch.arange(6.0).reshape(2, 3).T
    assert Float32().encode(matrix) == struct.pack("<6f", 0, 3, 1, 4, 2, 5)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_float32_loses_nothing(values: list[float]) -> None:
    sent = torch.tensor(values)
    assert torch.equal(Float32().decode(Float32().encode(sent), spec_of(sent)), sent)


def test_float16_rounds_to_the_nearest_and_overflows_to_infinity() -> None:
    sent = torch.tensor([1.0, 1.0 + 2**-11 + 2**-14, 1.0 + 2**-12, 65504.0, 70000.0])
    expected = [1.0, 1.0 + 2**-10, 1.0, 65504.0, float("inf")]
    assert Float16().transmit(sent.unsqueeze(0))[0].tolist() == expected
    assert Float16().encode(sent) == struct.pack("<4e", *expected[:4]) + b"\x00\x7c"


def test_float16_leaves_counters_alone() -> None:
    counter = torch.tensor(123_456_789)
    assert Float16().payload_bytes(spec_of(counter)) == 8
    assert torch.equal(Float16().decode(Float16().encode(counter), spec_of(counter)), counter)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_a_payload_of_the_wrong_length_is_refused(codec: Codec) -> None:
    tensor = torch.zeros(3, 2)
    with pytest.raises(DataError, match=r"'w' of shape \(3, 2\) takes .* bytes"):
        codec.decode(codec.encode(tensor) + b"\x00", spec_of(tensor))


def test_a_run_averages_what_arrives() -> None:
    # One client, one round: the global model is its model with parameters rounded to float16, statistics as they are.
    clients = skewed_clients(1)
    exact = Federation(Normed(), clients, FedAvg(2), 2, keep_client_models=True).run()
    halved = Federation(Normed(), clients, FedAvg(2), 2, codec=Float16(), keep_client_models=True).run()
    parameters = {name for name, _ in Normed().named_parameters()}
    for name, value in exact.model.items():
        rounded = value.half().float() if name in parameters else value
        assert torch.equal(halved.model[name], rounded), name
        assert torch.equal(halved.rounds[0].client_models[0][name], rounded), name
    assert halved.rounds[0].layers["first.weight"].discrepancy == 0.0
    assert halved.rounds[0].layers["first.weight"].bytes_up == 2 * 6 * 8
    assert halved.rounds[0].layers["first.weight"].bytes_down == 4 * 6 * 8


def test_values_too_large_for_float16_end_the_run_in_words() -> None:
    model = mlp().float()
    with torch.no_grad():
        model[2].weight[0, 0] = 1e5
    federation = Federation(model, skewed_clients(2), FedAvg(1), 2, solver=SGD(0.0), codec=Float16())
    with pytest.raises(
        DivergenceError,
        match=r"'2.weight' \(the codec 'float16' cannot hold 2.weight, .* use the codec",
    ):
        federation.run()
