"""Flower's own simulation equals the loop engine bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
pytest.importorskip("ray", reason="needs Flower's simulation: pip install 'flwr[simulation]'")

from fedlama.experiment import assemble, prepare
from fedlama.flower.deploy.processes import QUIET
from fedlama.runs.execute import PlannedRun, RunOptions, run_one
from tests.flower.live import assert_same_folders, small

pytestmark = pytest.mark.slow
CHANGES = ["strategy.base_interval=2", "strategy.increase_factor=3", "sampler.name=uniform", "sampler.active=3"]


def test_flower_simulation_gives_the_bits_of_the_loop_engine(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    here = {
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "src")]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
    }
    command = [sys.executable, "-m", "tests.flower.simulate", str(tmp_path), *CHANGES]
    done = subprocess.run(
        command, env={**QUIET, **here}, capture_output=True, text=True, timeout=400, check=False, cwd=root
    )
    assert done.returncode == 0, done.stderr[-3000:]
    experiment = small(*CHANGES)
    run_one(PlannedRun.of(experiment, assemble(experiment, prepare(experiment)), tmp_path / "loop"), RunOptions())
    (simulated,) = (path.parent for path in (tmp_path / "runs").rglob("summary.json"))
    (loop,) = (path.parent for path in (tmp_path / "loop").rglob("summary.json"))
    assert_same_folders(simulated, loop)
