"""Timing by repetition."""

from __future__ import annotations

import time
from collections.abc import Callable


def repeat(job: Callable[[], object], seconds: float) -> list[float]:
    """Run a job once to warm up, then until the time is over, at least twice.

    Args:
        job: What to time.
        seconds: For how long.

    Returns:
        The seconds of every run after the first.
    """
    job()
    taken: list[float] = []
    while len(taken) < 2 or sum(taken) < seconds:
        start = time.perf_counter()
        job()
        taken.append(time.perf_counter() - start)
    return taken
