"""Checkpoints while a run trains, Ctrl-C (finish the round, save, stop), and the state from which a run continues."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fedlama.core.records import RoundRecord
from fedlama.errors import FedlamaError
from fedlama.federation.describe import shown_differences
from fedlama.runs.checkpoint import Snapshot, whole_snapshots
from fedlama.runs.configuration import Differences, completed
from fedlama.runs.folder import RunFolder
from fedlama.runs.reader import read_config, read_records

FOLDER = "checkpoints"
"""Folder of the checkpoints inside a run folder."""


class Interrupted(FedlamaError):  # noqa: N818  (nothing went wrong)
    """The user stopped a run; the same command continues it."""


class Checkpoints:
    """A callback that saves checkpoints; use it as the last one.

    Args:
        folder: The run folder, whose lines are made durable before each checkpoint.
        save: Writes a checkpoint into a folder.
        seconds: Seconds between two checkpoints, at least; 0 saves after every round.
        stop: Returns whether the user has asked to stop.
    """

    def __init__(
        self, folder: RunFolder, save: Callable[[Path], object], seconds: float, stop: Callable[[], bool]
    ) -> None:
        self._folder, self._save, self._seconds, self._stop = folder, save, seconds, stop
        self._last = time.monotonic()

    def on_round(self, record: RoundRecord) -> None:
        """Save when the time has passed, or when the user has asked to stop.

        Raises:
            Interrupted: The user has asked to stop; the checkpoint is written.
        """
        stop = self._stop()
        if not stop and time.monotonic() - self._last < self._seconds:
            return
        self._folder.flush()
        self._save(self._folder.path / FOLDER)
        self._last = time.monotonic()
        if stop:
            raise Interrupted(
                f"stopped after round {record.round_index}; the state is saved in {self._folder.path}, start the same "
                "command again to continue"
            )


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C stop the run after the current round, and the second one at once.

    Yields:
        A function that returns whether the user has asked to stop.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()
        print("stopping after this round; press Ctrl-C again to stop at once", file=sys.stderr)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def resume_point(
    path: Path, differences: Differences, warn: Callable[[str], None]
) -> tuple[Snapshot, list[RoundRecord]] | None:
    """Find the state from which an interrupted run can continue.

    Args:
        path: The run folder; it need not exist.
        differences: Compares the folder's configuration with that of the run.
        warn: Called with a sentence for everything that has to be skipped.

    Returns:
        The newest whole checkpoint whose rounds are in the folder's files, and their records; None to start from
        round 0.
    """
    stored = read_config(path)
    if stored is None or not (path / FOLDER).is_dir():
        return None
    if changed := differences(stored):
        warn(
            f"{path} has checkpoints of a run with other settings ({shown_differences(changed)}); starting from round 0"
        )
        return None
    for snapshot in whole_snapshots(path / FOLDER, warn):
        try:
            records = read_records(path)
        except FedlamaError as error:
            warn(f"{error}; starting from round 0")
            return None
        if len(records) >= snapshot.rounds_done:
            return completed(snapshot, stored), records[: snapshot.rounds_done]
        warn(
            f"the files of {path} end with round {len(records) - 1}, before the checkpoint of round "
            f"{snapshot.rounds_done - 1}; using the checkpoint before it"
        )
    return None
