"""Folders of .npz: a zip, in it headers that Python text describes, in them claims about sizes."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from random import Random

import numpy as np

from fedlama.data import npz_folder
from tests.fuzz.damage import damage_bytes
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target

_HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4)}",
    "{'descr': '|u1', 'fortran_order': True, 'shape': (3, 2, 2)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1,)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1.5, True)}",
    "{'descr': '|u1', 'fortran_order': False, 'shape': ()}",
    "{'descr': '|O', 'fortran_order': False, 'shape': (3,)}",
    "{'descr': '<f16', 'fortran_order': False, 'shape': (3,)}",
    "{'descr': [('x', '<f4')], 'fortran_order': 1, 'shape': (3,)}",
    "{'descr': ('|u1', (65536, 65536)), 'fortran_order': False, 'shape': (3,)}",
    "{'descr': '<i8', 'fortran_order': False, 'shape': " + "(" * 200 + ")" * 200 + "}",
    "__import__('os').system('true')",
    "[" * 1000,
)


def _fill(folder: Path) -> None:
    for part, rows in (("train", 3), ("test", 2)):
        with (folder / f"{part}.npz").open("wb") as file:
            x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
            np.savez_compressed(file, x=x, y=np.arange(rows), group=np.arange(rows, dtype=np.int32))


def _damage(draw: Random, _name: str, content: bytes) -> bytes:
    """Damage the zip, or an array inside a fresh one, or put other members in."""
    if draw.random() < 0.4:
        return damage_bytes(draw, content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(members))
    match draw.randrange(4):
        case 0:
            members[draw.choice(("../../../outside.npy", "/outside.npy", "x.npy", "C:\\x.npy"))] = members[name]
        case 1:
            text = draw.choice(_HEADERS).encode()
            body = draw.choice((bytes(12), bytes(48), b"", b"\xff" * 24))
            members[name] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body
        case 2:
            del members[name]
        case _:
            members[name] = damage_bytes(draw, members[name])
    fresh = io.BytesIO()
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(fresh, "w", method) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return fresh.getvalue() if draw.random() < 0.8 else damage_bytes(draw, fresh.getvalue())


_FOLDER = Folder(_fill)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        npz_folder.load(folder)


TARGET = Target("npz", lambda draw: _FOLDER.make(draw, _damage), _read)
