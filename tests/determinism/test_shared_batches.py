"""Batches are one object for all worker threads: what one asks for must never reach another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fedlama.data.clients import TensorClients
from fedlama.engines.cohort.batches import CohortBatches

LENGTHS = (1, 2, 4, 5)
"""Each client's batch."""


@pytest.fixture
def hurried() -> Iterator[None]:
    """Let threads take turns as often as Python can."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("hurried")
def test_threads_that_share_batches_each_get_the_weights_of_their_own() -> None:
    rows = [np.arange(length) for length in LENGTHS]
    source = TensorClients(torch.zeros(5, 1), torch.zeros(5, dtype=torch.int64), rows, LENGTHS)
    batches = CohortBatches(source, torch.device("cpu"), seed=0)

    def wrong(client: int) -> int:
        expected, count = torch.full((1, 1, LENGTHS[client]), 1 / LENGTHS[client]), 0
        for batch in batches.padded([client], [0], 3000):
            count += not torch.equal(batch.sample_weights, expected)
            del batch  # the last reference: Python's lock is left while a tensor is freed
        return count

    with ThreadPoolExecutor(len(LENGTHS)) as pool:
        assert list(pool.map(wrong, range(len(LENGTHS)))) == [0] * len(LENGTHS)
