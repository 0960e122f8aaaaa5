"""How much memory large federations take, and how long their rounds.

    python -m benchmarks.load population       # 10,000 clients, 100 active
    python -m benchmarks.load populations      # 1,000 and 100,000 clients, 128 active
    python -m benchmarks.load rounds           # 1,000 rounds
    python -m benchmarks.load disk --folder F  # 36.5 million parameters, 32 active clients, their state in files

Each measurement runs in its own process. "peak" is its largest resident set, the program and its libraries included;
pages of the state's files count while the system keeps them in memory. "own" is the largest amount of memory that the
system could not write back to a file.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import fedlama as fl
from fedlama.data.clients import TensorClients
from fedlama.engines import Stacked, Workers
from fedlama.models import wide_resnet

MIB = 1 << 20


def resident(kind: str = "VmRSS") -> float:
    """Return the present resident set in MiB; with "RssAnon" without what the system can write back to files."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def peak() -> float:
    """Return the largest resident set so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Sampler(threading.Thread):
    """Reads the memory of this process every tenth of a second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.highest = 0.0

    def run(self) -> None:
        """Read until the process ends."""
        while True:
            self.highest = max(self.highest, resident("RssAnon"))
            time.sleep(0.1)


def clients(population: int, each: int, shape: tuple[int, ...], classes: int, batch: int) -> TensorClients:
    """Return clients that share 4,096 random samples, so that only their number counts."""
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(4096, *shape, generator=draw), torch.randint(0, classes, (4096,), generator=draw)
    rows = [(np.arange(each) + client * each) % len(x) for client in range(population)]
    return TensorClients(x, y, rows, batch)


def small(population: int, active: int, rounds: int, engine: str) -> fl.Federation:
    """Return a federation of a dense net of 26,122 parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    return fl.Federation(
        model,
        clients(population, 40, (64,), 10, 10),
        fl.FedLAMA(6, 4),
        local_steps=6 * rounds,
        solver=fl.SGD(0.05, momentum=0.9),
        sampler=fl.UniformSampler(active),
        engine=engine,
    )


def watched(federation: fl.Federation, at: tuple[int, ...] = ()) -> dict[str, Any]:
    """Run a federation and record the resident set after some rounds."""

    class Watch:
        def __init__(self) -> None:
            self.seen: dict[int, float] = {}

        def on_round(self, record: fl.RoundRecord) -> None:
            if record.round_index + 1 in at:
                self.seen[record.round_index + 1] = round(resident(), 1)

    sampler = Sampler()
    sampler.start()
    watch, before, start = Watch(), resident(), time.perf_counter()
    federation.run([watch])
    seconds = (time.perf_counter() - start) / federation.rounds
    measured = {"before MiB": round(before, 1), "peak MiB": round(peak(), 1), "own MiB": round(sampler.highest, 1)}
    measured["ms per round"] = round(1000 * seconds, 1)
    return measured | {f"MiB after round {number}": value for number, value in watch.seen.items()}


def population(given: argparse.Namespace) -> dict[str, Any]:
    """Measure one population of small clients."""
    return watched(small(given.clients, given.active, given.rounds, given.engine), (1, given.rounds))


def rounds(given: argparse.Namespace) -> dict[str, Any]:
    """Measure many rounds."""
    return watched(small(given.clients, given.active, given.rounds, given.engine), (100, 500, 1000))


def disk(given: argparse.Namespace) -> dict[str, Any]:
    """Measure a large model whose cohort is in files, or in memory without a folder."""
    torch.manual_seed(0)
    model = wide_resnet()
    federation = fl.Federation(
        model,
        clients(given.active, 40, (3, 32, 32), 100, 2),
        fl.FedLAMA(1, 2),
        local_steps=given.rounds,
        solver=fl.SGD(0.01, momentum=0.9),
        engine=(Workers if given.engine == "workers" else Stacked)(state_dir=given.folder or None, threads=1),
    )
    parameters = sum(parameter.numel() for parameter in model.parameters())
    state = 2 * 4 * parameters * given.active / MIB
    return {"parameters": parameters, "state MiB": round(state)} | watched(federation, (1, given.rounds))


MEASUREMENTS = {"population": population, "rounds": rounds, "disk": disk}


def main() -> None:
    """Start a process per measurement, and print its figures."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("what", choices=[*MEASUREMENTS, "populations"])
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--active", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--engine", default="workers", choices=["loop", "stacked", "workers"])
    parser.add_argument("--folder", default="", help="where the cohort's state goes")
    parser.add_argument("--here", action="store_true", help="measure in this process and print JSON")
    given = parser.parse_args()
    defaults = {"population": (100, 20), "populations": (128, 20), "rounds": (10, 1000), "disk": (32, 2)}
    active, count = defaults[given.what]
    given.active, given.rounds = given.active or active, given.rounds or count
    if given.here:
        torch.set_num_threads(1)
        print(json.dumps(MEASUREMENTS[given.what](given)))
        return
    sizes = [1_000, 100_000] if given.what == "populations" else [given.clients]
    what = "population" if given.what == "populations" else given.what
    for size in sizes:
        options = {"clients": size, "active": given.active, "rounds": given.rounds, "engine": given.engine}
        arguments = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        arguments += ["--folder", given.folder] if given.folder else []
        command = [sys.executable, "-m", "benchmarks.load", what, "--here", *arguments]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(f"{what}: {options}: {json.loads(printed)}", flush=True)


if __name__ == "__main__":
    main()
