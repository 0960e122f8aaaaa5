"""Randomness by address: pure, independent of shape and order, uniform, and apart from the user's generators."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fedlama import SGD, ClientData, FedAvg, Federation, FedLAMA, FedLUAR, Run, TensorClients, UniformSampler
from fedlama.choices.strategies import Strategy
from fedlama.core.randomness import address, generator, permutation, seed_of
from tests.core.helpers import CLASSES, FEATURES, Normed, assert_same_run, skewed_clients

SEEDS = st.integers(-(2**63), 2**63 - 1)
PLACES = st.integers(0, 10**6)


@given(SEEDS, st.text(max_size=8), PLACES, PLACES)
def test_an_address_is_a_pure_function(seed: int, purpose: str, first: int, second: int) -> None:
    one = address(seed, purpose, first, second)
    assert one.dtype == np.uint64
    assert one.shape == (1,)
    assert one == address(seed, purpose, first, second)
    assert int(one[0]) >> 1 == seed_of(seed, purpose, first, second)


@given(SEEDS, st.lists(PLACES, min_size=1, max_size=6), st.lists(PLACES, min_size=1, max_size=4))
def test_an_address_does_not_depend_on_the_shape_it_is_asked_in(seed: int, rows: list[int], columns: list[int]) -> None:
    table = address(seed, "x", np.array(rows)[:, None], np.array(columns))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            assert table[i, j] == address(seed, "x", row, column)[0]


def test_every_part_of_an_address_counts() -> None:
    seen = {
        int(address(seed, purpose, *where)[0])
        for seed in range(4)
        for purpose in ("a", "b")
        for where in ((), (0,), (1,), (0, 0), (0, 1), (1, 0))
    }
    assert len(seen) == 4 * 2 * 6


def test_literal_values() -> None:
    # So that a run of today can be repeated by the library of tomorrow.
    assert int(address(0, "shuffle", 1)[0]) == LITERAL_ADDRESS
    assert permutation(7, "cohort", 6, 2).tolist() == LITERAL_PERMUTATION
    assert address(5, "augment", [[1], [2]], 3, [0, 1]).tolist() == LITERAL_TABLE


LITERAL_ADDRESS = 7811988723588621195
LITERAL_PERMUTATION = [2, 4, 3, 1, 5, 0]
LITERAL_TABLE = [[6276450676781721455, 147762195930414747], [2375102255738653056, 17131162049113690349]]


def test_bits_are_balanced() -> None:
    bits = address(3, "bits", np.arange(4096))
    for shift in range(64):
        ones = int(((bits >> np.uint64(shift)) & np.uint64(1)).sum())
        assert abs(ones - 2048) < 5 * 32  # five standard deviations


@pytest.mark.parametrize("size", [1, 2, 3, 10, 100])
def test_permutations_are_permutations(size: int) -> None:
    for where in range(5):
        assert sorted(permutation(0, "p", size, where)) == list(range(size))


def test_permutations_are_uniform() -> None:
    draws = 6000
    seen = Counter(tuple(permutation(11, "p", 3, where)) for where in range(draws))
    assert len(seen) == 6
    chi = sum((count - draws / 6) ** 2 / (draws / 6) for count in seen.values())
    assert chi < 20.5  # the 99.9 % point with 5 degrees of freedom


def test_generators_belong_to_their_address() -> None:
    assert generator(1, "a", 2).random() == generator(1, "a", 2).random()
    assert len({float(generator(1, "a", e).random()) for e in range(50)}) == 50


# Runs


class Dropping(Normed):
    """A network that draws from torch's generator as it trains."""

    def forward(self, x: Tensor) -> Tensor:
        """Drop half of the features."""
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


def noisy(seed: int = 0, **changes: object) -> Federation:
    """A run in which everything that can be random is."""
    settings: dict[str, Any] = {
        "strategy": FedLAMA(2, 2),
        "local_steps": 16,
        "solver": SGD(0.1, momentum=0.9),
        "sampler": UniformSampler(2),
        "keep_client_models": True,
    } | changes
    return Federation(Dropping(), skewed_clients(), seed=seed, **settings)


def test_the_same_seed_gives_the_same_bits() -> None:
    assert_same_run(noisy(5).run(), noisy(5).run())


@pytest.mark.parametrize("strategy", [FedAvg(2), FedLAMA(2, 2), FedLUAR(2, 1)], ids=lambda strategy: strategy.name)
def test_other_seeds_give_other_runs(strategy: Strategy[Any]) -> None:
    losses = {tuple(record.loss for record in noisy(seed, strategy=strategy).run().rounds) for seed in range(4)}
    assert len(losses) == 4


def test_dropout_differs_between_clients_and_rounds_and_repeats_with_the_seed() -> None:
    # All samples of all clients are equal, so only dropout can make clients differ.
    clients = [ClientData(torch.ones(10, FEATURES), torch.zeros(10, dtype=torch.int64), 10)] * 2  # halves are exact
    federation = Federation(Dropping(), clients, FedAvg(1), 2, solver=SGD(0.0), keep_client_models=True)
    first, second = (record.layers["norm.weight"] for record in federation.run().rounds)
    assert first.discrepancy == second.discrepancy == 0.0  # with a rate of zero only the statistics move
    moving = replace(federation, solver=SGD(0.1)).run()
    assert moving.rounds[0].layers["second.weight"].discrepancy != 0.0
    assert moving.rounds[0].layers == replace(federation, solver=SGD(0.1)).run().rounds[0].layers
    losses = [record.loss for record in federation.run().rounds]
    assert losses[0] != losses[1]


