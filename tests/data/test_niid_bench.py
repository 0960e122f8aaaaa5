"""NIID-Bench's partitions: a published one in all its cells, and what holds for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedlama.data.partition import dirichlet, iid, niid_dirichlet, niid_labels, shards
from fedlama.errors import ConfigError, DataError

MNIST = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
"""Training rows of each digit; which rows these are makes no difference to the counts."""
PUBLISHED = [
    {4: 2, 5: 12, 6: 2847, 9: 16},
    {1: 20, 4: 189, 5: 5349},
    {0: 669, 1: 476, 2: 67, 6: 15, 7: 6068},
    {0: 266, 1: 375, 3: 3956, 7: 196, 9: 5932},
    {0: 4, 1: 418, 2: 5862},
    {1: 2, 2: 25, 4: 5195, 5: 24, 6: 80, 8: 28},
    {1: 5034, 2: 3, 4: 22, 5: 6, 6: 2669},
    {0: 4914},
    {4: 433, 5: 29, 6: 307, 8: 5373},
    {0: 70, 1: 417, 2: 1, 3: 2175, 4: 1, 5: 1, 7: 1, 8: 450, 9: 1},
]
"""FedLPA (Liu et al., NeurIPS 2024), appendix G.1: MNIST, beta 0.05, ten clients, seed 0; digit to rows."""


def labels() -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(10), MNIST))


def test_the_partition_of_fedlpa_in_all_45_cells() -> None:
    given = labels()
    parts = niid_dirichlet(given, 10, 0, beta=0.05)
    counts = [dict(zip(*map(list, np.unique(given[part], return_counts=True)), strict=True)) for part in parts]
    assert counts == PUBLISHED
    assert sum(map(len, PUBLISHED)) == 45
    assert sorted(np.concatenate(parts).tolist()) == list(range(60_000))


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_classes_of_each_client(count: int) -> None:
    given = labels()
    parts = niid_labels(given, 20, 3, labels_per_client=count)
    for client, part in enumerate(parts):
        present = set(given[part].tolist())
        assert len(present) == count
        assert client % 10 in present
    assert sorted(np.concatenate(parts).tolist()) == list(range(60_000))
    for label in range(10):  # divided evenly over its holders
        sizes = [int((given[part] == label).sum()) for part in parts]
        held = [size for size in sizes if size]
        assert max(held) - min(held) <= 1


def test_what_cannot_be_is_refused() -> None:
    given = labels()
    for call in (
        lambda: niid_labels(given, 5, 0, labels_per_client=2),
        lambda: niid_labels(given, 10, 0, labels_per_client=11),
        lambda: niid_dirichlet(given, 10, 2**32, beta=0.5),
    ):
        with pytest.raises(ConfigError, match=r"use|expected"):
            call()


@pytest.mark.parametrize("beta", [0, -1.0, float("nan"), "0.5"])
def test_a_concentration_that_cannot_be_is_refused(beta: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=r"beta is .*, expected one finite number above 0"):
        niid_dirichlet(labels(), 10, 0, beta=beta)


@pytest.mark.parametrize("count", [1.5, 2.0, "2", True, None])
def test_a_number_of_classes_that_is_not_whole_is_refused(count: Any) -> None:  # noqa: ANN401
    with pytest.raises(ConfigError, match=r"labels_per_client is .*, expected a whole number; use one such as 2"):
        niid_labels(labels(), 10, 0, labels_per_client=count)


@pytest.mark.parametrize("count", [1.5, "2", True])
def test_no_partition_takes_a_part_of_a_client_or_row(count: Any) -> None:  # noqa: ANN401
    given = labels()
    for call, setting in (
        (lambda: niid_labels(given, count, 0, labels_per_client=2), "clients"),
        (lambda: niid_dirichlet(given, count, 0, beta=0.5), "clients"),
        (lambda: niid_dirichlet(given, 10, 0, beta=0.5, min_size=count), "min_size"),
        (lambda: dirichlet(given, count, 0, alpha=0.5), "clients"),
        (lambda: dirichlet(given, 10, 0, alpha=0.5, min_size=count), "min_size"),
        (lambda: shards(given, count, 0), "clients"),
        (lambda: shards(given, 10, 0, shards_per_client=count), "shards_per_client"),
        (lambda: iid(given, count, 0), "clients"),
    ):
        with pytest.raises(ConfigError, match=rf"{setting} is .*, expected a whole number; use one such as 2"):
            call()


def test_rows_of_a_negative_label_are_not_lost() -> None:
    given = labels() - 1
    for call in (
        lambda: niid_dirichlet(given, 10, 0, beta=0.5),
        lambda: niid_labels(given, 10, 0, labels_per_client=2),
    ):
        with pytest.raises(DataError, match="the smallest label is -1, expected 0 or more"):
            call()
