"""Checkpoints while a run trains, signals that stop it after a round, and the state from which a run continues."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from fedlama.core.records import RoundRecord
from fedlama.errors import ConfigError, DataError, FedlamaError, printable, without_remedy
from fedlama.federation.stored_description import shown_differences
from fedlama.runs.checkpoint import Snapshot, checkpoints_in, rounds_done, whole_snapshots
from fedlama.runs.configuration import Comparison, completed
from fedlama.runs.files import lines_digest
from fedlama.runs.folder import LINES, RunFolder
from fedlama.runs.reader import STREAMS, read_config, read_records

FOLDER = "checkpoints"
"""Folder of the checkpoints inside a run folder."""


class Interrupted(FedlamaError):  # noqa: N818  (nothing went wrong)
    """The user, or what started the program, stopped a run; the same command continues it.

    Args:
        message: What was stopped, and how to continue.
        number: The signal that asked for it; by convention a program then ends with the code 128 plus this number.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = int(number)
        self.exit_code = 128 + self.number


class StopRequest:
    """Whether a signal has asked to stop, and which one."""

    number: int | None = None

    def __call__(self) -> bool:
        """Return whether a signal has asked to stop."""
        return self.number is not None

    def interrupted(self, message: str) -> Interrupted:
        """Return the error that ends the program as the signal asked.

        Args:
            message: What was stopped, and how to continue.
        """
        return Interrupted(message, signal.SIGINT if self.number is None else self.number)


class Checkpoints:
    """A callback that saves checkpoints; use it as the last one.

    Args:
        folder: The run folder, whose lines are made durable before each checkpoint.
        save: Writes a checkpoint into a folder.
        seconds: Seconds between two checkpoints, at least; 0 saves after every round.
        stop: Whether to stop; by default never.
    """

    def __init__(
        self, folder: RunFolder, save: Callable[[Path], object], seconds: float, stop: StopRequest | None = None
    ) -> None:
        self._folder, self._save, self._seconds, self._stop = folder, save, seconds, stop or StopRequest()
        self._last = time.monotonic()

    def on_round(self, record: RoundRecord) -> None:
        """Save when the time has passed, or when a signal has asked to stop.

        Raises:
            Interrupted: A signal has asked to stop; the checkpoint is written.
        """
        stop = self._stop()
        if not stop and time.monotonic() - self._last < self._seconds:
            return
        self.save()
        if stop:
            raise self._stop.interrupted(
                f"stopped after round {record.round_index}; the state is saved in {self._folder.path}, start the same "
                "command again to continue"
            )

    def save(self) -> None:
        """Save a checkpoint now."""
        self._folder.flush()
        self._save(self._folder.path / FOLDER)
        self._last = time.monotonic()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP stop the run after the current round, and the second one at once.

    Schedulers and containers send SIGTERM, and a terminal that is closed sends SIGHUP. A signal that is ignored (as
    `nohup` does) or that the program around handles itself is left alone; of the latter, Ctrl-C is the exception.

    Yields:
        Whether a signal has asked to stop.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {
        number: signal.getsignal(number)
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None
    }
    handled = [
        number
        for number, handler in before.items()
        if handler == signal.SIG_DFL or (number == signal.SIGINT and handler not in (signal.SIG_IGN, None))
    ]

    def ask(number: int, _frame: FrameType | None) -> None:
        request.number = number
        for each in handled:
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        with suppress(OSError):  # after SIGHUP there is no terminal
            again = "press Ctrl-C" if number == signal.SIGINT else f"send {signal.Signals(number).name}"
            print(f"stopping after this round; {again} again to stop at once", file=sys.stderr)

    for number in handled:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        for number in handled:
            signal.signal(number, before[number])


def resume_point(
    path: Path, comparison: Comparison, warn: Callable[[str], None]
) -> tuple[Snapshot, list[RoundRecord]] | None:
    """Find the state from which an interrupted run can continue.

    Args:
        path: The run folder; it need not exist.
        comparison: Compares the folder's configuration with the run.
        warn: Called with a sentence for everything that has to be skipped, or that the user has to know.

    Returns:
        The newest whole checkpoint whose rounds are in the folder's files, and their records; None to start from
        round 0.
    """
    stored = read_config(path)
    if stored is None or not (path / FOLDER).is_dir():
        return None
    where = printable(path)
    if changed := comparison.differences(stored):
        warn(
            f"{where} has checkpoints of a run with other settings ({shown_differences(changed)}); starting from round "
            "0"
        )
        return None
    for snapshot in whole_snapshots(path / FOLDER, warn):
        try:
            _check_lines(path, snapshot)
            records = read_records(path, first=snapshot.rounds_done)
        except (DataError, OSError) as error:
            warn(f"{without_remedy(error)}; using the checkpoint before that of round {snapshot.rounds_done - 1}")
        else:
            for sentence in comparison.provenance(stored):
                warn(f"{where}: {sentence}")
            return completed(snapshot, stored), records
    warn(f"{where} has no checkpoint that can be used; starting from round 0")
    return None


def take_back(path: Path, round_index: int) -> None:
    """Take a run back, so that it is computed again from a round on; the later checkpoints are deleted.

    Args:
        path: The run folder, which this process has locked.
        round_index: The first round that is computed again, from 0.

    Raises:
        ConfigError: There is no checkpoint from just before that round.
    """
    known = {rounds_done(file): file for file in checkpoints_in(path / FOLDER)}
    if round_index not in known:
        kept = ", ".join(map(str, sorted(known))) or "none"
        raise ConfigError(
            f"from-round is {round_index}, but {printable(path)} has no checkpoint from just before it (known rounds: "
            f"{kept}); choose one of them, and keep more with keep-checkpoints"
        )
    for rounds, file in known.items():
        if rounds > round_index:
            file.unlink(missing_ok=True)


def _check_lines(path: Path, snapshot: Snapshot) -> None:
    """Compare the lines before a checkpoint with their digest in it; before version 0.2 checkpoints had none.

    Raises:
        DataError: A file is not as it was when the checkpoint was written.
    """
    recorded = snapshot.facts.get(LINES)
    for name, digest in recorded.items() if isinstance(recorded, Mapping) else ():
        file = path / f"{name}.jsonl"
        if name in STREAMS and lines_digest(file, snapshot.rounds_done).hexdigest() != digest:
            raise DataError(
                f"the first {snapshot.rounds_done} lines of {printable(file)} are not those that were written; "
                "train the run again"
            )
