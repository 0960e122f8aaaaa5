"""Compare the speed of two commits, measured in turns: ``python -m benchmarks.two_commits COMMIT_A COMMIT_B``.

Each commit is checked out in a temporary worktree (``.`` is the working tree as it is). For each workload and engine
both commits keep a federation ready in a process of their own, and run their rounds in turns: whatever else the machine
does slows neighbouring turns alike. What counts is the median over the turns of the ratio of B's seconds to A's; below
1, B is faster. The quartiles beside it show the noise.

Three more measurements take turns too, with a new process each: the bandwidth of :mod:`benchmarks.synchronisation`, the
first round with an empty cache of machine code (``--compile``), and with a full one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.workloads import COMPILED, WORKLOADS

ROOT = Path(__file__).resolve().parents[1]
ENGINES = ("auto", "stacked", "workers", "loop")
TURN = 0.25
"""Seconds of a turn, at least: shorter rounds are run several at a time."""


@dataclass(frozen=True)
class Checkout:
    """One of the two commits.

    Attributes:
        name: As given.
        root: The folder of its files.
        cache: Where Numba keeps its machine code.
    """

    name: str
    root: Path
    cache: Path

    def environment(self, cache: Path | None = None) -> dict[str, str]:
        """Return the environment of its processes."""
        paths = os.pathsep.join([str(self.root), str(self.root / "src")])
        return os.environ | {"PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(cache or self.cache)}


class Rounds:
    """A process that runs rounds on request; see :mod:`benchmarks.rounds`.

    Args:
        checkout: The commit.
        engine: Name of the engine.
        workload: Name of the workload.
        cache: Another folder for Numba's machine code.

    Attributes:
        first: Seconds from the start of the process to the end of the first round.
    """

    def __init__(self, checkout: Checkout, engine: str, workload: str, cache: Path | None = None) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / "rounds.py"), engine, workload]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = checkout.environment(cache)
        self._process = subprocess.Popen(command, cwd=checkout.root, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        self.first = self._answer()

    def run(self, count: int) -> float:
        """Run rounds and return their seconds."""
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> float:
        """End the process; return the seconds that its threads have computed."""
        self._process.stdin.close()
        _, _, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = 0
        return usage.ru_utime + usage.ru_stime

    def _answer(self) -> float:
        return float(self._process.stdout.readline())


def main() -> None:
    """Measure and print a table."""
    given = _arguments()
    ratios: dict[str, list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        checkouts = [stack.enter_context(checked_out(name)) for name in (given.commit_a, given.commit_b)]
        print("| measured | A | B | ratio B / A, quartiles | turns |\n|---|---|---|---|---|", flush=True)
        for workload in given.workloads:
            for engine in given.engines:
                name = f"{workload} {engine}, ms per round"
                ratios[name] = rounds(checkouts, engine, workload, given.seconds)
                print(_line(name, ratios[name]), flush=True)
        if given.synchronisation:
            name = "synchronisation, share of a copy's bandwidth"
            ratios[name] = synchronisation(checkouts, given.synchronisation)
            print(_line(name, ratios[name]), flush=True)
        for workload in given.compile:
            for name, pairs in first_rounds(checkouts, workload, given.turns).items():
                ratios[name] = pairs
                print(_line(name, pairs), flush=True)
    if given.output:
        Path(given.output).write_text(json.dumps(ratios, indent=1) + "\n", encoding="utf-8")


def rounds(
    checkouts: Sequence[Checkout], engine: str, workload: str, seconds: float, turns: int = 4
) -> list[tuple[float, float]]:
    """Return milliseconds per round of both commits, turn by turn.

    Args:
        checkouts: A and B.
        engine: Name of the engine.
        workload: Name of the workload.
        seconds: For how long, both commits together.
        turns: How many turns, at least.
    """
    processes = [Rounds(checkout, engine, workload) for checkout in checkouts]
    once = [process.run(1) for process in processes]
    count = math.ceil(TURN / min(once))
    pairs = []
    while len(pairs) < turns or sum(map(sum, pairs)) * count / 1000 < seconds:
        order = processes if len(pairs) % 2 == 0 else processes[::-1]  # neither commit is always the first
        taken = {process: 1000 * process.run(count) / count for process in order}
        pairs.append((taken[processes[0]], taken[processes[1]]))
    for process in processes:
        process.close()
    return pairs


def synchronisation(checkouts: Sequence[Checkout], turns: int) -> list[tuple[float, float]]:
    """Return the bandwidth of a synchronisation as a fraction of a copy's, for both commits, turn by turn."""
    command = [sys.executable, "-m", "benchmarks.synchronisation"]

    def share(checkout: Checkout) -> float:
        environment = checkout.environment()
        done = subprocess.run(command, cwd=checkout.root, env=environment, check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout)["share"])

    return [(share(checkouts[0]), share(checkouts[1])) for _ in range(turns)]


def first_rounds(checkouts: Sequence[Checkout], workload: str, turns: int) -> dict[str, list[tuple[float, float]]]:
    """Return seconds to the end of the first round, and seconds of computing, with an empty and with a full cache."""
    measured: dict[str, list[tuple[float, float]]] = {}
    for _ in range(turns):
        with ExitStack() as stack:
            caches = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in checkouts]
            for state in ("empty", "full"):
                taken = []
                for checkout, cache in zip(checkouts, caches, strict=True):
                    process = Rounds(checkout, "auto", workload, cache)
                    taken.append((process.first, process.close()))
                for number, kind in enumerate(("s", "s of computing")):
                    name = f"{workload} first round, {state} cache, {kind}"
                    measured.setdefault(name, []).append((taken[0][number], taken[1][number]))
    return measured


@contextmanager
def checked_out(commit: str) -> Iterator[Checkout]:
    """Check a commit out in a temporary worktree, unless it is ``.``."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        if commit == ".":
            yield Checkout(commit, ROOT, Path(cache))
            return
        root = Path(folder) / "tree"
        _git("worktree", "add", "--quiet", "--detach", str(root), commit)
        try:
            yield Checkout(commit, root, Path(cache))
        finally:
            _git("worktree", "remove", "--force", str(root))


def _git(*words: str) -> None:
    subprocess.run(["git", *words], cwd=ROOT, check=True)


def _line(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    """Return a row of the table.

    >>> _line("W3 auto, ms per round", [(2.0, 1.0), (2.0, 2.0), (4.0, 3.0)])
    '| W3 auto, ms per round | 2.00 | 2.00 | 0.75 (0.62 to 0.88) | 3 |'
    """
    middle = [statistics.median(side) for side in zip(*pairs, strict=True)]
    ratios = [b / a for a, b in pairs]
    low, half, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    return f"| {name} | {middle[0]:.2f} | {middle[1]:.2f} | {half:.2f} ({low:.2f} to {high:.2f}) | {len(pairs)} |"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit_a")
    parser.add_argument("commit_b")
    parser.add_argument("--workloads", nargs="*", default=list(COMPILED), choices=WORKLOADS)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--seconds", type=float, default=20, help="per workload and engine, both commits together")
    parser.add_argument("--synchronisation", type=int, default=5, metavar="TURNS", help="0 leaves it out")
    parser.add_argument("--compile", nargs="*", default=["W1", "W3"], choices=WORKLOADS, metavar="WORKLOAD")
    parser.add_argument("--turns", type=int, default=3, help="of each first round")
    parser.add_argument("--output", help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    main()