def test_the_users_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    noisy().run()
    noisy(strategy=FedLUAR(2, 1)).run()
    assert torch.equal(before[0], torch.get_rng_state())
    after = np.random.get_state()
    assert before[1][0] == after[0]
    np.testing.assert_array_equal(before[1][1], after[1])
    assert before[1][2:] == after[2:]
    assert before[2] == random.getstate()


def test_the_users_generators_do_not_reach_the_run() -> None:
    torch.manual_seed(1)
    first = noisy().run()
    torch.manual_seed(2)
    assert_same_run(first, noisy().run())


def test_stepping_by_hand_is_the_same_run() -> None:
    run = Run(noisy())
    records = [run.advance() for _ in range(8)]
    whole = noisy().run()
    assert [record.loss for record in records] == [record.loss for record in whole.rounds]
    for name, value in run.global_model().items():
        assert torch.equal(value, whole.model[name])


# Batches


def clients_of(sizes: list[int], batch_size: int) -> TensorClients:
    """Clients whose rows are numbered through."""
    total = sum(sizes)
    ends = np.cumsum([0, *sizes])
    rows = [np.arange(start, end) for start, end in pairwise(ends)]
    x = torch.arange(total, dtype=torch.float32).reshape(total, 1)
    return TensorClients(x, torch.zeros(total, dtype=torch.int64), rows, batch_size, short_clients=True)


@given(st.integers(1, 25), st.integers(1, 10), SEEDS)
def test_an_epoch_covers_every_sample_once(samples: int, batch_size: int, seed: int) -> None:
    clients = clients_of([3, samples], batch_size)
    steps = clients.batches_per_epoch(1)
    for epoch in range(3):
        batches = [clients.batch(1, epoch * steps + step, seed)[0] for step in range(steps)]
        assert sorted(int(value) for x in batches for value in x) == list(range(3, 3 + samples))
        # Batches never cross an epoch: all are full but the last.
        assert [len(x) for x in batches[:-1]] == [batch_size] * (steps - 1)
        assert len(batches[-1]) == samples - batch_size * (steps - 1)


def test_epochs_clients_and_seeds_are_shuffled_apart() -> None:
    clients = clients_of([8, 8], 8)
    orders = {
        tuple(int(value) % 8 for value in clients.batch(client, epoch, seed)[0])
        for client in range(2)
        for epoch in range(5)
        for seed in range(5)
    }
    assert len(orders) == 50


def test_a_batch_does_not_depend_on_what_was_asked_before() -> None:
    straight, jumping = clients_of([10, 7], 3), clients_of([10, 7], 3)
    wanted = {step: straight.batch(0, step, 1)[0] for step in range(12)}
    for step in (11, 3, 4, 0, 8):
        jumping.batch(1, step, 1)
        assert torch.equal(jumping.batch(0, step, 1)[0], wanted[step])


class Watched:
    """A source that remembers what was asked for."""

    def __init__(self, inner: TensorClients) -> None:
        self.inner = inner
        self.asked: dict[int, list[int]] = {client: [] for client in range(len(inner))}

    def __len__(self) -> int:
        """Number of clients."""
        return len(self.inner)

    def samples(self, client: int) -> int:
        """Number of samples."""
        return self.inner.samples(client)

    def batch(self, client: int, step: int, seed: int) -> tuple[Tensor, Tensor]:
        """Note and pass on."""
        self.asked[client].append(step)
        return self.inner.batch(client, step, seed)


def test_an_inactive_client_goes_on_where_it_stopped() -> None:
    generator_ = torch.Generator().manual_seed(0)
    x = torch.randn(40, FEATURES, generator=generator_)
    y = torch.randint(CLASSES, (40,), generator=generator_)
    source = Watched(TensorClients(x, y, [np.arange(10 * c, 10 * c + 10) for c in range(4)], 5))
    result = Federation(Normed(), source, FedAvg(3), 24, sampler=UniformSampler(2), solver=SGD(0.1)).run()
    for client, steps in source.asked.items():
        turns = sum(client in record.cohort for record in result.rounds)
        assert steps == list(range(3 * turns))
    assert len({record.cohort for record in result.rounds}) > 2


def test_augmentation_is_keyed_by_client_step_and_place() -> None:
    keys: list[np.ndarray] = []

    def note(x: Tensor, key: np.ndarray) -> Tensor:
        keys.append(key)
        return x

    x, y = torch.zeros(8, 1), torch.zeros(8, dtype=torch.int64)
    clients = TensorClients(x, y, [np.arange(4), np.arange(4, 8)], 4, augment=note)
    for client in range(2):
        for step in range(3):
            clients.batch(client, step, 0)
    assert all(key.shape == (4,) for key in keys)
    assert len({int(value) for key in keys for value in key}) == 24
    clients.batch(1, 2, 0)
    np.testing.assert_array_equal(keys[-1], keys[-2])
