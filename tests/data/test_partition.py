"""Every partition deals each row once, depends on the seed alone, and leaves no client empty."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fedlama.data.partition import describe, dirichlet, iid, natural, shards
from fedlama.data.partition.base import Partition
from fedlama.errors import ConfigError, DataError

LABELS = st.lists(st.integers(0, 4), min_size=40, max_size=120).map(np.array)
Maker = Callable[[NDArray[np.int64], int, int], Partition]

MAKERS: dict[str, Maker] = {
    "iid": iid,
    "dirichlet": lambda labels, clients, seed: dirichlet(labels, clients, seed, alpha=1.0, min_size=1),
    "dirichlet without balancing": lambda labels, clients, seed: dirichlet(
        labels, clients, seed, alpha=5.0, min_size=1, balancing=False
    ),
    "shards": shards,
    "natural, merged": lambda labels, clients, seed: natural(
        np.arange(len(labels)) % 11, clients, seed, surplus="merge"
    ),
}


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25, deadline=None)
@given(labels=LABELS, clients=st.integers(1, 6), seed=st.integers(0, 2**40))
def test_every_row_goes_to_exactly_one_client(name: str, labels: NDArray[np.int64], clients: int, seed: int) -> None:
    partition = MAKERS[name](labels, clients, seed)
    again = MAKERS[name](labels, clients, seed)
    assert len(partition) == clients
    assert min(len(rows) for rows in partition) >= 1
    assert sorted(np.concatenate(partition).tolist()) == list(range(len(labels)))
    for rows, same in zip(partition, again, strict=True):
        assert rows.dtype == np.int64
        assert np.array_equal(rows, same)


@pytest.mark.parametrize("name", MAKERS)
def test_another_seed_deals_otherwise(name: str) -> None:
    labels = np.arange(200) % 5
    one, two = (MAKERS[name](labels, 4, seed) for seed in (1, 2))
    assert any(not np.array_equal(a, b) for a, b in zip(one, two, strict=True))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**40), min_size=st.integers(1, 20))
def test_dirichlet_keeps_the_min_size(seed: int, min_size: int) -> None:
    labels = np.repeat(np.arange(5), 60)
    partition = dirichlet(labels, 6, seed, alpha=0.5, min_size=min_size)
    assert min(len(rows) for rows in partition) >= min_size


def test_small_alpha_means_fewer_labels_per_client() -> None:
    labels = np.repeat(np.arange(10), 500)
    skewed, even = (describe(dirichlet(labels, 20, 0, alpha=alpha), labels) for alpha in (0.1, 100.0))
    assert np.median(skewed.labels_per_client) <= 6
    assert even.labels_per_client.tolist() == [10] * 20


def test_balancing_stops_feeding_full_clients() -> None:
    # A client is closed once it holds rows / clients, so at most one further class can be dealt to it on top of that.
    labels = np.repeat(np.arange(10), 100)
    sizes = describe(dirichlet(labels, 10, 3, alpha=0.1, min_size=1), labels).sizes
    assert sizes.max() < 100 + 100


def test_impossible_settings_are_named_together_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="use fewer clients or a smaller min_size"):
        dirichlet([0, 1, 2], 2, 0, alpha=1.0, min_size=2)
    monkeypatch.setattr(sys.modules["fedlama.data.partition.dirichlet"], "ATTEMPTS", 3)
    with pytest.raises(ConfigError, match=r"larger alpha, fewer clients or a smaller min_size"):
        dirichlet(np.zeros(100, dtype=np.int64), 10, 0, alpha=0.01, min_size=9)
    with pytest.raises(ConfigError) as caught:
        dirichlet([0, 1, 2], 0, 0, alpha=-1.0, min_size=0)
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="shards_per_client is 0"):
        shards([0, 1], 1, 0, shards_per_client=0)
    with pytest.raises(ConfigError, match="3 clients"):
        iid([0, 1], 3, 0)


def test_underflowing_alpha_ends_in_an_error_not_in_nan() -> None:
    with pytest.raises(ConfigError, match="larger alpha"):
        dirichlet(np.repeat(np.arange(4), 50), 8, 0, alpha=1e-300, min_size=1)


@pytest.mark.parametrize("labels", [[], [[0, 1]], [0.5, 1.0]])
def test_labels_must_be_one_integer_per_row(labels: list[object]) -> None:
    with pytest.raises(DataError, match="labels"):
        iid(labels, 1, 0)  # type: ignore[arg-type]


def test_shards_limit_the_labels() -> None:
    labels = torch.arange(1000) % 10
    found = describe(shards(labels, 50, 0), labels)
    assert found.sizes.tolist() == [20] * 50
    assert found.labels_per_client.max() <= 2


def test_natural_keeps_groups_whole_and_counts_what_it_leaves_out() -> None:
    groups = torch.tensor([5, 9, 5, 7, 9, 9, 7, 1])
    assert [rows.tolist() for rows in natural(groups)] == [[7], [0, 2], [3, 6], [1, 4, 5]]
    kept = natural(groups, min_size=3)
    assert [rows.tolist() for rows in kept] == [[1, 4, 5]]
    assert describe(kept, groups).unused == 5
    drawn = natural(groups, 2, seed=3)
    assert len(drawn) == 2
    assert all(len(set(groups[rows].tolist())) == 1 for rows in drawn)


def test_natural_merges_whole_groups_evenly() -> None:
    groups = np.arange(70) % 7
    merged = natural(groups, 3, seed=1, surplus="merge")
    holders = [set(groups[rows].tolist()) for rows in merged]
    assert sorted(len(held) for held in holders) == [2, 2, 3]
    assert set.union(*holders) == set(range(7))


def test_natural_says_when_there_are_too_few_groups() -> None:
    with pytest.raises(ConfigError, match="only 1 of 2 groups have 2 rows or more"):
        natural([0, 0, 1, 0], 2, min_size=2)
    with pytest.raises(ConfigError, match="surplus is 'keep'"):
        natural([0, 1], surplus="keep")  # type: ignore[arg-type]


def test_description_in_literal_numbers() -> None:
    found = describe([np.array([0, 1, 2]), np.array([4])], [0, 0, 1, 1, 2])
    assert found.label_counts.tolist() == [[2, 1, 0], [0, 0, 1]]
    assert found.labels_per_client.tolist() == [2, 1]
    assert str(found) == (
        "2 clients; rows min 1, median 2, max 3; labels per client min 1, median 1.5, max 2; 1 rows unused"
    )
