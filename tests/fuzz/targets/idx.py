"""MNIST's four files, one of them through gzip."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from random import Random

from fedlama.data import idx
from tests.fuzz.damage import damage_bytes
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target


def fill(folder: Path) -> None:
    """Write three training and two test images of 4 x 5 pixels."""
    for part, rows in (("train", 3), ("t10k", 2)):
        images = struct.pack(">4B3I", 0, 0, 8, 3, rows, 4, 5) + bytes(range(rows * 20))
        labels = struct.pack(">4BI", 0, 0, 8, 1, rows) + bytes(range(rows))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
        if part == "train":
            (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images, mtime=0))
        else:
            (folder / f"{part}-images-idx3-ubyte").write_bytes(images)


def damage(draw: Random, name: str, content: bytes) -> bytes:
    """Damage a file, or what is inside its compression."""
    if name.endswith(".gz") and content[:2] == b"\x1f\x8b" and draw.random() < 0.6:
        return gzip.compress(damage_bytes(draw, gzip.decompress(content)), mtime=0)
    return damage_bytes(draw, content)


_FOLDER = Folder(fill)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        idx.load(folder)


TARGET = Target("idx", lambda draw: _FOLDER.make(draw, damage), _read)
