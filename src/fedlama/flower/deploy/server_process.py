"""The process of a ServerApp: it leaves the reason of its failure in a file, and it never outlives what started it."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedlama.errors import FedlamaError, cut, printable

FAILED = "failed.txt"
"""Name of the file, in the folder of the run folders, with the reason why the latest run failed."""
_LOG = logging.getLogger("fedlama.flower")
_LOOK_SECONDS, _GRACE_SECONDS = 2.0, 10.0


@contextmanager
def recorded_failure(out: Path) -> Iterator[None]:
    """Write the reason of a failure into a file, where `fedlama flower up` and an operator find it at once.

    Args:
        out: The folder of the run folders; the file is removed when a run begins.
    """
    file = out / FAILED
    with suppress(OSError):
        file.unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        reason = printable(error) if isinstance(error, FedlamaError) else f"{type(error).__name__}: {cut(error, 2000)}"
        with suppress(OSError):  # a full disk must not hide the failure itself
            out.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{reason}\n", encoding="utf-8")
        raise


def end_with_parent(
    parent: Callable[[], int] = os.getppid,
    end: Callable[[int], None] = os._exit,
    look: float = _LOOK_SECONDS,
    grace: float = _GRACE_SECONDS,
) -> threading.Thread:
    """End this process soon after the one that started it has ended.

    When a SuperLink dies, Flower interrupts its ServerApp from a thread, which does not wake a main thread that waits
    for a lock; then the process would hang, and hold the lock of its run folder. The state is on the disk after every
    round, so nothing is lost.

    Args:
        parent: Returns the number of the parent process.
        end: Ends the process with a code.
        look: Seconds between two looks.
        grace: Seconds for which the process may end by itself.

    Returns:
        The thread that watches; it ends with the process.
    """
    started_by = parent()

    def watch() -> None:
        while parent() == started_by:
            time.sleep(look)
        time.sleep(grace)
        _LOG.error("the process that started this ServerApp has ended; ending too, repeat the same command to resume")
        end(1)

    thread = threading.Thread(target=watch, name="fedlama-parent", daemon=True)
    thread.start()
    return thread
