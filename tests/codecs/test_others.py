"""The other codecs by hand: top-k, random-k, signs, low rank, QSGD, chains, and halves of the bits."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fedlama as fl
from fedlama.choices.codecs import Address, Codec, CohortContext
from fedlama.choices.codecs.fixed_order import orthonormal, times, transposed_times
from fedlama.core.layers import TensorSpec
from fedlama.experiment import read, resolve
from tests.codecs.cases import context, sent, spec_of


def test_top_k_sends_positions_and_numbers() -> None:
    value = torch.tensor([0.5, -4.0, 1.0, 3.0, -0.25])
    codec = fl.TopK(share=0.4)
    assert sent(codec, value).tolist() == [0.0, -4.0, 0.0, 3.0, 0.0]
    assert codec.encode(value) == bytes([1, 3]) + struct.pack("<2f", -4.0, 3.0)


def test_of_equal_magnitudes_the_first_are_sent() -> None:
    assert sent(fl.TopK(share=0.5), torch.tensor([1.0, -1.0, 1.0, 1.0])).tolist() == [1.0, -1.0, 0.0, 0.0]


@pytest.mark.parametrize(("elements", "width"), [(256, 1), (257, 2), (65536, 2), (65537, 4)])
def test_positions_take_as_many_bytes_as_they_need(elements: int, width: int) -> None:
    codec, value = fl.TopK(share=1e-9), torch.zeros(elements)
    value[-1] = 2.0
    assert codec.encode(value) == (elements - 1).to_bytes(width, "little") + struct.pack("<f", 2.0)
    assert sent(codec, value)[-1] == 2.0
    assert codec.payload_bytes(spec_of(value)) == width + 4


def test_random_positions_belong_to_the_address_and_are_not_sent() -> None:
    codec, value = fl.RandomK(share=0.25), torch.arange(1.0, 9.0)
    known = context(codec, torch.zeros(8), (3, 4))
    received, state = codec.transmit_with(torch.stack([value, value]), known)
    assert (received != 0).sum(1).tolist() == [2, 2]
    assert torch.equal(received + state["residual"], torch.stack([value, value]))
    assert len(codec.encode(value)) == 2 * 4
    seen = {
        tuple(
            codec.transmit_with(value.unsqueeze(0), replace(known, clients=(client,)))[0][0]
            .nonzero()
            .flatten()
            .tolist()
        )
        for client in range(30)
    }
    assert len(seen) > 10


@pytest.mark.parametrize("codec", [fl.RandomK(share=0.25, feedback=False), fl.QSGD(4), fl.QSGD(4, "norm"), fl.QSGD(8)])
def test_what_arrives_has_the_right_expectation(codec: Codec) -> None:
    value, reference = torch.tensor([1.0, 0.3, -0.7, 0.0, 2.0, -1.5, 0.1, 0.9]), torch.full((8,), 0.25)
    known, clients = context(codec, reference, tuple(range(8000))), 8000
    received, _ = codec.transmit_with(value.expand(clients, -1), known)
    spread = received.double().std(0) / clients**0.5
    assert ((received.double().mean(0) - value).abs() < 5 * spread + 1e-4).all()


@settings(deadline=None)
@given(st.lists(st.floats(-1000, 1000, width=32), min_size=1, max_size=600), st.sampled_from(["largest", "norm"]))
def test_the_error_of_qsgd_is_below_a_step(values: list[float], scale: Any) -> None:  # noqa: ANN401
    value = torch.tensor(values)
    error = (sent(fl.QSGD(4, scale), value) - value).abs()
    for part, off in zip(value.split(512), error.split(512), strict=True):
        size = part.abs().max() if scale == "largest" else part.norm()
        # The square of a number below 1e-22 is 0 in float32, and so may be the norm.
        assert (off <= size / 7 * (1 + 1e-4) + 1e-22).all()


def test_qsgd_by_hand() -> None:
    # 4 bits: 7 levels; the largest magnitude 14 gives a step of 2; multiples of it are never moved.
    value = torch.tensor([14.0, -2.0, 0.0, 6.0])
    assert sent(fl.QSGD(4), value).tolist() == value.tolist()
    assert fl.QSGD(4).encode(value) == struct.pack("<f", 2.0) + bytes([15 + 16 * 7, 8 + 16 * 11])


def test_signs_by_hand() -> None:
    value = torch.tensor([3.0, -1.0, 0.0, -4.0])
    assert sent(fl.Sign(), value).tolist() == [2.0, -2.0, 2.0, -2.0]
    assert fl.Sign().encode(value) == struct.pack("<f", 2.0) + bytes([0b0101])


def test_a_matrix_of_low_rank_arrives_whole() -> None:
    draw = torch.Generator().manual_seed(0)
    value = torch.randn(40, 2, generator=draw) @ torch.randn(2, 30, generator=draw)
    received = sent(fl.PowerSGD(rank=2), value)
    torch.testing.assert_close(received, value, rtol=1e-4, atol=1e-4)
    assert sent(fl.PowerSGD(rank=3), value).isfinite().all()  # the third column depends on the others
    assert sent(fl.PowerSGD(rank=2), torch.randn(7)).shape == (7,)


def test_the_sums_of_products_have_one_order() -> None:
    """Restated number by number in float32: 64 sums over columns, halves added to halves; 32 groups of rows."""
    draw = np.random.default_rng(0)
    matrix, right, left = (draw.standard_normal(size).astype(np.float32) for size in ((71, 130), (130, 2), (71, 2)))
    product, transposed = np.zeros((71, 2), np.float32), np.zeros((130, 2), np.float32)
    for row, k in np.ndindex(71, 2):
        lanes = np.zeros(64, np.float32)
        for column in range(130):
            lanes[column % 64] += matrix[row, column] * right[column, k]
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        product[row, k] = lanes[0]
    for column, k in np.ndindex(130, 2):
        for first in range(0, 71, 3):  # 71 rows in groups of 3
            group = np.float32(0.0)
            for row in range(first, min(first + 3, 71)):
                group += matrix[row, column] * left[row, k]
            transposed[column, k] += group
    others = torch.randn(2, 71, 130)  # further clients change nothing
    matrices = torch.cat([others, torch.from_numpy(matrix)[None]])
    thin = [torch.from_numpy(array).expand(3, -1, -1) for array in (right, left)]
    assert np.array_equal(times(matrices, thin[0])[2].numpy(), product)
    assert np.array_equal(transposed_times(matrices, thin[1])[2].numpy(), transposed)
    np.testing.assert_allclose(product, matrix.astype(np.float64) @ right, rtol=0, atol=1e-5)
    np.testing.assert_allclose(transposed, matrix.T.astype(np.float64) @ left, rtol=0, atol=1e-5)


def test_columns_become_orthonormal() -> None:
    columns = torch.randn(4, 50, 3, generator=torch.Generator().manual_seed(0))
    columns[1, :, 2] = columns[1, :, 0] - 2 * columns[1, :, 1]  # dependent
    basis = orthonormal(columns)
    expected = torch.eye(3).repeat(4, 1, 1)
    expected[1, 2, 2] = 0.0
    torch.testing.assert_close(basis.transpose(1, 2) @ basis, expected, rtol=0, atol=1e-6)


def test_a_warm_start_finds_the_largest_directions() -> None:
    """Error of rank 1 after some rounds on one matrix, against the best possible (Eckart and Young)."""
    value = torch.randn(30, 20, generator=torch.Generator().manual_seed(1))
    best = float(torch.linalg.svdvals(value)[1:].square().sum().sqrt())
    codec = fl.PowerSGD(rank=1, feedback=False)
    known, errors = context(codec, torch.zeros(30, 20), (0,)), []
    for _ in range(40):
        received, state = codec.transmit_with(value.unsqueeze(0), known)
        errors.append(float((received[0] - value).norm()))
        known = replace(known, state=state)
    assert errors[0] > errors[-1]
    assert errors[-1] == pytest.approx(best, rel=0.01)


CONTRACTIONS = [fl.TopK(0.1), fl.RandomK(0.1), fl.Sign(), fl.PowerSGD(1), fl.Chain((fl.TopK(0.1), fl.Differences(4)))]


@settings(deadline=None)
@given(st.lists(st.floats(-1000, 1000, width=32), min_size=24, max_size=24), st.sampled_from(CONTRACTIONS))
def test_the_operators_are_contractions(values: list[float], codec: Codec) -> None:
    value = torch.tensor(values).view(4, 6)
    assert (sent(codec, value) - value).double().norm() <= value.double().norm() * (1 + 1e-5)


def test_a_chain_by_hand() -> None:
    """The two largest of eight numbers, 6 and -6, in one bit: a step of 12, and both arrive as +-6."""
    value = torch.tensor([0.0, 6.0, 1.0, 0.0, -6.0, 0.5, 0.0, 0.0])
    codec = fl.Chain((fl.TopK(0.25), fl.Differences(1)))
    assert sent(codec, value).tolist() == [0.0, 6.0, 0.0, 0.0, -6.0, 0.0, 0.0, 0.0]
    assert codec.encode(value) == bytes([1, 4]) + struct.pack("<f", 12.0) + bytes([0b01])
    _, state = codec.encode_with(value, context(codec, torch.zeros(8), (0,)).row(0))
    assert state["residual"].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 0.0, 0.0]


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    assert (
        fl.BFloat16().encode(torch.tensor([1.0, -2.5]))
        == struct.pack("<2f", 1.0, -2.5)[2:4] + struct.pack("<f", -2.5)[2:]
    )
    assert sent(fl.BFloat16(), torch.tensor([1e38])).isfinite().all()
    assert fl.Float16().download is fl.BFloat16().download is None
    assert fl.Float16(down=True).download == fl.Float16(down=True)


def test_a_codec_of_downloads_that_changes_a_value_again_is_refused() -> None:
    class Shrinks(fl.Float16):
        name = "shrinks"

        def transmit(self, stacked: torch.Tensor) -> torch.Tensor:
            return stacked * 0.5

    from tests.engines.cases import run

    with pytest.raises(fl.ConfigError, match=r"'shrinks', which changes the tensor 0\.weight again"):
        run("loop", codec=fl.Directions(fl.Float32(), Shrinks(down=True)))


def test_nested_codecs_in_an_experiment() -> None:
    given = ['codec={name="chain",parts=[{name="top-k",share=0.1},{name="differences",bits=2}]}']
    experiment = resolve(read("digits", given))
    assert experiment.codec == fl.Chain((fl.TopK(0.1), fl.Differences(2)))
    assert resolve(experiment.to_json()) == experiment
    given = ["codec.name=directions", "codec.up={name='differences',bits=2}", "codec.down={name='float16'}"]
    experiment = resolve(read("digits", given))
    assert experiment.codec == fl.Directions(fl.Differences(2), fl.Float16())
    assert resolve(experiment.to_json()) == experiment


def test_a_run_folder_of_float16_has_the_name_that_it_had() -> None:
    """`down` came later: it is left out where it has its default, so digests of older settings stay."""
    assert resolve(read("digits", ["codec.name=float16"])).to_json()["codec"] == {"name": "float16"}
    assert resolve(read("digits", ["codec.name=float16", "codec.down=true"])).to_json()["codec"] == {
        "name": "float16",
        "down": True,
    }


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fl.TopK(0.0), "TopK: share is 0.0, expected a number above 0 and up to 1"),
        (lambda: fl.RandomK(1.5), "RandomK: share is 1.5, expected a number above 0 and up to 1"),
        (lambda: fl.PowerSGD(0), "PowerSGD: rank is 0, expected 1 or more"),
        (
            lambda: fl.QSGD(2),
            "QSGD: bits is 2, expected 4 or 8, because stochastic rounding in fewer bits made runs diverge",
        ),
        (lambda: fl.Chain((fl.Differences(2),)), "parts is 'differences', expected 'top-k' or 'random-k'"),
        (lambda: fl.Chain((fl.Differences(2), fl.TopK())), "parts is 'differences', 'top-k', expected"),
        (lambda: fl.Chain((fl.TopK(), fl.Float16())), "parts is 'top-k', 'float16', expected"),
        (lambda: fl.Chain(({"name": "top-q"}, fl.Sign())), "codec.parts: the codec is 'top-q'; did you mean 'top-k'"),
        (lambda: fl.Directions({"name": "sign", "bits": 1}, fl.Sign()), "codec.up: codec 'sign' has no setting 'bits'"),
        (lambda: fl.Directions(3, fl.Sign()), "codec.up is 3, expected a table such as"),
    ],
)
def test_settings_that_cannot_work_are_refused(make: Any, words: str) -> None:  # noqa: ANN401
    with pytest.raises(fl.ConfigError) as caught:
        make()
    assert words in str(caught.value)


def test_an_address_is_its_own() -> None:
    base = Address(0, "up", 1, 2, "w")
    others = [replace(base, seed=1), replace(base, direction="down"), replace(base, round_index=2)]
    keys = {each.key for each in [base, *others, replace(base, client=3), replace(base, tensor="v")]}
    assert len(keys) == 6
    assert CohortContext(None, {}, base, (2, 5)).row(1).address == replace(base, client=5)
    assert TensorSpec("w", (3,), torch.float32, trainable=True).size == 3
