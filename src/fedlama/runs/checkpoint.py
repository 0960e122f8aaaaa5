"""Checkpoints: the whole state of a run in one file, written atomically, named by its content, and never pickled.

A checkpoint is a safetensors file: tensors, and everything else as JSON in its metadata. Its name holds the number of
rounds done and the first digits of its SHA-256, so that a damaged file is recognised and the checkpoint before it is
used. A file is written under another name, flushed to the disk and renamed: after a power cut there are the old
checkpoints, or the old ones and the new one.
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
from fedlama.errors import FedlamaError, cut, printable, shown, write_remedy
from fedlama.federation.state import Snapshot as Snapshot
from fedlama.runs.files import file_digest

VERSION = 2
"""Version of the file format; raised when files of the version before can no longer be read."""

_NAME = re.compile(r"round-(\d{8})-([0-9a-f]{16})\.safetensors")


def save_snapshot(snapshot: Snapshot, folder: Path, *, keep: int = 2) -> Path:
    """Write a checkpoint, and delete the oldest ones beyond a limit.

    Args:
        snapshot: The state of the run.
        folder: Folder of the checkpoints; made if it does not exist.
        keep: Number of checkpoints to keep, this one included.

    Returns:
        The new file.

    Raises:
        FedlamaError: It cannot be written; the older checkpoints are kept.
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
        for stale in checkpoints_in(folder)[keep:]:
            stale.unlink(missing_ok=True)
    except OSError as error:
        raise FedlamaError(
            f"the checkpoint of round {snapshot.rounds_done} cannot be written to {printable(folder)} "
            f"({error.strerror}); the ones before it are whole; {write_remedy(error)}, and start the same command again"
        ) from error
    return folder / name


def whole_snapshots(folder: Path, warn: Callable[[str], None]) -> Iterator[Snapshot]:
    """Read the checkpoints that are whole, newest first.

    Args:
        folder: Folder of the checkpoints; it need not exist.
        warn: Called with a sentence for each checkpoint that has to be skipped.

    Yields:
        The states.
    """
    for path in checkpoints_in(folder):
        try:
            snapshot = _read(path)
        except (OSError, SafetensorError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            warn(f"checkpoint {path.name} is damaged ({cut(error)}); using the one before it")
        else:
            yield snapshot


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that it is either whole or does not exist, also after a power cut.

    Args:
        path: The file; an existing one is replaced.
        content: Its content.

    Raises:
        OSError: It cannot be written.
    """
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)  # whatever it is: opening a pipe would block
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Make a renaming durable, on systems that can flush a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the files of the checkpoints in a folder, newest first.

    Args:
        folder: The folder; it need not exist.
    """
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def rounds_done(path: Path) -> int:
    """Return the number of rounds before a checkpoint.

    Args:
        path: One of the files that :func:`checkpoints_in` returned.
    """
    match = _NAME.fullmatch(path.name)
    return int(match[1]) if match else 0


def _read(path: Path) -> Snapshot:
    match = _NAME.fullmatch(path.name)
    digest = file_digest(path)
    if match is None or not digest.startswith(match[2]):
        raise ValueError("its SHA-256 is not the one in its name")
    with safe_open(path, framework="pt") as file:
        record = json.loads((file.metadata() or {})["fedlama"])
        if record["version"] != VERSION:
            raise ValueError(f"it has version {shown(record['version'])}, expected version {VERSION}")
        if record["rounds_done"] != int(match[1]) or not isinstance(record["facts"], dict):
            raise ValueError("its number of rounds is not the one in its name")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
        facts = record["facts"]
        if isinstance(facts.get("federation"), dict):  # its words may be an older version's
            facts["federation"] = modernise(facts["federation"], ignore_renamed)
    return Snapshot(int(match[1]), tensors, facts)
