"""The clock of the sides: wall-clock time, or CPU time of all processes of a side.

On a machine that other programs use, wall-clock time says how much of it they have left. CPU time does not, and it
counts what a side computes in other processes, such as Flower's actors, whose environment has the same mark. It does
not show how well a side uses several cores. Linux counts it in hundredths of a second: rounds should take a tenth or
more.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

MARK = "FEDLAMA_BENCHMARK_CPU"
"""Environment variable whose value all processes of one measurement have; without it, time is wall-clock time."""


def now() -> float:
    """Return seconds since some moment."""
    mark = os.environ.get(MARK)
    return time.perf_counter() if mark is None else _cpu_seconds(f"{MARK}={mark}".encode())


def _cpu_seconds(mark: bytes) -> float:
    """Return the CPU time, in user and system mode, of all running processes with a mark in their environment."""
    ticks = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                ticks += int(fields[11]) + int(fields[12])  # utime and stime
        except OSError:  # the process has ended, or is another user's
            continue
    return ticks / os.sysconf("SC_CLK_TCK")
