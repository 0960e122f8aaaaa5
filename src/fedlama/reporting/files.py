"""Write a figure into a run folder: as PNG to look at, as SVG to edit, and as PDF for papers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

FORMATS: Mapping[str, Mapping[str, None]] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""The formats with the entries that are left out, so that the same figure gives the same bytes."""
_SETTINGS: Any = {"svg.fonttype": "none", "svg.hashsalt": "fedlama"}
"""Text stays text in SVG, which can be searched, read aloud and edited."""


def picture_files(path: Path) -> list[Path]:
    """Return the files of a picture, one for each format.

    Args:
        path: The PNG file.

    >>> [file.name for file in picture_files(Path("front.png"))]
    ['front.png', 'front.svg', 'front.pdf']
    """
    return [path.with_name(f"{path.stem}.{name}") for name in FORMATS]


def save_figure(figure: Figure, path: Path, dpi: int) -> Path:
    """Write a picture in every format, each file so that it is either whole or does not exist.

    Args:
        figure: The picture.
        path: The PNG file; the other formats are beside it.
        dpi: Pixels per inch of the PNG.

    Returns:
        The same path.
    """
    with matplotlib.rc_context(_SETTINGS):
        for file, (name, without) in zip(picture_files(path), FORMATS.items(), strict=True):
            partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
            try:
                figure.savefig(partial, dpi=dpi, format=name, metadata=dict(without))
                figure.set_layout_engine("none")  # it takes half of the time, and stays as it is for the next format
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
    return path
