"""Worker threads that run kernels in parallel, each with one intra-op thread of torch.

torch and Numba release Python's lock while a kernel runs, so threads are enough for kernels that take a few
microseconds or more. Unlike processes they need no copies, no pickling and no ``if __name__ == "__main__"`` in the
user's script.
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
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class WorkerThreads:
    """A pool of threads. It starts them at the first use, and a pool of one thread runs everything in its caller's.

    Args:
        count: Number of threads.

    Attributes:
        count: As given.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def map(self, job: Callable[[int], Result], indices: Sequence[int]) -> list[Result]:
        """Run ``job(index)`` for each index, all at the same time.

        Args:
            job: What to run; each call runs alone in one thread.
            indices: The arguments, at most as many as there are threads.

        Returns:
            The results, in the order of `indices`.

        Raises:
            Exception: The first exception of a job, in the order of `indices`, once all jobs have ended.
        """
        if self.count == 1 or len(indices) == 1:
            return [job(index) for index in indices]
        futures = [self._threads().submit(job, index) for index in indices]
        errors = [future.exception() for future in futures]
        for error in errors:
            if error is not None:
                raise error
        return [future.result() for future in futures]

    def map_strided(self, job: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Run ``job(item)`` for every item; with n threads each thread takes every n-th item.

        The assignment does not depend on timing, so neither does anything that a job leaves in its thread's cache.

        Args:
            job: What to run.
            items: The arguments.

        Returns:
            The results, in the order of `items`.

        >>> WorkerThreads(2).map_strided(str, [1, 2, 3])
        ['1', '2', '3']
        """
        used = min(self.count, len(items))
        by_thread = self.map(lambda thread: [job(item) for item in items[thread::used]], range(used))
        return [by_thread[index % used][index // used] for index in range(len(items))]

    def run_parallel(self, job: Callable[[int], None], count: int) -> None:
        """Run ``job(0)`` to ``job(count - 1)`` in parallel, ``job(0)`` in the caller's thread.

        Waking a thread takes about 0.1 ms. The caller's thread works in the meantime, unlike in :meth:`map`.

        Args:
            job: What to run; it must not use torch's intra-op threads, since the caller's thread has several.
            count: How many calls, at most one more than there are threads.
        """
        futures = [self._threads().submit(job, worker) for worker in range(1, count)]
        job(0)
        for future in futures:
            future.result()

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            usual = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(self.count, "fedlama", initializer=lambda: torch.set_num_threads(1))
            # Wake every thread now: the number that a new thread sets is also the default of threads that start
            # later, so it has to be restored once all have started.
            started = [self._pool.submit(torch.get_num_threads) for _ in range(self.count)]
            for future in started:
                future.result()
            torch.set_num_threads(usual)
        return self._pool
