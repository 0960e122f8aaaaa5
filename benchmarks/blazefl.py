"""The benchmark of BlazeFL's paper on fedlama, BlazeFL and Flower: ``python -m benchmarks.blazefl --device cuda``.

    python -m benchmarks.blazefl --blazefl PYTHON --flower PYTHON      # interpreters that have them
    python -m benchmarks.blazefl --tiny                                # does the script work?

:mod:`benchmarks.published` has the models and sizes. Ours runs all rounds once, everything included: building the run,
its first round, the evaluations. Then one round is repeated with other chunks, shares, lanes or threads, and the bits
of all clients' models are compared. The other frameworks run several times, with 1 to all cores' clients at a time, and
the fastest counts.
BlazeFL 3.0.0 needs a free-threaded Python 3.14 for its threads; 3.0.0a1 runs on Python 3.13, with processes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fedlama as fl
from benchmarks.published import MODELS, RATE, TINY, Sizes, build, data

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {"cnn": {"blazefl": 30, "flower": 93}, "resnet18": {"blazefl": 115, "flower": 160}}
"""Best published seconds, on hardware that is not named."""
SIDES = {"blazefl": "benchmarks.sides.blazefl", "flower": "benchmarks.sides.flower_published"}


def federation(model: str, device: str, engine: Any, sizes: Sizes, rounds: int) -> fl.Federation:  # noqa: ANN401
    """Return the federation of a run."""
    (x, y), test = data(sizes)
    rows = list(np.arange(len(x)).reshape(sizes.clients, sizes.samples))
    return fl.Federation(
        model=build(model),
        clients=fl.TensorClients(x, y, rows, sizes.batch),
        strategy=fl.FedAvg(sizes.steps),
        rounds=rounds,
        solver=fl.SGD(RATE),
        test_set=fl.TestSet(*test),
        evaluate_every=sizes.steps,
        engine=engine,
        device=device,
    )


def variants(device: str, label: str) -> dict[str, Any]:
    """Return engines that compute as the one with this label, with other chunks, shares, lanes or threads."""
    if device != "cpu":
        return {
            "share 100, 16 lanes": fl.Recorded(share=100),
            "share 33, 8 lanes": fl.Recorded(share=33, lanes=8),
            "share 10, 1 lane": fl.Recorded(share=10, lanes=1),
        }
    if label.startswith("NumbaTrainer"):
        return {f"chunk {chunk}": fl.Stacked(chunk=chunk) for chunk in (1, 7, 100)}
    return {f"{threads} threads": fl.Workers(threads=threads) for threads in (1, 2, 5)}


def ours(model: str, device: str, sizes: Sizes, precision: Any = "float32") -> dict[str, Any]:  # noqa: ANN401
    """Time all rounds, and compare the bits of one round's clients for every variant."""
    engine: Any = fl.Auto(precision=precision) if device == "cpu" else fl.Recorded(precision=precision)
    given = federation(model, device, engine, sizes, sizes.rounds)
    start = time.perf_counter()
    run = fl.Run(given)
    run.to_end([])
    if device != "cpu":
        torch.cuda.synchronize()
    seconds, label = time.perf_counter() - start, str(getattr(run.engine, "label", ""))
    if precision != "float32":
        return {"seconds": seconds, "label": label}
    digests = {
        name: digest(federation(model, device, variant, sizes, 1)) for name, variant in variants(device, label).items()
    }
    return {"seconds": seconds, "label": label, "same_bits": len(set(digests.values())) == 1, "digests": digests}


def digest(given: fl.Federation) -> str:
    """Run a federation and return a digest of the global model and of all clients' models."""
    run = fl.Run(given)
    run.to_end([])
    hashed = hashlib.sha256()
    for values in [run.global_model(), *(run.engine.client_values(client) for client in run.cohort)]:
        for name, value in sorted(values.items()):
            hashed.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]


def other(python: str, side: str, model: str, device: str, parallel: int, tiny: bool) -> dict[str, Any]:
    """Run another framework in its environment; return its seconds, or why there are none."""
    command = [python, "-m", SIDES[side], model, device, str(parallel), *["tiny"] * tiny]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        return {"error": done.stderr.strip()[-600:]}
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def main() -> None:
    """Measure, print a line for each side, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--blazefl", help="an interpreter with BlazeFL")
    parser.add_argument("--flower", help="an interpreter with flwr[simulation]")
    parser.add_argument("--parallel", nargs="+", type=int, help="clients at a time of the others; by default several")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    sizes, cores = TINY if given.tiny else Sizes(), os.cpu_count() or 1
    degrees = given.parallel or sorted({1, max(cores // 2, 1), cores, *([32] if given.device != "cpu" else [])})
    report: dict[str, Any] = {"device": given.device, "torch": torch.__version__, "cores": cores, "tiny": given.tiny}
    for model in given.models:
        report[model] = {"published": PUBLISHED[model], "fedlama": ours(model, given.device, sizes)}
        if given.device != "cpu":
            report[model]["fedlama, bfloat16"] = ours(model, given.device, sizes, "bfloat16")
        for name in ("blazefl", "flower"):
            if python := getattr(given, name):
                for parallel in degrees:
                    answer = other(python, name, model, given.device, parallel, given.tiny)
                    report[model][f"{name}, {parallel} at a time"] = answer
        for name, answer in report[model].items():
            print(f"{model}, {name}: {answer}", flush=True)
        if given.output:
            given.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
