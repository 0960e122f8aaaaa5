"""Weights & Biases and MLflow, both without a network; and the words when a library is missing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedlama import ConfigError, MissingExtraError
from fedlama.reporting.tracking import TRACKERS, trackers
from tests.cli.call import SMALL, fedlama, refused

TRACK = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from fedlama.reporting.tracking import trackers
from tests.tracking.conftest import record
folder = Path(sys.argv[2]); folder.mkdir(parents=True)
config = {"seed": 3, "data": {"name": "digits"}, "in_force": {"a": 1}}
(tracker,) = trackers([sys.argv[1]], folder, "digits", "a-run", config)
with tracker:
    tracker.on_round(record(0)); tracker.on_round(record(1))
"""
READ_MLFLOW = """
import json, sys, warnings
warnings.simplefilter("ignore")
import mlflow
client = mlflow.MlflowClient(tracking_uri=sys.argv[1])
(run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
history = {key: [[metric.step, metric.value] for metric in found] for key, found in histories.items()}
print(json.dumps({"name": run.info.run_name, "status": run.info.status, "params": run.data.params, "history": history}))
"""


def python(script: str, *arguments: str, **environment: str) -> str:
    """Run a script in a process of its own, away from this one's threads and warnings."""
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.skipif(find_spec("wandb") is None, reason="needs fedlama[wandb]")
def test_wandb_offline(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits" / "a-run"
    python(TRACK, "wandb", str(folder), WANDB_MODE="offline", WANDB_SILENT="true", HOME=str(tmp_path))
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for word in (b"train/loss", b"discrepancy/w", b"data.name"):
        assert word in content


@pytest.mark.thorough
@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs fedlama[mlflow]")
def test_mlflow_into_a_local_store(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits" / "a-run"
    python(TRACK, "mlflow", str(folder), MLFLOW_TRACKING_URI="", HOME=str(tmp_path))
    seen = json.loads(python(READ_MLFLOW, f"sqlite:///{tmp_path}/runs/mlflow.db", HOME=str(tmp_path)).splitlines()[-1])
    assert (seen["name"], seen["status"]) == ("a-run", "FINISHED")
    assert seen["params"] == {"seed": "3", "data.name": "digits", "a": "1"}  # what ran is a parameter too
    assert seen["history"]["train/loss"] == [[5, 2.0], [10, 1.0]]
    assert seen["history"]["discrepancy/w"] == [[10, 0.25]]


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_library_is_named_with_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"{name} is not installed; .* 'fedlama\[{name}\]'"):
        trackers([name], tmp_path, "digits", "a-run", {})
    (problem,) = refused("run", *SMALL, "--track", name, "--out", tmp_path)
    assert f"pip install 'fedlama[{name}]'" in problem
    assert not list(tmp_path.iterdir())  # reported before anything is trained


def test_unknown_trackers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no tracker 'tensorbord'; did you mean 'tensorboard'"):
        trackers(["tensorbord"], tmp_path, "digits", "a-run", {})


def test_the_command_line_writes_event_files_unless_told_otherwise(tmp_path: Path) -> None:
    (run,) = fedlama("run", *SMALL, "--json", "--out", tmp_path / "a").json["runs"]
    assert len(list(Path(run["run_folder"]).glob("tensorboard/events.out.tfevents.*"))) == 1
    (run,) = fedlama("run", *SMALL, "--json", "--track", "none", "--out", tmp_path / "b").json["runs"]
    assert not (Path(run["run_folder"]) / "tensorboard").exists()


def test_names() -> None:
    assert list(TRACKERS) == ["tensorboard", "wandb", "mlflow"]
