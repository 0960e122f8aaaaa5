"""A script and a program that imports it describe the same classes and functions alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import torch
from torch import nn

import fedlama as fl


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        return self.last(x)


def loss(output, y):
    return nn.functional.cross_entropy(output, y)


def make():
    torch.manual_seed(0)
    x, y = torch.randn(40, 4), torch.randint(0, 2, (40,))
    clients = [fl.ClientData(x[i::2], y[i::2], batch_size=5) for i in range(2)]
    return fl.Federation(Net(), clients, fl.FedAvg(2), local_steps=8, objective=loss)


if __name__ == "__main__":
    fl.run(make(), name="mine", track=())
"""
OTHER = "from train import make; import fedlama as fl; print(fl.verify('runs/mine', make()).difference)"


def python(folder: Path, *arguments: str) -> tuple[str, str]:
    """Run Python in a folder, and return what it printed, on standard output and on standard error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.strip(), done.stderr.strip()


@pytest.mark.slow
def test_a_run_of_a_script_is_verified_where_the_script_is_imported(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    assert python(tmp_path, "train.py") == ("", "")
    assert python(tmp_path, "-c", OTHER) == ("None", "")
    assert "had already finished" in python(tmp_path, "train.py")[1]
    script.write_text(SCRIPT.replace("self.last(x)", "self.last(2 * x)"), encoding="utf-8")
    assert (
        "the model has other modules, or other code in a forward; give another name" in python(tmp_path, "train.py")[1]
    )
    script.write_text(SCRIPT.replace("cross_entropy(output, y)", "cross_entropy(output, y).abs()"), encoding="utf-8")
    _, said = python(tmp_path, "train.py")
    assert "has the run of another federation: the code of train:loss (task.function) has changed" in said
