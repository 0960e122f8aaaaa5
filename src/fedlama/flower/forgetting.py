"""Old states of clients: a folder to which nobody has come back for a month is deleted."""

from __future__ import annotations

import time
from pathlib import Path

KEPT_DAYS = 30.0
_OURS = ("client-*.safetensors", "client-*.lock", ".client-*.new")


def forget_old(root: Path, days: float = KEPT_DAYS) -> list[Path]:
    """Delete the runs' folders below a node's state folder in which nothing was written for a while.

    Only files that nodes write themselves are deleted, and only folders that are empty then. Whoever goes on with such
    a run later is sent the full model, as after any loss.

    Args:
        root: The node's state folder, see :func:`fedlama.flower.settings.state_folder`.
        days: How long a state is kept after it was written last.

    Returns:
        The folders that are gone.
    """
    gone = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = [file for pattern in _OURS for file in folder.glob(pattern)]
        if files and max(file.stat().st_mtime for file in files) < time.time() - days * 24 * 3600:
            for file in files:
                file.unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
                gone.append(folder)
    return gone
