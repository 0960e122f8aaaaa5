"""The compiled rounding of differences gives the bits of the plain one, and its door refuses what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedlama import Differences
from fedlama.choices.codecs.difference import DifferenceCodec
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.kernels import Rounded, can_compile, round_differences
from tests.codecs.cases import context, spec_of

pytestmark = pytest.mark.skipif(not can_compile(), reason="the extra 'fast' is not installed")


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("elements", [70_000, 262_144, 262_144 + 512 + 77])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_as_without_kernels(bits: int, elements: int, threads: int) -> None:
    codec, draw = Differences(bits), torch.Generator().manual_seed(bits)
    reference = torch.randn(elements, generator=draw)
    values = reference + 0.01 * torch.randn(3, elements, generator=draw)
    values[1, :700] = reference[:700]  # a block of zeros
    values[2, 600] = 3e38  # whose square overflows
    known = replace(context(codec, reference, (0, 1, 2)), spread=WorkerThreads(threads).map_strided)
    for _ in range(3):
        received, state = codec.transmit_with(values, known)
        packed, plainly, state_plainly = DifferenceCodec._sent(codec, values, known)
        assert torch.equal(codec._sent(values, known)[0], packed)
        for ours, theirs in ((received, plainly), (state["residual"], state_plainly["residual"])):
            assert torch.equal(ours.isnan(), theirs.isnan())
            assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
        data, _ = codec.encode_with(values[0], known.row(0))  # as a client of a deployment writes it
        assert torch.equal(codec.decode_with(data, spec_of(reference), known.row(0)), received[0])
        known = replace(known, state=state)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_steps_and_codes_of_literal_numbers(bits: int) -> None:
    values = np.array([3.0, 0.5, -0.5, -3.0], np.float32)
    out = _out(4)
    round_differences(out, values, np.zeros(4, np.float32), np.empty(0, np.float32), bits)
    step = {1: 3.5, 2: 0.9957 * (18.5 / 4) ** 0.5, 4: 0.3352 * (18.5 / 4) ** 0.5, 8: 3 / 127}[bits]
    codes = {1: [1, 1, 0, 0], 2: [3, 2, 1, 0], 4: [12, 8, 7, 3], 8: [255, 149, 107, 1]}[bits]
    assert out.steps.tolist() == pytest.approx([step], rel=1e-6)
    assert out.codes.tolist() == codes
    assert np.array_equal(out.received + out.left, values)


@pytest.mark.parametrize("shift", [0, 1, 16])  # of the memory from a multiple of 64 bytes
@pytest.mark.parametrize("columns", [512, 1024 + 23])
def test_numbers_written_past_the_caches_are_the_same(columns: int, shift: int) -> None:
    draw = np.random.default_rng(1)
    values, reference, residual = (draw.standard_normal(columns).astype(np.float32) for _ in range(3))
    written = []
    for past_caches in (False, True):
        room = np.full((2, columns + 64), 7.0, np.float32)
        first = -room.ctypes.data // 4 % 16 + shift
        arrived, left = (row[first : first + columns] for row in room)
        out = Rounded(arrived, left, np.empty(-(-columns // 512), np.float32), np.empty(0, np.uint8))
        round_differences(out, values, reference, residual, 4, past_caches=past_caches)
        assert (room[:, :first] == 7.0).all()
        assert (room[:, first + columns :] == 7.0).all()
        written.append(np.stack([arrived, left]))
    assert np.array_equal(*written)


def _out(columns: int, codes: int = 4) -> Rounded:
    return Rounded(
        np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(1, np.float32), np.empty(codes, np.uint8)
    )


FOUR, NONE = np.zeros(4, np.float32), np.empty(0, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: round_differences(_out(4), FOUR.astype(np.float64), FOUR, NONE, 4), "values has dtype float64"),
        (lambda: round_differences(_out(4), FOUR, FOUR[:3], NONE, 4), r"reference has shape \(3,\), expected \(4,\)"),
        (lambda: round_differences(_out(4), FOUR, FOUR, FOUR[:3], 4), r"residual has shape \(3,\), expected \(4,\)"),
        (lambda: round_differences(_out(3), FOUR, FOUR, NONE, 4), r"out.received has shape \(3,\), expected \(4,\)"),
        (lambda: round_differences(_out(4, 3), FOUR, FOUR, NONE, 4), r"out.codes has shape \(3,\), expected \(4,\)"),
        (lambda: round_differences(_out(4), np.zeros(8, np.float32)[::2], FOUR, NONE, 4), "values is not contiguous"),
        (lambda: round_differences(_out(4), FOUR, FOUR, NONE, 3), "bits is 3, expected 1, 2, 4 or 8"),
    ],
)
def test_the_door_refuses_what_does_not_fit(call: Callable[[], None], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()
