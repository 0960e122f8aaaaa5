"""Flower's own simulation equals the loop engine bit for bit, and under secure aggregation the plain sums."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'flwr[simulation]'")

from fedlama.experiment import assemble, prepare
from fedlama.flower import Flower
from fedlama.flower.deploy.federation import deploy_experiment
from fedlama.flower.deploy.processes import QUIET
from fedlama.runs.execute import PlannedRun, RunOptions, run_one
from tests.flower.cases import QUICK, in_process
from tests.flower.live import assert_same_folders, model, small

pytestmark = pytest.mark.slow
CHANGES = ["strategy.base_interval=2", "strategy.increase_factor=3", "sampler.name=uniform", "sampler.active=3"]


def simulated(folder: Path, aggregation: str) -> Path:
    """Run the experiment in Flower's simulation; return its run folder."""
    root = Path(__file__).parents[2]
    here = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "RAY_worker_niceness": "0",  # Ray's 15 leaves its workers nearly no time beside other tests
    }
    command = [sys.executable, "-m", "tests.flower.simulate", str(folder), aggregation, *CHANGES]
    done = subprocess.run(
        command, env={**QUIET, **here}, capture_output=True, text=True, timeout=1200, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (summary,) = (folder / "runs").rglob("summary.json")
    return summary.parent


def test_flower_simulation_gives_the_bits_of_the_loop_engine(tmp_path: Path) -> None:
    experiment = small(*CHANGES)
    run_one(PlannedRun.of(experiment, assemble(experiment, prepare(experiment)), tmp_path / "loop"), RunOptions())
    (loop,) = (path.parent for path in (tmp_path / "loop").rglob("summary.json"))
    assert_same_folders(simulated(tmp_path, "models"), loop)


@pytest.mark.thorough
def test_secure_aggregation_gives_the_bits_of_plain_sums(tmp_path: Path) -> None:
    """All nodes are in one process and hide nothing from each other: a rehearsal of a deployment."""
    experiment = small(*CHANGES)
    channel = in_process(assemble(experiment, prepare(experiment)), tmp_path / "states-of-sums")
    sums = deploy_experiment(experiment, Flower(channel, QUICK, "sums"), tmp_path / "sums").result
    secure = model(simulated(tmp_path, "secure"))
    assert secure.keys() == sums.model.keys()
    assert all(secure[name].equal(value) for name, value in sums.model.items())
