"""Checkpoints: a run's whole state in one file, written atomically, named by its content, and never pickled.

A checkpoint is a safetensors file: tensors, and everything else as JSON in its metadata. Its name holds the number of
rounds done and the beginning of its SHA-256, so a damaged file gives itself away and the one before it is taken
instead. Writing goes to a temporary file first, which is flushed to the disk and renamed; a power cut leaves either
the old checkpoints or the new one as well.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from fedlama.core.deprecations import ignore_renamed, modernise
from fedlama.errors import FedlamaError, cut, shown
from fedlama.federation.state import Snapshot as Snapshot

VERSION = 2
"""Raised whenever a checkpoint of the version before can no longer be read."""

_NAME = re.compile(r"round-(\d{8})-([0-9a-f]{16})\.safetensors")


def save_snapshot(snapshot: Snapshot, folder: Path, *, keep: int = 2) -> Path:
    """Write a checkpoint and drop the oldest beyond a limit.

    Args:
        snapshot: What to write.
        folder: Where the checkpoints lie; made when missing.
        keep: Checkpoints to keep, this one included.

    Returns:
        The new file.

    Raises:
        FedlamaError: It cannot be written; older checkpoints are still there.
    """
    record = json.dumps({"version": VERSION, "rounds_done": snapshot.rounds_done, "facts": snapshot.facts})
    content = save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in snapshot.tensors.items()},
        metadata={"fedlama": record},
    )
    name = f"round-{snapshot.rounds_done:08d}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / name, content)
        for stale in _known(folder)[keep:]:
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise FedlamaError(
            f"the checkpoint of round {snapshot.rounds_done} cannot be written to {folder} ({error.strerror}); "
            "the ones before it are whole, make room and start the same command again"
        ) from error
    return folder / name


def whole_snapshots(folder: Path, warn: Callable[[str], None]) -> Iterator[Snapshot]:
    """Read the checkpoints that are whole, newest first.

    Args:
        folder: Where the checkpoints lie; it need not exist.
        warn: Told, in one sentence each, of the checkpoints that had to be passed over.

    Yields:
        The snapshots.
    """
    for path in _known(folder):
        try:
            snapshot = _read(path)
        except (OSError, SafetensorError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            warn(f"checkpoint {path.name} is damaged ({cut(error)}); the one before it is taken")
        else:
            yield snapshot


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or not there, also after a power cut.

    Args:
        path: Where it goes; a file there is replaced.
        content: What it holds.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a renaming durable, where the system lets a folder be flushed."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _known(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def _read(path: Path) -> Snapshot:
    match = _NAME.fullmatch(path.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if match is None or not digest.startswith(match[2]):
        raise ValueError("its content is not what its name says")
    with safe_open(path, framework="pt") as file:
        record = json.loads((file.metadata() or {})["fedlama"])
        if record["version"] != VERSION:
            raise ValueError(f"it has version {shown(record['version'])}, this program reads version {VERSION}")
        if record["rounds_done"] != int(match[1]) or not isinstance(record["facts"], dict):
            raise ValueError("it is not of the round that its name says")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (the handle is no mapping)
        facts = record["facts"]
        if isinstance(facts.get("federation"), dict):  # its words may be an older version's
            facts["federation"] = modernise(facts["federation"], ignore_renamed)
    return Snapshot(int(match[1]), tensors, facts)
