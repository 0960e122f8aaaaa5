"""Two seeds of a small comparison, one run under another strategy, and their report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedlama.analysis.study import StudyPlan, run_study
from fedlama.experiment import read, resolve
from fedlama.experiment.methods import parse_methods
from fedlama.reporting.html import write_report
from fedlama.runs.execute import RunOptions
from fedlama.runs.stored import find_runs

SMALL = ("partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=2", "local_steps=24")


@pytest.fixture(scope="package")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs")
    methods = parse_methods(["fedavg fedlama fedluar,recycled_layers=1"], "digits", SMALL)
    run_study(resolve(read("digits", SMALL)), StudyPlan(tuple(methods), (0, 1)), RunOptions(out))
    torch.set_num_threads(threads)
    return find_runs([out / "digits"])


@pytest.fixture(scope="package")
def report(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(runs, tmp_path_factory.mktemp("report") / "deep" / "report.html")
