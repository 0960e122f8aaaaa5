"""The differences codec: literal numbers by hand, packed bytes by hand, and its bounds."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedlama import ConfigError, Differences, EightBitRows
from fedlama.choices.codecs import Address, CodecContext, CohortContext
from fedlama.choices.codecs.packing import block_lengths, pack_codes, tree_sum, unpack_codes
from fedlama.core.layers import TensorSpec
from tests.codecs.cases import context, sent

VECTOR = torch.tensor([3.0, 0.5, -0.5, -3.0])
RMS = (18.5 / 4) ** 0.5  # 2.150581...


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    # mean |v| = 1.75; step = 1.596 * 1.75 / 0.798 = 3.5; codes: floor(0.857) = 0, 0, -1, -1, stored as 1, 1, 0, 0.
    assert sent(Differences(1), VECTOR).tolist() == [1.75, 1.75, -1.75, -1.75]
    assert Differences(1).encode(VECTOR) == struct.pack("<f", 3.5) + bytes([0b0011])


def test_two_bits() -> None:
    # step = 0.9957 * rms = 2.141334; floor(v / step) = 1, 0, -1, -2, stored as 3, 2, 1, 0; q = (code - 1.5) * step.
    step = 0.9957 * RMS
    expected = torch.tensor([1.5 * step, 0.5 * step, -0.5 * step, -1.5 * step])
    torch.testing.assert_close(sent(Differences(2), VECTOR), expected, rtol=3e-7, atol=0)
    data = Differences(2).encode(VECTOR)
    assert len(data) == 5
    assert data[4] == 0b00_01_10_11
    assert struct.unpack("<f", data[:4])[0] == pytest.approx(2.1413336)


def test_four_bits() -> None:
    # step = 0.3352 * rms = 0.720875; 3 / step = 4.16 -> 4, 0.5 / step = 0.69 -> 0, -> -1, -> -5; stored as 12, 8, 7, 3.
    step = 0.3352 * RMS
    expected = torch.tensor([4.5 * step, 0.5 * step, -0.5 * step, -4.5 * step])
    torch.testing.assert_close(sent(Differences(4), VECTOR), expected, rtol=3e-7, atol=0)
    assert Differences(4).encode(VECTOR)[4:] == bytes([12 + 16 * 8, 7 + 16 * 3])


def test_four_bits_clamp_what_is_far_out() -> None:
    # rms of (100, 0 x 99) = 10; step = 3.352; 100 / step = 29.8 -> clamped to 7; q = 7.5 * 3.352 = 25.14.
    value = torch.zeros(100)
    value[0] = 100.0
    assert sent(Differences(4), value)[0].item() == pytest.approx(25.14)
    value[0] = -100.0
    assert sent(Differences(4), value)[0].item() == pytest.approx(-25.14)


def test_eight_bits_scale_by_the_largest_magnitude() -> None:
    # step = 127 / 127 = 1: integers arrive exactly; 0.4 and -0.6 round to 0 and -1.
    value = torch.tensor([127.0, -127.0, 5.0, 0.4, -0.6, 0.0])
    assert sent(Differences(8), value).tolist() == [127.0, -127.0, 5.0, 0.0, -1.0, 0.0]
    assert Differences(8).encode(value) == struct.pack("<f", 1.0) + bytes([255, 1, 133, 128, 127, 128])


def test_each_block_of_512_has_its_own_step_and_the_last_one_counts_its_own_numbers() -> None:
    value = torch.cat([torch.full((512,), 2.0), torch.full((88,), -4.0)])
    assert sent(Differences(1), value).tolist() == value.tolist()
    data = Differences(1).encode(value)
    assert data[:8] == struct.pack("<2f", 4.0, 8.0)
    assert data[8:72] == b"\xff" * 64
    assert data[72:] == b"\x00" * 11
    assert len(data) == Differences(1).payload_bytes(TensorSpec("w", (600,), torch.float32, trainable=True)) == 83


def test_a_residual_by_hand() -> None:
    """1 bit, two uploads: v1 = (3, 1), q1 = (2, 2), e = (1, -1); v2 = x2 - r2 + e = (1, 1) + (1, -1), q2 = (1, 1)."""
    codec, spec = Differences(1), TensorSpec("w", (2,), torch.float32, trainable=True)
    address = Address(0, "up", 0, 0, "w")
    first = CodecContext(torch.tensor([10.0, 10.0]), codec.init(spec), address)
    data, state = codec.encode_with(torch.tensor([13.0, 11.0]), first)
    assert codec.decode_with(data, spec, first).tolist() == [12.0, 12.0]
    assert state["residual"].tolist() == [1.0, -1.0]
    second = CodecContext(torch.tensor([12.0, 12.0]), state, address)
    data, state = codec.encode_with(torch.tensor([13.0, 13.0]), second)
    assert codec.decode_with(data, spec, second).tolist() == [13.0, 13.0]
    assert state["residual"].tolist() == [1.0, -1.0]


@pytest.mark.parametrize(("bits", "expected"), [(1, 0.3634), (2, 0.1188), (4, 0.01154)])
def test_the_error_of_normal_numbers_is_that_of_the_best_uniform_quantiser(bits: int, expected: float) -> None:
    """Max (1960), table of uniform quantisers of 2, 4 and 16 levels."""
    value = torch.randn(512 * 400, generator=torch.Generator().manual_seed(0))
    error = (sent(Differences(bits), value) - value).square().sum() / value.square().sum()
    assert error.item() == pytest.approx(expected, rel=0.02)


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**50), 2.0**50, width=32), min_size=1, max_size=600), st.sampled_from([1, 2, 4, 8]))
def test_rounding_is_a_contraction(values: list[float], bits: int) -> None:
    """||v - Q(v)|| <= ||v||, which error feedback needs; 2 bits exceed it by 6 % where few numbers of a block count."""
    value = torch.tensor(values)
    left, before = (
        float(torch.linalg.vector_norm(part.double())) for part in (sent(Differences(bits), value) - value, value)
    )
    assert left <= before * (1.06 if bits == 2 else 1 + 1e-6)


@pytest.mark.selection
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("large", [1, 3, 100])
def test_a_residual_stays_bounded_in_the_worst_blocks(bits: int, large: int) -> None:
    """The same few numbers of a block change in every round: the residual rises to a level and stays there."""
    value, norms = torch.zeros(1, 512), []
    value[0, :large] = 1.0
    known = context(Differences(bits), torch.zeros(512), (0,))
    for _ in range(2400):
        state = Differences(bits).transmit_with(value, known)[1]
        norms.append(float(state["residual"].norm()))
        known = replace(known, state=state)
    assert norms[-1] <= max(norms[:1200]) * 1.05
    assert norms[-1] <= 260 * large**0.5


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=600))
def test_eight_bits_are_off_by_half_a_step_at_most(values: list[float]) -> None:
    value = torch.tensor(values)
    largest = value[:512].abs().max(), value[512:].abs().max() if len(value) > 512 else torch.tensor(0.0)
    apart = (sent(Differences(8), value) - value).abs()
    assert (apart[:512] <= largest[0] / 254 * (1 + 1e-5)).all()
    assert (apart[512:] <= largest[1] / 254 * (1 + 1e-5)).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_without_feedback_rounding_is_unbiased(bits: int) -> None:
    """The mean over many rounds is the value, within 5 standard errors of one step; every single one within a step."""
    codec, rounds = Differences(bits, feedback=False), 2000
    value, reference = torch.tensor([1.0, 0.3, -0.77, 0.0]), torch.tensor([0.5, 0.25, 0.5, 0.0])
    step = 1.27 / (2 ** (bits - 1) - 1)
    total = torch.zeros(4, dtype=torch.float64)
    for index in range(rounds):
        known = CohortContext(reference, {}, Address(1, "up", index, 3, "w"), (3,))
        received = codec.transmit_with(value.unsqueeze(0), known)[0][0]
        assert ((received - value).abs() < step * (1 + 1e-5)).all()
        total += received.double()
    assert ((total / rounds - value).abs() < 5 * 0.5 * step / rounds**0.5).all()
    assert received[3].item() == 0.0


def test_clients_and_tensors_round_by_their_own_random_numbers() -> None:
    codec, value = Differences(4, feedback=False), torch.rand(1, 400)
    known = context(codec, torch.zeros(400), (0, 1))
    two, _ = codec.transmit_with(value.expand(2, -1), known)
    assert not torch.equal(two[0], two[1])
    again, _ = codec.transmit_with(value.expand(2, -1), known)
    assert torch.equal(two, again)


def test_weights_in_eight_bits_by_hand() -> None:
    # A matrix with rows shorter than 16 has one scale: 254 / 127 = 2.
    value = torch.tensor([[254.0, -2.0], [5.0, 0.9]])
    assert sent(EightBitRows(), value).tolist() == [[254.0, -2.0], [4.0, 0.0]]
    assert EightBitRows().encode(value) == struct.pack("<f4b", 2.0, 127, -1, 2, 0)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(-20, 20))
def test_weights_in_eight_bits_are_sent_again_without_any_change(seed: int, size: float) -> None:
    value = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed)) * 2.0**size
    once = sent(EightBitRows(), value)
    assert torch.equal(sent(EightBitRows(), once), once)
    largest = value.abs().amax(1, keepdim=True)
    assert ((once - value).abs() <= largest / 254 * (1 + 1e-4)).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bits": 3}, "bits is 3, expected 8, 4, 2 or 1"),
        ({"bits": 0}, "bits is 0, expected 8, 4, 2 or 1"),
        ({"bits": 2, "feedback": False}, "stochastic rounding in fewer bits made runs diverge; choose 4 bits, or"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Differences(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("elements", [0, 1, 7, 8, 9, 100])
def test_codes_are_packed_and_unpacked(bits: int, elements: int) -> None:
    codes = torch.randint(0, 2**bits, (3, elements), dtype=torch.uint8)
    packed = pack_codes(codes, bits)
    assert packed.shape == (3, -(-elements * bits // 8))
    assert torch.equal(unpack_codes(packed, bits, elements), codes)


def test_a_sum_by_halves_does_not_depend_on_the_rows_beside_it() -> None:
    rows = torch.randn(5, 7, 512)
    assert torch.equal(tree_sum(rows)[3, 2], tree_sum(rows[3, 2]))
    assert tree_sum(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [[7.0]]
    assert block_lengths(600).flatten().tolist() == [512.0, 88.0]
