"""FedLPA in deployments: a model whose factors are not known is refused before a client trains."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlama.errors import ConfigError
from fedlama.experiment import Experiment, assemble, load_experiment, prepare
from fedlama.flower import Flower
from fedlama.flower.deploy.federation import deploy_experiment
from fedlama.flower.deploy.submit import run_config
from tests.flower.cases import QUICK, in_process

MODEL = """
import torch
from torch import Tensor, nn


class Net(nn.Module):
    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.calls = calls
        self.first, self.again, self.last = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x.flatten(1)))
        for _ in range(self.calls):
            x = torch.relu(self.again(x))
        return self.last(x)
"""
TOML = """
name = "shot"
engine = "loop"
rounds = 1
local_work = { epochs = 1 }
partition = { name = "iid", clients = 3 }
model = { name = "net.py:Net" }
strategy = { name = "fedavg", base_interval = 1 }
solver = { name = "sgd", learning_rate = 0.05 }
aggregator = { name = "fedlpa" }
layers = { name = "module" }
"""


def experiment(folder: Path, *changes: str) -> Experiment:
    (folder / "net.py").write_text(MODEL)
    (folder / "shot.toml").write_text(TOML)
    return load_experiment(str(folder / "shot.toml"), changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (["model.calls=2"], "layer 'again' is used twice in a forward pass"),
        (["model.calls=0"], "the module of layer 'again' is not called in a forward pass"),
        (["rounds=2"], "the budget is 2 rounds, expected one"),
    ],
)
def test_it_is_refused_at_submission_and_by_the_server(changes: list[str], says: str, tmp_path: Path) -> None:
    """`flwr run` submits without `fedlama flower run`, so the server refuses it too, before it asks a client."""
    given = experiment(tmp_path, *changes)
    with pytest.raises(ConfigError, match=says):
        run_config(given, {})
    channel = in_process(assemble(given, prepare(given)), tmp_path / "states")
    with pytest.raises(ConfigError, match=says):
        deploy_experiment(given, Flower(channel, QUICK), tmp_path / "runs")
    assert channel.requests == []


def test_what_fits_is_submitted_also_without_the_data(tmp_path: Path) -> None:
    assert "fedlpa" in run_config(experiment(tmp_path), {})
    elsewhere = ["data.name=npz", f"data.path={tmp_path}/nothing", "data.classes=10", "model.calls=2"]
    assert "fedlpa" in run_config(experiment(tmp_path, *elsewhere), {})
