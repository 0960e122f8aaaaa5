"""Cost per client-step from 8 to 4,096 clients: ``python -m benchmarks.scaling``.

W3 is the hardest case, a model whose step takes a few microseconds; W3c's takes some tens. Every cohort is measured in
its own process, which gives its peak memory too. The sizes take turns, and medians are printed.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.sides import ours
from benchmarks.workloads import WORKLOADS

COHORTS = (8, 64, 512, 4096)
MODELS = ("W3", "W3c")


def main(turns: int = 3, seconds: float = 3) -> None:
    """Measure all sizes in turns and print a line for each."""
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {(m, size): [] for m in MODELS for size in COHORTS}
    for _ in range(turns):
        for name, size in measured:
            command = [sys.executable, "-m", "benchmarks.scaling", name, str(size), str(seconds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
            measured[name, size].append(tuple(json.loads(done.stdout)))
    print("| model | clients | us per client-step | of 4,096 clients' | peak memory, MiB |\n|---|---|---|---|---|")
    middle = {
        key: [statistics.median(column) for column in zip(*taken, strict=True)] for key, taken in measured.items()
    }
    for (name, size), (micro, memory) in middle.items():
        print(f"| {name} | {size} | {micro:.2f} | x {micro / middle[name, COHORTS[-1]][0]:.2f} | {memory:.0f} |")


def one(name: str, size: int, seconds: float) -> None:
    """Measure a workload's model and batches with a cohort of this size, and print JSON."""
    workload = replace(WORKLOADS[name], cohort=size, population=size)
    taken = ours.measure(workload, seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([statistics.median(taken) / size / workload.steps * 1e6, peak]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
    else:
        main()
