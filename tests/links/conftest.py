"""One small comparison that the tests read back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlama.analysis.study import run_study
from fedlama.experiment import read, resolve
from fedlama.runs.execute import Finished, RunOptions

SMALL = ("partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=2", "local_steps=12")


@pytest.fixture(scope="package")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Finished]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    study = run_study(resolve(read("digits", SMALL)), options=RunOptions(tmp_path_factory.mktemp("runs")))
    torch.set_num_threads(threads)
    return study.finished


@pytest.fixture
def folder(finished: list[Finished]) -> Path:
    """The run folder of FedLAMA."""
    return Path(str(finished[-1].summary["run_folder"]))
