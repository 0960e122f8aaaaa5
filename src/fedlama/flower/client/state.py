"""A client's durable state: its diverged layers, its solver's buffers and how far it has come.

One file per run and client, written beside the old one, flushed to the disk and then renamed over it, so that there
is a whole state at any moment. Neither Flower's memory of a node nor a process survives a restart; this file does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedlama.engines.api import Values

_VERSION = "1"


@dataclass
class Resident:
    """What a client keeps between rounds.

    Attributes:
        run: The run it belongs to.
        fingerprint: The labelling and codec it belongs to.
        round_index: The latest round that was trained.
        loss: That round's mean training loss.
        values: The local model, buffers that never travel included.
        optimizer_state: The solver's buffers by name.
        reference: Each layer's value as last received; empty when nobody looks back at it.
    """

    run: str
    fingerprint: str
    round_index: int
    loss: float
    values: Values
    optimizer_state: Values
    reference: Values


def save(resident: Resident, path: Path) -> None:
    """Write a state durably.

    Args:
        resident: The state.
        path: Its file; the folder is made when missing.
    """
    about = {
        "run": resident.run,
        "fingerprint": resident.fingerprint,
        "round": resident.round_index,
        "loss": resident.loss.hex(),
    }
    groups = {"values": resident.values, "memory": resident.optimizer_state, "reference": resident.reference}
    tensors = {f"{group}/{name}": value for group, named in groups.items() for name, value in named.items()}
    write_tensors(tensors, {"fedlama-client": _VERSION, "state": json.dumps(about)}, path)


def load(path: Path) -> Resident | None:
    """Read a state.

    Args:
        path: Its file.

    Returns:
        The state; None when there is none, or none that can be read: the server then sends the full model.
    """
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("fedlama-client") != _VERSION:
            return None
        about = json.loads(metadata["state"])
        groups: dict[str, Values] = {"values": {}, "memory": {}, "reference": {}}
        for key, value in tensors.items():
            group, _, name = key.partition("/")
            groups[group][name] = value
        loss = float.fromhex(about["loss"])
        return Resident(
            str(about["run"]),
            str(about["fingerprint"]),
            int(about["round"]),
            loss,
            groups["values"],
            groups["memory"],
            groups["reference"],
        )
    except (OSError, SafetensorError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file so that either the old or the new one is there, whatever happens.

    Args:
        tensors: What to write.
        metadata: Text to go with it.
        path: The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        # safetensors refuses tensors that share memory; contiguous clones never do.
        save_file({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, fresh, metadata)
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        OSError: It cannot be read.
        SafetensorError: It is damaged.
    """
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time work on a client's state; a second one waits, then finds the round done.

    Args:
        path: The state's file.
    """
    import fcntl  # not on Windows, where Flower's nodes are started one message at a time anyway

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
