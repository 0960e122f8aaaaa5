"""CIFAR: the binary files, and the pickles, which are programs."""

from __future__ import annotations

import pickle
from pathlib import Path
from random import Random

import numpy as np

from fedlama.data import cifar
from tests.fuzz.damage import damage_bytes
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target

_NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
_PIECES = (
    b"cposix\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n", b"c__main__\nx\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n",
    b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f", b"h\x00", b"q\x00",
    b"0", b"2", b"1", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"R", b"b", b"o", b"\x81", b"\x85", b"\x86", b"\x87",
    b"(", b".", b"]", b"}", b")", b"N", b"K\x05", b"Q", b"P1\n", b"L99999999999L\n", b"\x8a\xff", b"X\xff\xff\xff\x7f",
    b"]q\x00h\x00h\x00e", b")" + b"\x85" * 300, b"(" * 300, b"\x85q\x01h\x01\x86" * 40, b"U\x04data", b"U\x06labels",
)  # fmt: skip


def _binary(folder: Path) -> None:
    for number, name in enumerate(_NAMES):
        (folder / f"{name}.bin").write_bytes((bytes([number]) + bytes(3072)) * 2)


def _pickled(folder: Path) -> None:
    for number, name in enumerate(_NAMES):
        rows = 0 if name != "data_batch_1" else 1
        batch = {
            b"batch_label": b"one",
            b"labels": [number] * (rows + 1),
            b"data": np.zeros((rows + 1, 3072), np.uint8),
            b"filenames": [b"a"] * (rows + 1),
        }
        (folder / name).write_bytes(pickle.dumps(batch, 2 + number % 3))


def _damage_binary(draw: Random, _name: str, content: bytes) -> bytes:
    return damage_bytes(draw, content)


def _damage_pickle(draw: Random, _name: str, content: bytes) -> bytes:
    """Damage the program around the pixels, or put instructions in."""
    if draw.random() < 0.4:
        return damage_bytes(draw, content)
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 3))):
        at = draw.choice((draw.randrange(len(data) + 1), draw.randrange(120), max(len(data) - draw.randrange(120), 0)))
        data[at : at + draw.choice((0, 0, 1, 2))] = draw.choice(_PIECES)
    return bytes(data)


_BINARY, _PICKLED = Folder(_binary), Folder(_pickled)


def _read_binary(data: bytes) -> None:
    with _BINARY.replaced(data) as folder:
        cifar.load(folder, complete=False)


def _read_pickled(data: bytes) -> None:
    with _PICKLED.replaced(data) as folder:
        cifar.load(folder, complete=False)


BINARY = Target("cifar-binary", lambda draw: _BINARY.make(draw, _damage_binary), _read_binary)
PICKLED = Target("cifar-pickle", lambda draw: _PICKLED.make(draw, _damage_pickle), _read_pickled)
