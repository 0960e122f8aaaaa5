"""Paths as people type them."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home folder.

    A name after ``~`` that is no user's stays as it is, so that the message about a missing file names what was typed;
    :meth:`pathlib.Path.expanduser` raises a RuntimeError.

    Args:
        path: The path.

    >>> expanded("~nosuchuser/data").as_posix()
    '~nosuchuser/data'
    """
    return Path(os.path.expanduser(path))
