"""One process of the distributed test: ``python -m tests.engines.two_processes OUTPUT``, under torchrun's variables."""

from __future__ import annotations

import os
import sys

import torch
from torch import distributed

from fedlama.engines import Distributed, LoopEngine, Stacked
from tests.engines.cases import run


def main(output: str) -> None:
    torch.set_num_threads(1)
    results = [run(Distributed(inner)) for inner in (Stacked(), LoopEngine)]
    if os.environ["RANK"] == "0":
        torch.save(results, output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
