"""One process at a time in a folder: a lock that the operating system releases when its holder ends or is killed.

The lock is the system's lock on an open file (`flock`), not the existence of that file. A killed process therefore
leaves no lock behind, only a small file that the next holder takes over.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import time
import weakref
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from fedlama.errors import DataError, FedlamaError, printable, write_remedy
from fedlama.runs.files import read_object

NAME = ".lock"
"""The lock's file in a folder; it names the holder."""
_ATTEMPTS, _PAUSE = 5, 0.02
"""Attempts and seconds between them: another process may have looked for a moment whether the folder is locked."""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_FLAGS = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
"""A pipe must not block, and a link in a folder of another person must not lead to a file elsewhere."""
_LOG = logging.getLogger("fedlama.runs")


class FolderLock:
    """Locks a folder for this process, until it is released, forgotten, or the process ends.

    Args:
        folder: The folder; made if it does not exist.

    Raises:
        FedlamaError: Another process has locked it, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._close: weakref.finalize[[int], FolderLock] | None = None
        self._made: list[Path] = []
        try:
            self._made = [path for path in (folder, *folder.parents) if not path.exists()]
            folder.mkdir(parents=True, exist_ok=True)
            self._acquire()
        except OSError as error:
            raise FedlamaError(
                f"the run folder {printable(folder)} cannot be written ({error.strerror}); {write_remedy(error)}"
            ) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.release()

    def release(self) -> None:
        """Release the lock and delete its file, and folders that were made for it alone; a second call does nothing."""
        if self._close is not None:
            with suppress(OSError):  # Windows keeps files that are open
                self._file.unlink(missing_ok=True)
            self._close()
            self._close = None
            with suppress(OSError):  # a folder that holds files stays
                for folder in self._made:
                    folder.rmdir()

    def _acquire(self) -> None:
        attempts = 0
        while self._close is None:
            handle = os.open(self._file, _FLAGS | os.O_CREAT, 0o644)
            try:
                if not _try_lock(handle):
                    attempts += 1
                    if attempts == _ATTEMPTS:
                        raise FedlamaError(_busy(self._file.parent))
                    time.sleep(_PAUSE)
                    continue
                # The holder before may have deleted the file between the opening and the locking.
                if _is_file(handle, self._file):
                    os.ftruncate(handle, 0)
                    os.write(handle, json.dumps(_this_process()).encode())
                    self._close = weakref.finalize(self, os.close, handle)
                    handle = -1
            finally:
                if handle != -1:
                    os.close(handle)


def is_locked(folder: Path) -> bool:
    """Return whether a process has locked a folder now.

    Args:
        folder: The folder; it need not exist.
    """
    try:
        handle = os.open(folder / NAME, _FLAGS)
    except OSError:
        return False
    try:
        return not _try_lock(handle)
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock an open file without waiting, and return whether that succeeded."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 20, os.SEEK_SET)  # beyond the content, which others may then read
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            _LOG.warning("this file system has no locks (%s); start each run once only", error.strerror)
            return True
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        raise
    return True


def _is_file(handle: int, path: Path) -> bool:
    """Return whether a path still names an open file."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _this_process() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(timespec="seconds")}


def _busy(folder: Path) -> str:
    try:
        holder = read_object(folder / NAME)
    except (OSError, DataError):  # just being written
        holder = {}
    who = "process {pid} on {host}, since {since}".format_map({"pid": "?", "host": "?", "since": "?"} | holder)
    remedy = "wait for it, stop it, or choose another folder (--out, or out in Python)"
    return f"another process writes to {printable(folder)} ({who}); {remedy}"
