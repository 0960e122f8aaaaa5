"""Worker threads with one intra-op thread each.

torch leaves Python's lock while a kernel runs, so threads are enough for kernels of a few microseconds and more, and
unlike processes they need no copies, no pickling and no guard in the user's script.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Number of cores this process may use."""
    available: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return available


class WorkerThreads:
    """Runs jobs on threads of its own, or in the caller's thread when there is but one.

    Args:
        count: Number of threads.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def map(self, job: Callable[[int], Result], indices: Sequence[int]) -> list[Result]:
        """Run ``job(worker)`` for each index at the same time.

        Args:
            job: What to run; index i always runs alone in one thread.
            indices: Arguments.

        Returns:
            The results in the order of `indices`; the first exception in that order is raised once all have ended.
        """
        if self.count == 1 or len(indices) == 1:
            return [job(index) for index in indices]
        if self._pool is None:
            self._pool = self._start()
        futures = [self._pool.submit(job, index) for index in indices]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]

    def deal(self, job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Run ``job(item)`` for every item; with n threads each takes every n-th.

        Args:
            job: What to run.
            items: Arguments.

        Returns:
            The results in the order of `items`, whoever made them.
        """
        helpers = min(self.count, len(items))
        hands = self.map(lambda helper: [job(item) for item in items[helper::helpers]], range(helpers))
        return [hands[number % helpers][number // helpers] for number in range(len(items))]

    def join(self, job: Callable[[int], None], count: int) -> None:
        """Run ``job(worker)`` so many times at the same time, first of all in the caller's thread.

        Args:
            job: What to run; it must not use torch's own threads.
            count: How many run, at most one more than there are threads.
        """
        if count > 1 and self._pool is None:
            self._pool = self._start()
        futures = [self._pool.submit(job, worker) for worker in range(1, count)] if self._pool else []
        job(0)
        for future in futures:
            future.result()

    def _start(self) -> ThreadPoolExecutor:
        usual = torch.get_num_threads()
        pool = ThreadPoolExecutor(self.count, "fedlama", initializer=lambda: torch.set_num_threads(1))
        # Wake every thread now: the setting of a new thread is also the default of later threads, so restore it here.
        barrier = [pool.submit(torch.get_num_threads) for _ in range(self.count)]
        for one in barrier:
            one.result()
        torch.set_num_threads(usual)
        return pool
