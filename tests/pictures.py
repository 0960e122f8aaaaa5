"""Pictures of runs as PNG alone: three formats of four pictures take most of the time of a small run.

`tests/conftest.py` does so for every test but those of pictures, which look at the other formats. The figure is still
laid out and drawn, so that data that cannot be drawn are noticed everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

from matplotlib.figure import Figure

_save = Figure.savefig


def _save_png(figure: Figure, file: Any, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
    """Write a figure; its SVG and its PDF are empty files."""
    if settings.get("format") in ("svg", "pdf"):
        Path(file).write_bytes(b"")
    else:
        _save(figure, file, *arguments, **settings)


def png_alone() -> Any:  # noqa: ANN401  (a patch has no public type)
    """Return a context in which figures are drawn as PNG alone."""
    return mock.patch.object(Figure, "savefig", _save_png)


def every_format() -> Any:  # noqa: ANN401
    """Return a context in which figures are drawn in every format."""
    return mock.patch.object(Figure, "savefig", _save)
