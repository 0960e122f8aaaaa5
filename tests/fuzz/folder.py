"""Targets that read several files: a folder of valid ones, of which each input replaces one."""

from __future__ import annotations

import atexit
import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from random import Random


class Folder:
    """A folder of valid files in a temporary place.

    Args:
        fill: Writes the files into a folder.
    """

    def __init__(self, fill: Callable[[Path], None]) -> None:
        self._fill = fill

    @cached_property
    def path(self) -> Path:
        """The folder, written when first asked for; it has a neighbour that no reader may touch."""
        root = scratch(str(id(self))) / "inner"
        root.mkdir()
        self._fill(root)
        return root

    @cached_property
    def valid(self) -> dict[str, bytes]:
        """The files by their place below the folder."""
        files = sorted(path for path in self.path.rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files}

    def make(self, draw: Random, damage: Callable[[Random, str, bytes], bytes]) -> bytes:
        """Draw an input: the number of a file, then what it holds; sometimes what another one holds."""
        names = list(self.valid)
        number = draw.randrange(len(names))
        source = draw.choice(names) if draw.random() < 0.03 else names[number]
        return bytes([number]) + damage(draw, names[number], self.valid[source])

    @contextlib.contextmanager
    def replaced(self, data: bytes) -> Iterator[Path]:
        """Put an input into the folder, and the valid file back afterwards; nothing may appear beside it."""
        name = list(self.valid)[data[0] % len(self.valid)] if data else next(iter(self.valid))
        (self.path / name).write_bytes(data[1:])
        try:
            yield self.path
        finally:
            (self.path / name).write_bytes(self.valid[name])
            assert [path.name for path in self.path.parent.iterdir()] == ["inner"], "a file appeared outside the folder"
            assert len([p for p in self.path.rglob("*") if p.is_file()]) == len(self.valid), "a file appeared"


@cache
def scratch(name: str) -> Path:
    """Return an empty folder that goes with the process."""
    path = Path(tempfile.mkdtemp(prefix=f"fedlama-fuzz-{name}-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path
