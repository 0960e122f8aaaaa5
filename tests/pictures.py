"""Pictures of runs as empty files: drawing four pictures in three formats takes most of the time of a small run.

`tests/conftest.py` does so for every test but those of pictures, which have a fixture of their own. The figures are
still made, with all their data; only their pixels are not.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

_save = Figure.savefig


def _empty_png() -> bytes:
    """Return a PNG of one pixel, which every reader of pictures takes."""
    file = BytesIO()
    _save(Figure(figsize=(0.01, 0.01), dpi=100), file, format="png")
    return file.getvalue()


_PNG = _empty_png()


def _save_nothing(figure: Figure, file: Any, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
    """Write a picture of one pixel in place of a PNG, and an empty file in place of an SVG or a PDF."""
    if isinstance(file, str | Path) and settings.get("format") in ("png", "svg", "pdf"):
        Path(file).write_bytes(_PNG if settings["format"] == "png" else b"")
    else:
        _save(figure, file, *arguments, **settings)


def not_drawn() -> Any:  # noqa: ANN401  (a patch has no public type)
    """Return a context in which no picture is drawn."""
    return mock.patch.object(Figure, "savefig", _save_nothing)


def drawn() -> Any:  # noqa: ANN401
    """Return a context in which pictures are drawn in every format."""
    return mock.patch.object(Figure, "savefig", _save)
