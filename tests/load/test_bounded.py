"""Memory is bounded: by the cohort and not by the population, and the files of a state leave nothing behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.load import small, watched

from fedlama.data.clients import _REMEMBERED, TensorClients
from fedlama.engines.cohort.storage import DiskStorage


def test_epochs_are_remembered_of_a_few_clients_only() -> None:
    population = 3 * _REMEMBERED
    x, y = torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)
    clients = TensorClients(x, y, [np.arange(4)] * population, 2)
    first = [clients.batch_rows(client, 0, seed=1).tolist() for client in range(population)]
    assert len(clients._epochs) == _REMEMBERED
    assert [clients.batch_rows(client, 0, seed=1).tolist() for client in range(population)] == first


@pytest.mark.skipif(os.name != "posix", reason="other systems delete no file that is in use")
def test_files_of_a_state_are_gone_when_they_are_mapped(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    tensor = storage.empty("weight", (3, 4), torch.float32)
    tensor.fill_(2.5)
    (folder,) = tmp_path.iterdir()
    assert list(folder.iterdir()) == []
    assert tensor.sum() == 30
    del storage
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert (tensor == 2.5).all()


def test_the_measurement_of_load_works() -> None:
    found = watched(small(50, 4, 3, "loop"), (1, 3))
    assert found["peak MiB"] >= found["MiB after round 3"] * 0.5
    assert found["own MiB"] > 0
