"""A user's script, which is killed and started again: `python -m tests.runs.script OUT`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import fedlama as fl
from tests.runs.federations import make

if __name__ == "__main__":
    torch.set_num_threads(1)
    fl.run(make(), Path(sys.argv[1]), "mine", checkpoint_seconds=0.0)
