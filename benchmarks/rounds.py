"""Keep a federation ready and time rounds of it on request; a process of :mod:`benchmarks.two_commits`.

``python benchmarks/rounds.py ENGINE WORKLOAD`` runs the first round and prints its seconds. After that it reads a
number of rounds from each line of its input, runs them, and prints their seconds. The federation is that of
:mod:`benchmarks.sides.ours` of whatever commit is first on Python's path, so this file serves older commits too.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

HERE = str(Path(__file__).resolve().parent)


def main(engine: str, name: str) -> None:
    """Serve the rounds of one workload on one engine."""
    sys.path[:] = [path for path in sys.path if path != HERE]  # Python puts the script's folder in front
    start = time.perf_counter()
    from benchmarks.sides import ours
    from benchmarks.workloads import WORKLOADS

    def serve(advance: Callable[[], object], _: float) -> list[float]:
        advance()
        print(time.perf_counter() - start, flush=True)
        for line in sys.stdin:
            begin = time.perf_counter()
            for _ in range(int(line)):
                advance()
            print(time.perf_counter() - begin, flush=True)
        return []

    ours.repeat = serve  # type: ignore[attr-defined] # gets the function that advances the run by a round
    ours.measure(WORKLOADS[name], 0.0, engine)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
