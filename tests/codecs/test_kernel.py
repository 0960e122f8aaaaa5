"""The compiled loops of codecs give the bits of the plain ones, and their door refuses what does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fedlama import QSGD, BFloat16, Chain, Differences, EightBitRows, Float16, PowerSGD, RandomK, Sign, TopK
from fedlama.choices.codecs import Codec
from fedlama.choices.codecs import compiled as compiled_codecs
from fedlama.choices.codecs import random_k as random_k_codec
from fedlama.choices.codecs.difference import DifferenceCodec
from fedlama.choices.codecs.top_k import _largest
from fedlama.core.randomness import _mix_one, keyed_halves
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.kernels import (
    Chance,
    LeastHashes,
    Rounded,
    bound_of_largest,
    can_compile,
    choosing,
    keep_differences,
    largest_of,
    multiply_transposed,
    positions_of_largest,
    put_numbers,
    put_product,
    round_differences,
    round_floats,
    round_rows,
    round_stochastically,
    round_to_signs,
    take_product,
)
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


OTHERS: list[Codec] = [
    Float16(),
    BFloat16(),
    *(Differences(bits) for bits in (8, 4, 1)),
    Differences(4, feedback=False),
    QSGD(8),
    QSGD(4, "norm"),
    Sign(),
    Sign(feedback=False),
    TopK(0.01),
    TopK(0.4),
    TopK(1e-6),
    TopK(0.05, feedback=False),
    RandomK(0.05),
    RandomK(1.0),
    RandomK(1e-6, feedback=False),
    *(Chain((TopK(0.1), Differences(bits))) for bits in (8, 4, 1)),
    Chain((TopK(0.1), QSGD(4))),
    Chain((RandomK(0.1), Differences(4))),
    Chain((RandomK(0.1, feedback=False), Sign())),
    EightBitRows(),
]


def _same_bits(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    """Return whether two tensors are equal to the last bit, the sign of 0 included; any NaN is like another."""
    same = ours.view(torch.int32) == theirs.view(torch.int32)
    return bool((same | (ours.isnan() & theirs.isnan())).all())


def _awkward(elements: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a reference and the values of three clients: ties, zeros of both signs, and numbers of any size."""
    draw = torch.Generator().manual_seed(elements)
    reference = torch.randn(elements, generator=draw)
    reference[:50] = -0.0
    values = reference + 0.01 * torch.randn(3, elements, generator=draw)
    values[0] = (values[0] * 64).round() / 64  # many magnitudes are equal
    values[1, :700] = reference[:700]
    values[2] *= 10.0 ** torch.randint(-44, 6, (elements,), generator=draw)  # to beyond float16 on both sides
    values[2, 800:806] = torch.tensor([65519.99, 65520.0, 1e-40, -(2.0**-25), 3 * 2.0**-25, -0.0])
    return reference, values


