"""The parts of secure aggregation by themselves: secret sharing, keys and masks, numbers in fixed point."""

from __future__ import annotations

from contextlib import suppress
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography", reason="comes with Flower")

from fedlama import ConfigError, FedlamaError
from fedlama.core.layers import Layer, TensorSpec, by_module
from fedlama.errors import DataError
from fedlama.flower.client.secrets import Secrets, agree, secrets_path
from fedlama.flower.protocol import SecureRequest
from fedlama.flower.secure import masks
from fedlama.flower.secure.agreement import SecureRules, content_of, enveloped, parts
from fedlama.flower.secure.fixed_point import (
    FixedPoint,
    mean_of,
    number_of,
    scalar_of,
    squared_change,
    total,
    weighted_change,
)
from fedlama.flower.secure.shamir import PRIME, combine, split


@settings(max_examples=60, deadline=None)
@given(
    secret=st.binary(min_size=32, max_size=32),
    points=st.sets(st.integers(1, 10_000), min_size=1, max_size=8),
    data=st.data(),
)
def test_any_t_shares_give_the_secret_and_fewer_do_not(secret: bytes, points: set[int], data: st.DataObject) -> None:
    ordered = sorted(points)
    threshold = data.draw(st.integers(1, len(ordered)))
    shares = dict(zip(ordered, split(secret, ordered, threshold), strict=True))
    for chosen in combinations(ordered, threshold):
        assert combine({point: shares[point] for point in chosen}) == secret
    assert combine(shares) == secret
    if threshold > 1:  # a polynomial of another constant term goes through any t - 1 points
        few = {point: shares[point] for point in ordered[: threshold - 1]}
        with suppress(DataError):
            assert combine(few) != secret


def test_the_modulus_is_a_prime_above_every_secret() -> None:
    """Miller and Rabin's test with the first 40 primes as bases."""
    assert PRIME > 2**256
    odd, twos = PRIME - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    primes = [n for n in range(2, 174) if all(n % d for d in range(2, n))]
    assert len(primes) == 40
    for base in primes:
        powers = [pow(base, odd << k, PRIME) for k in range(twos)]
        assert powers[0] == 1 or PRIME - 1 in powers


def test_fewer_shares_than_t_are_equally_likely_whatever_the_secret() -> None:
    """The first byte of a single share takes every value for either secret."""
    for secret in (bytes(32), bytes([255] * 32)):
        first = [split(secret, [1, 2, 3], 2)[0][1] for _ in range(2000)]
        assert len(set(first)) > 250
        assert abs(np.mean(first) - 127.5) < 8


def test_two_clients_have_one_key_and_others_another() -> None:
    a, b, c = (masks.new_secret() for _ in range(3))
    key = masks.shared_key(a, masks.public_key(b), "x", "mask of round 3")
    assert key == masks.shared_key(b, masks.public_key(a), "x", "mask of round 3")
    for other in (
        masks.shared_key(a, masks.public_key(b), "x", "mask of round 4"),
        masks.shared_key(a, masks.public_key(b), "y", "mask of round 3"),
        masks.shared_key(a, masks.public_key(c), "x", "mask of round 3"),
    ):
        assert other != key
    with pytest.raises(DataError, match="a public key is not valid"):
        masks.shared_key(a, bytes(32), "x", "mask")


