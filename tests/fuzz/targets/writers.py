"""MNIST with QMNIST's tables of writers."""

from __future__ import annotations

import struct
from pathlib import Path

from fedlama.data import mnist_writers
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target
from tests.fuzz.targets import idx


def _fill(folder: Path) -> None:
    idx.fill(folder)
    for part, rows in (("train", 3), ("test", 2)):
        table = [struct.pack(">8i", row, 1, 2000 + row, 0, 0, 0, 0, 0) for row in range(rows)]
        content = struct.pack(">4B2I", 0, 0, 12, 2, rows, 8) + b"".join(table)
        (folder / f"qmnist-{part}-labels-idx2-int").write_bytes(content)


_FOLDER = Folder(_fill)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        mnist_writers.load(folder)


TARGET = Target("mnist-writers", lambda draw: _FOLDER.make(draw, idx.damage), _read)
