"""Cost per client-step from 8 to 4,096 clients: ``python -m benchmarks.scaling``.

Every cohort is a process of its own, so that its peak memory is its own too; the sizes take turns, and medians count.
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


def main(turns: int = 3, seconds: float = 3) -> None:
    """Measure all sizes in turns and print a line for each."""
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in COHORTS}
    for _ in range(turns):
        for size in COHORTS:
            command = [sys.executable, "-m", "benchmarks.scaling", str(size), str(seconds)]
            done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
            found[size].append(tuple(json.loads(done.stdout)))
    for size, measured in found.items():
        micro, memory = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"{size:5d} clients: {micro:6.2f} us per client-step, peak memory {memory:5.0f} MiB")


def one(size: int, seconds: float) -> None:
    """Measure W3's model and batches with a cohort of this size."""
    workload = replace(WORKLOADS["W3"], cohort=size, population=size)
    taken = ours.measure(workload, seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([statistics.median(taken) / size / workload.steps * 1e6, peak]))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one(int(sys.argv[1]), float(sys.argv[2]))
    else:
        main()
