"""Run the targets on many inputs: ``python -m tests.fuzz --inputs 100000``.

Every input has a seed of its own, so that a defect can be looked at again with ``--only TARGET --first N --inputs 1``.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence

import torch

from tests.fuzz.harness import Defect, Target, attempt, draw
from tests.fuzz.targets import TARGETS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and report; returns 1 when there was a defect."""
    given = _parse(arguments)
    torch.set_num_threads(1)
    chosen = [target for target in TARGETS if given.only in ("", target.name)]
    if not chosen:
        sys.exit(f"there is no target {given.only!r}; there are {', '.join(target.name for target in TARGETS)}")
    share, start, defects = -(-given.inputs // len(chosen)), time.perf_counter(), 0
    print(f"{'target':<16}{'inputs':>8}{'accepted':>10}{'refused':>9}{'reasons':>9}{'defects':>9}{'inputs/s':>10}")
    for target in chosen:
        defects += _attack(target, range(given.first, given.first + share), given.seed)
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    total = share * len(chosen)
    print(
        f"{total} inputs, {defects} defects, {total / seconds:.0f} inputs/s, "
        f"peak memory {peak:.0f} MiB, seed {given.seed}"
    )
    return 1 if defects else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Feed hostile input to every reader.")
    parser.add_argument("--inputs", type=int, default=10_000, help="how many, over all targets")
    parser.add_argument("--seed", type=int, default=0, help="decides all inputs")
    parser.add_argument("--only", default="", help="name of one target")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each target")
    return parser.parse_args(arguments)


def _attack(target: Target, numbers: range, seed: int) -> int:
    """Run one target, print its line, and return its number of defects."""
    start, reasons, refused, defects = time.perf_counter(), Counter[str](), 0, Counter[str]()
    for number in numbers:
        try:
            says = attempt(target, draw(target, f"{seed}/{number}")).says
        except Defect as defect:
            cause = traceback.extract_tb((defect.__cause__ or defect).__traceback__)[-1]
            kind = f"{type(defect.__cause__).__name__} at {os.path.basename(cause.filename)}:{cause.lineno}"
            if not defects[kind]:
                print(f"DEFECT --only {target.name} --first {number} --inputs 1: {kind}: {defect}", flush=True)
            defects[kind] += 1
            continue
        refused += bool(says)
        reasons[reason(says)] += bool(says)
    count, seconds = len(numbers), time.perf_counter() - start
    found = sum(defects.values())
    accepted = count - refused - found
    print(
        f"{target.name:<16}{count:>8}{accepted:>10}{refused:>9}{len(+reasons):>9}{found:>9}{count / seconds:>10.0f}",
        flush=True,
    )
    return found


def reason(says: str) -> str:
    """Return a refusal's words without what differs between inputs: paths, numbers, names and what was given."""
    words = says.partition("\n")[0].split()
    return " ".join([word for word in words if word.replace("-", "").isalpha()][:14])


if __name__ == "__main__":
    warnings.simplefilter("error")
    logging.disable()
    sys.exit(main())
