"""TensorBoard: an event file in the run folder, written without any extra library.

Show it with ``tensorboard --logdir runs``.
"""

from __future__ import annotations

import struct
import time
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fedlama.core.records import RoundRecord
from fedlama.errors import FedlamaError, write_remedy
from fedlama.reporting.tracking.base import Scalars
from fedlama.reporting.tracking.events import record as framed
from fedlama.reporting.tracking.events import scalars_event, version_event

_LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


class TensorBoard:
    """Writes one event file; use it as a context manager and as a callback.

    Args:
        folder: Folder of the file; event files of an earlier run in it are deleted in the first round.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._scalars = Scalars()
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        if self._file:
            self._file.close()

    def on_round(self, record: RoundRecord) -> None:
        """Write the numbers of the round at its local step.

        Raises:
            FedlamaError: The file cannot be written.
        """
        try:
            file = self._file = self._file or self._begin()
            numbers = {name: max(-_LARGEST, min(_LARGEST, n)) for name, n in self._scalars.of(record).items()}
            file.write(framed(scalars_event(time.time(), record.local_steps, numbers)))
            file.flush()
        except OSError as error:
            raise FedlamaError(
                f"{self._folder} cannot be written ({error.strerror}); {write_remedy(error, 'use --track none')}"
            ) from error

    def _begin(self) -> BinaryIO:
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("events.out.tfevents.*"):
            old.unlink()
        now = time.time()
        file = (self._folder / f"events.out.tfevents.{int(now)}.fedlama").open("wb")
        file.write(framed(version_event(now)))
        return file
