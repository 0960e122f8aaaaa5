"""Tables with named columns, and a second one that is joined."""

from __future__ import annotations

from pathlib import Path
from random import Random

from fedlama.data.table import TableFile
from tests.fuzz.damage import damage_bytes
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target


def _fill(folder: Path) -> None:
    rows = "".join(f'p{row},{row}.5,{"mf"[row % 2]},"h, {row % 3}",{"yes" if row % 4 else "no"}\n' for row in range(9))
    (folder / "rows.csv").write_text(f"pid,age,sex,hospital,sick\n{rows}", encoding="utf-8")
    parts = "".join(f"p{row},{'test' if row > 5 else 'train'}\n" for row in range(9))
    (folder / "parts.csv").write_text(f"pid,part\n{parts}", encoding="utf-8")


_FOLDER = Folder(_fill)


def _damage(draw: Random, _name: str, content: bytes) -> bytes:
    return damage_bytes(draw, content)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        TableFile(
            path=folder / "rows.csv",
            target="sick",
            join=folder / "parts.csv",
            key="pid",
            group="hospital",
            split="part",
            standardise=True,
        ).load()


TARGET = Target("table", lambda draw: _FOLDER.make(draw, _damage), _read)