@pytest.mark.parametrize("codec", OTHERS, ids=repr)
@pytest.mark.parametrize("elements", [65_536 // 2 + 1, 262_144 + 512 + 77])
@pytest.mark.parametrize("threads", [1, 2])
def test_other_codecs_have_the_same_bits_as_without_kernels(
    codec: Codec, elements: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, values = _awkward(elements)
    known = replace(context(codec, reference, (0, 1, 2)), spread=WorkerThreads(threads).map_strided)
    for _ in range(2):
        before = values.clone()
        received, state = codec.transmit_with(values, known)
        assert torch.equal(values, before)
        data, own = codec.encode_with(values[1], known.row(1))  # as a client of a deployment writes it
        with monkeypatch.context() as without:
            for module in (compiled_codecs, random_k_codec):
                without.setattr(module, "can_compile", lambda: False)
            plainly, state_plainly = codec.transmit_with(values, known)
            data_plainly, _ = codec.encode_with(values[1], known.row(1))
        assert _same_bits(received, plainly)
        assert state.keys() == state_plainly.keys()
        assert all(_same_bits(state[name], state_plainly[name]) for name in state)
        assert data == data_plainly
        assert all(_same_bits(own[name], state[name][1]) for name in state)
        assert _same_bits(codec.decode_with(data, spec_of(reference), known.row(1)), received[1])
        known = replace(known, state=state)


@pytest.mark.parametrize("codec", OTHERS, ids=repr)
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_arrives_as_without_kernels(
    codec: Codec, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, values = _awkward(40_000)
    values[1, 3] = wrong
    known = context(codec, reference, (0, 1, 2))
    received, state = codec.transmit_with(values, known)
    for module in (compiled_codecs, random_k_codec):
        monkeypatch.setattr(module, "can_compile", lambda: False)
    plainly, state_plainly = codec.transmit_with(values, known)
    assert not torch.isfinite(received[1]).all()
    assert _same_bits(received, plainly)
    assert all(_same_bits(state[name], state_plainly[name]) for name in state)


MATRICES: list[Codec] = [EightBitRows(), PowerSGD(1), PowerSGD(3), PowerSGD(2, feedback=False)]


@pytest.mark.parametrize("codec", MATRICES, ids=repr)
@pytest.mark.parametrize("shape", [(64, 700), (300, 3, 5, 7), (9000, 4), (1030, 512)])
@pytest.mark.parametrize("threads", [1, 2])
def test_matrices_have_the_same_bits_as_without_kernels(
    codec: Codec, shape: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, values = (part.view(*part.shape[:-1], *shape) for part in _awkward(math.prod(shape)))
    values[2, 1] = reference[1]
    values[2, 2] = 0.0  # a row whose step is 0
    known = replace(context(codec, reference, (0, 1, 2)), spread=WorkerThreads(threads).map_strided)
    for number in range(3):
        received, state = codec.transmit_with(values, known)
        with monkeypatch.context() as without:
            without.setattr(compiled_codecs, "can_compile", lambda: False)
            plainly, state_plainly = codec.transmit_with(values, known)
        assert _same_bits(received, plainly)
        assert state.keys() == state_plainly.keys()
        assert all(_same_bits(state[name], state_plainly[name]) for name in state)
        data, _ = codec.encode_with(values[1], known.row(1))
        assert _same_bits(codec.decode_with(data, spec_of(reference), known.row(1)), received[1])
        known = replace(known, state=state)
        if number == 1:
            values[0, 0], values[1, 1] = float("nan"), float("inf")


def _change(elements: int, kind: str) -> torch.Tensor:
    """Return differences from which a sample learns little or what is wrong."""
    draw = torch.Generator().manual_seed(elements)
    change = torch.randn(elements, generator=draw)
    sampled = torch.zeros(elements, dtype=torch.bool)
    for block in range(elements // 512):  # as the kernel hashes them
        vector = int(_mix_one(block)) % 32
        sampled[512 * block + 16 * vector : 512 * block + 16 * vector + 16] = True
    if kind == "large where it is not sampled":
        change[sampled] *= 1e-3
    elif kind == "large where it is sampled":
        change[~sampled] *= 1e-3
    elif kind == "constant":
        change[:] = -0.25
    elif kind == "sorted":
        change = change.sort().values
    elif kind == "ties":
        change = change.round()
    elif kind == "zeros":
        change[change.abs() < 3.5] = -0.0
    elif kind == "one block":
        change[elements // 512 // 2 * 512 :][:512] *= 1e6
    elif kind == "infinite":
        change[::3], change[1::3] = float("inf"), float("nan")
    elif kind == "largest":
        change[::50], change[1::50] = torch.finfo(torch.float32).max, -float("inf")
    elif kind == "tiny":
        change *= 1e-44
    return change


KINDS = (
    "large where it is not sampled", "large where it is sampled", "constant", "sorted", "ties", "zeros", "one block",
    "infinite", "largest", "tiny", "usual",
)  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
@pytest.mark.parametrize("elements", [33_000, 262_144 + 77])
def test_the_largest_numbers_are_chosen_whatever_the_sample_shows(kind: str, share: float, elements: int) -> None:
    codec, change = TopK(share), _change(elements, kind)
    values = torch.stack([change, change.flip(0)])
    known = context(codec, torch.zeros(elements), (0, 1))
    received, state = codec.transmit_with(values, known)
    for row, sent, left in zip(values, received, state["residual"], strict=True):
        chosen = _largest(row.unsqueeze(0), codec.count(spec_of(row)))[0]
        expected = torch.zeros(elements).scatter(0, chosen, row[chosen])
        assert _same_bits(sent, expected + 0.0)
        assert _same_bits(left, row + 0.0 - expected)  # the residual of 0 is added first


def test_a_bound_from_a_sample_is_near_the_wanted_number() -> None:
    draw = np.random.default_rng(0)
    change, nothing = draw.standard_normal(1_000_000).astype(np.float32), np.empty(0, np.float32)
    for count in (10, 1_000, 10_000, 300_000):
        bound = bound_of_largest(change, np.zeros_like(change), nothing, count)
        assert count <= (np.abs(change) >= bound).sum() <= 1.6 * count + 3_000
    assert bound_of_largest(change, np.zeros_like(change), nothing, 900_000) == np.inf


def test_16_bits_of_literal_numbers() -> None:
    given = [1.0, 0.1, -65519.0, 65520.0, 2.0**-24, 2.0**-25, 1.0 + 2.0**-11, 1.0 + 3 * 2.0**-11]
    half = [1.0, 0.0999755859375, -65504.0, float("inf"), 2.0**-24, 0.0, 1.0, 1.0 + 2.0**-9]
    brain = [1.0, 0.10009765625, -65536.0, 65536.0, 2.0**-24, 2.0**-25, 1.0, 1.0]
    for to_half, expected in ((True, half), (False, brain)):
        out = np.empty(8, np.float32)
        round_floats(out, np.array(given, np.float32), to_half=to_half)
        assert out.tolist() == expected


def test_every_float16_is_rounded_to_itself_and_the_numbers_between_them_to_even() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (every[:0x7C00] + every[1:0x7C01]) / 2  # halves of two neighbours, up to 65,520
    nudged = np.nextafter(between, np.float32(0.0)), np.nextafter(between, np.float32(1e9))
    for given in (every, between, *nudged):
        out = np.empty_like(given)
        round_floats(out, given, to_half=True)
        with np.errstate(over="ignore"):
            assert np.array_equal(out, given.astype(np.float16).astype(np.float32), equal_nan=True)


def test_positions_of_literal_numbers() -> None:
    numbers = np.array([1.0, -3.0, 2.0, 3.0, 0.0, -2.0, 3.0], np.float32)
    for count, expected in ((1, [1]), (2, [1, 3]), (4, [1, 2, 3, 6]), (5, [1, 2, 3, 5, 6]), (7, list(range(7)))):
        assert positions_of_largest(numbers, count).tolist() == expected
    numbers[4], numbers[5] = np.nan, -np.inf
    assert positions_of_largest(numbers, 1).tolist() == [4]
    assert positions_of_largest(numbers, 2).tolist() == [4, 5]


@pytest.mark.parametrize(("elements", "count"), [(1, 1), (513, 3), (4096, 4096), (100_000, 7), (100_000, 5_000)])
def test_least_hashes_are_those_of_a_sort(elements: int, count: int) -> None:
    hashes = LeastHashes(elements, count, range(20))
    for first in reversed(range(0, elements, 1024)):
        hashes.search(first, first + 1024)
    for key in range(20):
        expected = np.sort(np.argsort(keyed_halves(key, 4 * elements).view("<u8"))[:count])
        positions = hashes.positions(key)
        assert positions is not None
        assert np.array_equal(positions, expected)


@pytest.mark.parametrize("deviations", [-6.0, -3.0])
def test_bounds_that_miss_the_hashes_are_noticed(deviations: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "_DEVIATIONS", deviations)
    hashes = LeastHashes(100_000, 5_000, [7])
    hashes.search(0, 100_000)
    assert hashes.positions(0) is None
    codec, values = RandomK(0.05), torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    known = context(codec, torch.zeros(100_000), (0, 1))
    received, _ = codec.transmit_with(values, known)
    monkeypatch.undo()
    assert torch.equal(received, codec.transmit_with(values, known)[0])


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


FOUR, NONE, ROW = np.zeros(4, np.float32), np.empty(0, np.float32), np.zeros((1, 4), np.float32)


def _at(*positions: int) -> NDArray[np.int64]:
    return np.array(positions, np.int64)


def _taken(change: NDArray[np.float32], basis: NDArray[np.float32]) -> None:
    take_product(change, ROW[:, :1].copy(), FOUR, FOUR, NONE, basis)


def _kept(**choices: Any) -> object:  # noqa: ANN401
    return keep_differences(FOUR.copy(), FOUR.copy(), FOUR, FOUR, NONE, **choices)


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
        (lambda: round_floats(FOUR.copy(), FOUR[:3], to_half=True), r"out has shape \(4,\), expected \(3,\)"),
        (lambda: round_floats(FOUR.copy(), FOUR.astype(np.int32), to_half=True), "values has dtype int32"),  # type: ignore[arg-type]
        (lambda: round_stochastically(FOUR.copy(), FOUR, FOUR, Chance(2, False, 0)), "bits is 2, expected 4 or 8"),
        (lambda: round_stochastically(FOUR.copy(), FOUR, FOUR, Chance(4, False, 0, 9)), "first is 9, expected a mul"),
        (lambda: round_stochastically(FOUR[:2].copy(), FOUR, FOUR, Chance(4, False, 0)), r"received has shape \(2,\)"),
        (lambda: round_to_signs(FOUR.copy(), NONE, FOUR, FOUR[:3], NONE), r"reference has shape \(3,\)"),
        (lambda: round_to_signs(NONE, NONE, NONE, NONE, NONE), "values is empty, expected a column or more"),
        (lambda: round_to_signs(FOUR.copy(), FOUR[:3].copy(), FOUR, FOUR, FOUR), r"left has shape \(3,\)"),
        (lambda: keep_differences(FOUR.copy(), NONE, FOUR, FOUR, NONE), r"left has shape \(0,\), expected \(4,\)"),
        (lambda: _kept(bound=0.0), "bound is 0.0, expected a n"),
        (lambda: put_numbers(FOUR.copy(), FOUR.copy(), FOUR, _at(4), FOUR[:1]), "positions has numbers outside of 0"),
        (lambda: put_numbers(FOUR.copy(), FOUR.copy(), FOUR, _at(-1), FOUR[:1]), "positions has numbers outside of 0"),
        (
            lambda: put_numbers(FOUR.copy(), FOUR.copy(), FOUR, _at(0), FOUR),
            r"sent has shape \(4,\), expected \(1,\)",
        ),
        (lambda: bound_of_largest(FOUR, FOUR, NONE, 0), "count is 0, expected 1 to 4"),
        (lambda: largest_of(_at(0), FOUR[:1], 2), "count is 2, expected 1 to 1"),
        (lambda: positions_of_largest(FOUR, 5), "count is 5, expected 1 to 4"),
        (lambda: LeastHashes(4, 5, [0]), "count is 5, expected 1 to 4"),
        (lambda: LeastHashes(4, 2, [0]).send((ROW, ROW), (ROW, FOUR[:3], ROW), 0, 4), r"change\[1\] has shape \(3,\)"),
        (lambda: LeastHashes(4, 2, [0]).send((ROW, ROW), (ROW, FOUR, ROW), -1, 4), "first is -1, expected 0 or more"),
        (lambda: round_rows(FOUR.copy(), FOUR, 3), "rows is 3, expected a divisor of the 4 numbers"),
        (lambda: _taken(FOUR[:3].copy(), ROW), r"change has shape \(3,\), expected \(4,\)"),
        (lambda: _taken(FOUR.copy(), FOUR), r"basis has shape \(4,\), expected"),
        (lambda: multiply_transposed(ROW, FOUR[:3], ROW[:, :1]), "left and out are of a matrix of 1 x 4 numbers, exp"),
        (
            lambda: put_product(FOUR.copy(), FOUR.copy(), FOUR, (ROW, ROW)),
            r"factors\[0\] and factors\[1\] are of a matrix of 4 x 4 numbers, expected 4 in all",
        ),
        (lambda: put_product(FOUR.copy(), FOUR.copy(), FOUR, (ROW[:0], ROW[:0])), r"factors\[0\] has rank 0"),
    ],
)
def test_the_door_refuses_what_does_not_fit(call: Callable[[], None], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        call()