def test_masks_are_those_of_the_standard() -> None:
    """AES-256 in counter mode: the key and the first block of NIST SP 800-38A, F.1.5, as another counter's output."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    counter = (7).to_bytes(4, "little") + bytes(12)
    expected = block.update(counter) + block.update(counter[:-1] + b"\x01")
    mask = masks.mask(key, 7, 2)
    assert mask.words.astype("<u8").tobytes() == expected[:16]
    assert mask.scalar == int.from_bytes(expected[16:], "little")


def test_sealed_shares_are_for_one_client_alone() -> None:
    key = masks.new_secret()
    data = masks.sealed(key, b"shares", "from 1 to 2")
    assert masks.opened(key, data, "from 1 to 2") == b"shares"
    for wrong_key, wrong, address in (
        (key, data, "from 1 to 3"),
        (key, data[:-1] + bytes([data[-1] ^ 1]), "from 1 to 2"),
        (masks.new_secret(), data, "from 1 to 2"),
    ):
        with pytest.raises(DataError, match="changed on the way"):
            masks.opened(wrong_key, wrong, address)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(3, 6), size=st.integers(0, 50), rounds=st.integers(1, 3), data=st.data())
def test_masks_of_all_clients_cancel_to_their_own(count: int, size: int, rounds: int, data: st.DataObject) -> None:
    clients = sorted(data.draw(st.sets(st.integers(0, 500), min_size=count, max_size=count)))
    round_index = data.draw(st.integers(5, 4 + rounds))
    secrets = agreed(clients, rounds)
    random = np.random.default_rng(size)
    numbers = {c: FixedPoint(random.integers(0, 2**64, size, np.uint64), c) for c in clients}
    uploads = {c: secrets[c].masked(round_index, {9: numbers[c]})[9] for c in clients}
    summed = total(uploads.values())
    for each in secrets.values():
        seed = each.seeds[round_index - 5]
        summed -= masks.mask(masks.derived(seed, "name", f"own mask of round {round_index}"), 9, size)
    expected = total(numbers.values())
    assert np.array_equal(summed.words, expected.words)
    assert summed.scalar == expected.scalar
    if size > 20:
        assert not any(np.array_equal(uploads[c].words, numbers[c].words) for c in clients)


def agreed(clients: list[int], rounds: int = 1, threshold: int = 0) -> dict[int, Secrets]:
    """Clients after the stages "keys" and "shares" of an agreement for rounds from 5 on."""
    secrets = {c: Secrets.new(SecureRequest("name", "keys", 5, c, b"", rounds=rounds)) for c in clients}
    publics = enveloped(5, 0, b"".join(each.keys for each in secrets.values()))
    needed = threshold or len(clients) // 2 + 1
    sealed = {}
    for client, each in secrets.items():
        request = SecureRequest("name", "shares", 5, client, publics, tuple(clients), rounds, needed)
        others = [other for other in clients if other != client]
        data = each.share(request)
        sealed[client] = parts(data, len(data) // len(others), others)
    for client, each in secrets.items():
        each.receive(clients, enveloped(5, client, b"".join(sealed[o][client] for o in clients if o != client)))
    return secrets


def unmask(client: int, members: list[int], survivors: list[int], round_index: int = 5) -> SecureRequest:
    return SecureRequest("name", "unmask", round_index, client, b"", tuple(members), 1, 2, survivors=tuple(survivors))


def test_a_client_masks_once_and_unmasks_once() -> None:
    """A second vector under the same masks, or a second set of survivors, would reveal single clients."""
    members = [0, 1, 2]
    client = agreed(members)[0]
    first = {0: FixedPoint(np.array([5], np.uint64), 0)}
    again = client.masked(5, first)
    assert np.array_equal(client.masked(5, first)[0].words, again[0].words)
    with pytest.raises(DataError, match="have masked another upload"):
        client.masked(5, {0: FixedPoint(np.array([6], np.uint64), 0)})
    answer = client.unmask(unmask(0, members, [0, 1]))
    assert client.unmask(unmask(0, members, [0, 1])) == answer
    with pytest.raises(DataError, match="other uploads of this round already"):
        client.unmask(unmask(0, members, [0, 1, 2]))


@pytest.mark.parametrize(
    ("members", "survivors", "says"),
    [
        ([0, 1, 2], [0], "expected 2 or more of the agreement"),
        ([0, 1, 2], [1, 2], "with this one"),
        ([0, 1, 2], [0, 7], "with this one"),
        ([0, 1, 2], [0, 0], "with this one"),
        ([0, 1], [0, 1], "no keys of the agreement"),
    ],
)
def test_a_client_helps_only_with_sums_over_enough_clients(members: list[int], survivors: list[int], says: str) -> None:
    client = agreed([0, 1, 2])[0]
    client.masked(5, {0: FixedPoint(np.array([5], np.uint64), 0)})
    with pytest.raises(DataError, match=says):
        client.unmask(unmask(0, members, survivors))


@pytest.mark.parametrize(
    ("members", "threshold", "says"),
    [
        ((0, 1), 2, "3 or more different ones"),
        ((0, 1, 1), 2, "3 or more different ones"),
        ((1, 2, 3), 2, "with this one"),
        ((0, 1, 2, 3), 2, "more than half"),
        ((0, 1, 2), 4, "more than half"),
        ((0, 1, 2), 2, "other public keys for this client"),
    ],
)
def test_a_client_shares_its_secrets_only_with_enough_others(
    members: tuple[int, ...], threshold: int, says: str
) -> None:
    secrets = Secrets.new(SecureRequest("name", "keys", 5, 0, b"", rounds=1))
    publics = enveloped(5, 0, Secrets.new(SecureRequest("name", "keys", 5, 0, b"", rounds=1)).keys * len(members))
    with pytest.raises(DataError, match=says):
        secrets.share(SecureRequest("name", "shares", 5, 0, publics, members, 1, threshold))


def test_answers_are_the_same_when_a_request_comes_again(tmp_path: Path) -> None:
    """A second sharing of the same secrets, sealed by the same keys, would reveal them; so would a file for others."""
    path = tmp_path / "client-0.safetensors"
    keys = SecureRequest("name", "keys", 5, 0, enveloped(5, 0, b""), rounds=2)
    first = agree(keys, path)
    assert agree(keys, path) == first
    assert secrets_path(path).stat().st_mode & 0o777 == 0o600
    others = [Secrets.new(SecureRequest("name", "keys", 5, client, b"", rounds=2)).keys for client in (1, 2)]
    publics = enveloped(5, 0, content_of(first.payload) + b"".join(others))
    shares = SecureRequest("name", "shares", 5, 0, publics, (0, 1, 2), 2, 2)
    sent = agree(shares, path)
    assert sent.payload
    assert agree(shares, path) == sent
    swapped = SecureRequest("name", "shares", 5, 0, publics, (0, 2, 1), 2, 2)
    assert "shared among other clients" in agree(swapped, path).detail
    secrets_path(path).write_text("{}")
    assert "lost them" in agree(shares, path).detail


def test_the_threshold_is_more_than_half() -> None:
    assert [SecureRules(threshold=0.51).needed(n) for n in (3, 4, 5, 6, 100)] == [2, 3, 3, 4, 51]
    assert SecureRules(threshold=1.0).needed(7) == 7
    for wrong in (0.5, 0, 1.1, "half"):
        with pytest.raises(ConfigError, match=r"secure-threshold is .*, expected more than 0.5 and at most 1"):
            SecureRules(threshold=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="rounds is 65, expected at most 64"):
        SecureRules(rounds=65)


LAYER = Layer(
    "all",
    (
        TensorSpec("weight", (2, 3), torch.float32, True),
        TensorSpec("filter", (2,), torch.complex64, True),
        TensorSpec("count", (), torch.int64, False),
        TensorSpec("mask", (3,), torch.float32, False),
        TensorSpec("flag", (2,), torch.bool, False),
    ),
    True,
)


def test_every_kind_of_tensor_is_averaged() -> None:
    """Literal numbers: 0.25 and 0.75 of two clients, of which the mean is known."""
    reference = {
        "weight": torch.full((2, 3), 1.0),
        "filter": torch.tensor([1 + 1j, 0j]),
        "count": torch.tensor(10),
        "mask": torch.tensor([0.0, -torch.inf, torch.inf]),
        "flag": torch.tensor([True, False]),
    }
    first = {**reference, "weight": torch.full((2, 3), 5.0), "filter": torch.tensor([1 + 1j, 4 - 8j])}
    second = {
        **reference,
        "weight": torch.full((2, 3), 1.0),
        "count": torch.tensor(14),
        "flag": torch.tensor([True] * 2),
    }
    squares = [squared_change(LAYER, each, reference) for each in (first, second)]
    assert squares == [6 * 16 + 80, 0]
    q = [weighted_change(LAYER, *each) for each in ((first, reference, 0.25, 176.0), (second, reference, 0.75))]
    mean, square = mean_of(LAYER, total(q), [0.25, 0.75], reference)
    assert torch.equal(mean["weight"], torch.full((2, 3), 2.0))
    assert torch.equal(mean["filter"], torch.tensor([1 + 1j, 1 - 2j]))
    assert mean["count"] == 13
    assert torch.equal(mean["mask"], reference["mask"])
    assert mean["flag"].tolist() == [True, True]
    assert square == 44.0
    alone, _ = mean_of(LAYER, q[0], [0.25], reference)  # the other one vanished
    assert torch.equal(alone["weight"], first["weight"])
    assert FixedPoint.from_bytes(q[0].to_bytes()).words.tolist() == q[0].words.tolist()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), spread=st.sampled_from([1e-6, 1e-2, 1.0, 1e4]), count=st.integers(1, 20))
def test_sums_in_fixed_point_are_the_mean_to_the_rounding_of_float32(seed: int, spread: float, count: int) -> None:
    torch.manual_seed(seed)
    (layer,) = by_module(torch.nn.Linear(5, 4))
    reference = {spec.name: torch.randn(spec.shape) for spec in layer.tensors}
    models = [{n: r + spread * torch.randn(r.shape) for n, r in reference.items()} for _ in range(count)]
    weights = torch.rand(count, dtype=torch.float64).add(0.1)
    shares: list[float] = (weights / weights.sum()).tolist()
    q = total(weighted_change(layer, m, reference, w) for m, w in zip(models, shares, strict=True))
    mean, _ = mean_of(layer, q, shares, reference)
    for name in reference:
        exact = sum(w * m[name].double() for w, m in zip(shares, models, strict=True))
        torch.testing.assert_close(mean[name].double(), exact, rtol=1.2e-7, atol=1e-11)


def test_what_does_not_fit_is_refused() -> None:
    (layer,) = by_module(torch.nn.Linear(1, 1))
    reference = {spec.name: torch.zeros(spec.shape) for spec in layer.tensors}
    for wrong in (float("nan"), float("inf"), 5e6):
        values = {name: torch.full_like(value, wrong) for name, value in reference.items()}
        with pytest.raises(FedlamaError, match="NaN, infinity or changes beyond"):
            weighted_change(layer, values, reference, 0.5)
    for wrong in (float("nan"), 1e15):
        with pytest.raises(DataError, match="expected a finite number"):
            scalar_of(wrong, "the loss")
    assert [number_of(scalar_of(x, "x")) for x in (0.1, -3.5, 1e-20)] == [0.1, -3.5, pytest.approx(1e-20, rel=1e-3)]
