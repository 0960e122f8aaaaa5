"""A folder of pictures in several formats."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from fedlama.data.picture_folder import PictureFolder
from tests.fuzz.damage import damage_bytes
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target


def _fill(folder: Path) -> None:
    for number, name in enumerate(("cat/1.png", "cat/2.jpg", "dog/3.gif", "dog/4.bmp", "dog/5.tif")):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((6, 6, 3), 40 * number, dtype=np.uint8)).save(folder / name)


_FOLDER = Folder(_fill)


def _damage(draw: Random, _name: str, content: bytes) -> bytes:
    return damage_bytes(draw, content)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        PictureFolder(path=folder, size=4).load()


TARGET = Target("pictures", lambda draw: _FOLDER.make(draw, _damage), _read)
