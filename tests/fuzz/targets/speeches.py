"""Texts of speeches, cut by speaker."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fedlama.data import text
from tests.fuzz.damage import damage_text
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target

_WORDS = (
    b"\n\n",
    b"\n",
    b":\n",
    b":",
    b"\r\n",
    b"BRUTUS:\n",
    b"\xff",
    "\U0010ffff\u0000".encode(),
    b"\n\nA:\n",
    b"et tu ",
)


def _fill(folder: Path) -> None:
    speech = (
        b"CAESAR:\nThe Ides of March are come, and so is the soothsayer.\n\nSOOTHSAYER:\nAy, Caesar; but not gone.\n\n"
    )
    (folder / "input.txt").write_bytes(speech * 3)


def _damage(draw: Random, _name: str, content: bytes) -> bytes:
    return damage_text(draw, content, _WORDS)


_FOLDER = Folder(_fill)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        text.load(folder, sequence_length=5, test_share=0.3)


TARGET = Target("speeches", lambda draw: _FOLDER.make(draw, _damage), _read)
