"""One small comparison that the tests read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlama.experiment import read, resolve
from fedlama.runs.execute import Finished, compare

SMALL = ("partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=2", "local_steps=12")


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    runs = compare(resolve(read("digits", SMALL)), tmp_path_factory.mktemp("runs"), quiet=True)
    torch.set_num_threads(threads)
    return runs


@pytest.fixture
def folder(finished: list[Finished]) -> Path:
    """The run folder of FedLAMA."""
    return Path(str(finished[-1].summary["run_folder"]))
