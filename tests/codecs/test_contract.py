"""What holds for every codec: lengths, and encoding, decoding and transmitting agree bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlama import DataError, Float32
from fedlama.choices.codecs import Codec, codec_of, download_codec, full_codec
from fedlama.core.layers import TensorSpec
from tests.codecs.cases import CODECS, DTYPES, SHAPES, WITH_FEEDBACK, context, made, spec_of

CLIENTS = (4, 7, 9)


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_transmitting_a_cohort_is_encoding_and_decoding_every_client(
    codec: Codec, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    values = torch.stack([made(shape, dtype, seed) for seed in range(3)])
    known = context(codec, made(shape, dtype, 9), CLIENTS)
    before = values.clone()
    for _ in range(2):  # the second time with a state that is not zero
        received, state = codec.transmit_with(values, known)
        assert (received.dtype, received.shape) == (values.dtype, values.shape)
        assert state.keys() == known.state.keys()
        for row, value in enumerate(values):
            data, own = codec.encode_with(value, known.row(row))
            assert len(data) == codec.payload_bytes(spec_of(value))
            decoded = codec.decode_with(data, spec_of(value), replace(known.row(row), state={}))
            assert (decoded.dtype, decoded.shape) == (dtype, shape)
            assert torch.equal(decoded, received[row])
            assert all(torch.equal(own[name], state[name][row]) for name in state)
        known = replace(known, state=state)
    assert torch.equal(values, before)


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_payload_of_the_wrong_length_is_refused(codec: Codec) -> None:
    value = made((3, 4), torch.float32)
    data, _ = codec.encode_with(value, context(codec, value, (0,)).row(0))
    for wrong in (data[:-1], data + b"\x00", b""):
        with pytest.raises(DataError, match=r"'w' of shape \(3, 4\) takes \d+ bytes"):
            codec.decode_with(wrong, spec_of(value), context(codec, value, (0,)).row(0))


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_any_bytes_of_the_right_length_are_read(codec: Codec) -> None:
    spec = TensorSpec("w", (700, 3), torch.float32, trainable=True)
    data = bytes((11 * index) % 256 for index in range(codec.payload_bytes(spec)))
    known = replace(context(codec, torch.zeros(spec.shape), (0,)).row(0), state={})
    assert codec.decode_with(data, spec, known).shape == spec.shape


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_does_not_arrive_as_one_that_is(codec: Codec, wrong: float) -> None:
    value = made((40, 30), torch.float32)
    value[3, 2] = wrong
    received, _ = codec.transmit_with(value.unsqueeze(0), context(codec, torch.zeros(40, 30), (0,)))
    assert not torch.isfinite(received).all()


@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_nothing_to_send_arrives_as_nothing(codec: Codec) -> None:
    value = made((40, 30), torch.float32) if codec.uses_reference else torch.zeros(40, 30)
    received, state = codec.transmit_with(value.unsqueeze(0), context(codec, value, (0,)))
    assert torch.equal(received[0], value)
    assert not any(kept.any() for name, kept in state.items() if name == "residual")


@pytest.mark.parametrize("codec", WITH_FEEDBACK, ids=repr)
def test_feedback_delivers_what_rounding_left_out(codec: Codec) -> None:
    """The sum of what arrives is the sum of what was sent, up to one residual that does not grow."""
    known, total = context(codec, torch.zeros(600), (0,)), torch.zeros(600, dtype=torch.float64)
    draw, worst = torch.Generator().manual_seed(3), 0.0
    for index in range(300):
        known = replace(known, address=replace(known.address, round_index=index))
        value = torch.randn(1, 600, generator=draw) + 0.1
        received, state = codec.transmit_with(value, known)
        total += (value - received)[0].double()
        torch.testing.assert_close(total.float(), state["residual"][0], atol=1e-3, rtol=0)
        worst = max(worst, float(state["residual"].norm() / 600**0.5))
        known = replace(known, state=state)
    assert worst < 8.0  # 300 rounds without feedback would leave up to 30


def test_who_is_in_sync_gets_changes_and_others_get_values() -> None:
    for codec in CODECS:
        down = download_codec(codec)
        assert full_codec(codec) == (Float32() if down.needs_context else down)
    statistics = TensorSpec("running_var", (8,), torch.float32, trainable=False)
    assert codec_of(statistics, CODECS[0]) == Float32()
