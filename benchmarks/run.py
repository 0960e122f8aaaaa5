"""Measure every side on every workload in one run.

    python -m benchmarks.setup /tmp/rivals                      # once; leave it out to measure without rivals
    python -m benchmarks.run --rivals /tmp/rivals --output benchmarks/results/cpu.json

Every measurement is a process of its own; the sides take turns, and medians over the turns are compared. On a laptop:
``python -m benchmarks.run --workloads W3 --seconds 2 --turns 1``. On a machine that others use, ``--cpu`` counts the
CPU time of each side's processes instead, whose operations then use one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import MARK
from benchmarks.table import markdown
from benchmarks.workloads import WORKLOADS

OURS = ("central", "naive", "ours:auto", "ours:loop", "ours:stacked", "ours:workers")
RIVALS = ("flower", "pfl")
ROOT = Path(__file__).resolve().parents[1]
_VERSIONS = (
    "import importlib.metadata as m, json; known = {d.metadata['Name'].lower(): d.version for d in m.distributions()};"
    "names = ('torch', 'numpy', 'numba', 'flwr', 'ray', 'pfl', 'transformers', 'peft', 'fedlama');"
    "print(json.dumps({name: known[name] for name in names if name in known}))"
)


def main() -> None:
    """Measure, print the table, and write the JSON."""
    given = _arguments()
    if given.cpu:
        os.environ["OMP_NUM_THREADS"] = "1"  # threads that wait for each other would count as work
    pythons = {"ours": sys.executable}
    if given.rivals:
        pythons["rivals"] = str(Path(given.rivals) / "bin" / "python")
    sides = [side for side in OURS + (RIVALS if given.rivals else ()) if side in (given.sides or OURS + RIVALS)]
    rates: dict[str, dict[str, list[float]]] = {name: {side: [] for side in sides} for name in given.workloads}
    problems: dict[str, str] = {}
    second = "second of CPU time" if given.cpu else "second"
    for _ in range(given.turns):
        for name in given.workloads:
            for side in sides:
                python = pythons["rivals" if side in RIVALS else "ours"]
                if given.cpu:
                    os.environ[MARK] = uuid.uuid4().hex
                rate = _measure(python, side, name, given.seconds, problems)
                if rate is not None:
                    rates[name][side].append(rate)
                    print(f"{name} {side}: {rate:,.1f} client-steps per {second}", flush=True)
    report = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "vectors": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
        },
        "versions": {who: json.loads(_run([python, "-c", _VERSIONS], 60).stdout) for who, python in pythons.items()},
        "load": os.getloadavg(),
        "seconds": given.seconds,
        "clock": "CPU time, one thread per operation" if given.cpu else "wall-clock time",
        "client_steps_per_second": rates,
        "medians": {n: {s: statistics.median(r) for s, r in of_sides.items() if r} for n, of_sides in rates.items()},
        "problems": problems,
    }
    print(markdown(report))
    for name, problem in problems.items():
        print(f"{name}: not measured, {problem}")
    if given.output:
        Path(given.output).parent.mkdir(parents=True, exist_ok=True)
        Path(given.output).write_text(json.dumps(report, indent=2) + "\n")


def _arguments() -> Any:  # noqa: ANN401 - argparse's namespace
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rivals", help="folder that benchmarks.setup made")
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--sides", nargs="+", help="all by default", choices=OURS + RIVALS)
    parser.add_argument("--seconds", type=float, default=10, help="per measurement")
    parser.add_argument("--turns", type=int, default=3, help="interleaved repetitions")
    parser.add_argument("--cpu", action="store_true", help="CPU time of all processes instead of wall-clock time")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


def _measure(python: str, side: str, name: str, seconds: float, problems: dict[str, str]) -> float | None:
    try:
        limit = (120 + 6 * seconds) * (5 if MARK in os.environ else 1)  # a busy machine takes longer
        done = _run([python, "-m", "benchmarks.one", side, name, str(seconds)], limit)
        return float(json.loads(done.stdout.strip().splitlines()[-1])["client_steps_per_second"])
    except subprocess.TimeoutExpired:
        problems[f"{name} {side}"] = "it took too long"
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        detail = error.stderr[-400:] if isinstance(error, subprocess.CalledProcessError) else str(error)
        problems[f"{name} {side}"] = str(detail)
    return None


def _run(command: list[str], limit: float) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, cwd=ROOT, env=environment, timeout=limit, check=True, capture_output=True, text=True)


if __name__ == "__main__":
    main()
