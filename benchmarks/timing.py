"""Timing by repetition: one job for a while, or several jobs in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from benchmarks.clock import now


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
        taken.append(_time(job))
    return taken


def take_turns(jobs: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Run each job once to warm up, then all of them in turns until the time is over, at least three turns.

    Whatever else the machine does slows neighbouring runs alike, so ratios of neighbours depend little on it.

    Args:
        jobs: What to time, by name.
        seconds: For how long, all jobs together.

    Returns:
        The seconds of every run after the first, by name; entry i of all lists is of the same turn.
    """
    for job in jobs.values():
        job()
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    start = now()
    turns = 0
    while turns < 3 or now() - start < seconds:
        for name, job in jobs.items():
            taken[name].append(_time(job))
        turns += 1
    return taken


def _time(job: Callable[[], object]) -> float:
    start = now()
    job()
    return now() - start
