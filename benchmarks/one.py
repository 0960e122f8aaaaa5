"""Measure one side on one workload: ``python -m benchmarks.one SIDE WORKLOAD SECONDS`` prints a line of JSON."""

from __future__ import annotations

import importlib
import json
import statistics
import sys

from benchmarks.workloads import WORKLOADS


def main(side: str, name: str, seconds: float) -> None:
    """Measure and print client-steps per second."""
    workload = WORKLOADS[name]
    module, _, engine = side.partition(":")
    measure = importlib.import_module(f"benchmarks.sides.{module}").measure
    taken = measure(workload, seconds, engine) if engine else measure(workload, seconds)
    rate = workload.cohort * workload.steps / statistics.median(taken)
    print(json.dumps({"side": side, "workload": name, "client_steps_per_second": rate, "rounds": len(taken)}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
