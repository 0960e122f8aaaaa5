"""A client's durable state: its local model, its optimizer state and the latest round that it trained.

Each run and client has one file. A new state is written beside the old one, flushed to the disk and renamed over it, so
a complete state exists at every moment. Flower's own memory of a node is lost when the node restarts; this file is not.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fedlama.core.scores import Score
from fedlama.core.state_dicts import join, split
from fedlama.engines.api import Values

_VERSION = "1"
_GROUPS = ("values", "memory", "reference", "codec", "codec-next")
"""Prefixes of the tensors' names in the file, in the order of the fields of :class:`ClientState`."""


@dataclass
class ClientState:
    """What a client keeps between rounds.

    Attributes:
        run: The run it belongs to.
        fingerprint: The labelling and the codec it belongs to.
        round_index: The latest round that was trained.
        loss: The mean training loss of that round.
        values: The local model, including buffers that are never sent.
        optimizer_state: The solver's state by name.
        reference: Each tensor as it was received last; empty when the solver, codec and server do not need it.
        codec_state: The codec's states by ``tensor/state`` with which the round's upload was written, so that it can be
            written again.
        codec_next: Its states afterwards, which count once the server has the upload.
        score: The score of a personal model in that round, where one was asked for.
    """

    run: str
    fingerprint: str
    round_index: int
    loss: float
    values: Values
    optimizer_state: Values
    reference: Values
    codec_state: Values = field(default_factory=dict)
    codec_next: Values = field(default_factory=dict)
    score: Score | None = None

    def codec_state_after(self, answered_round: int) -> Values:
        """Return the codec's states for the next upload.

        Args:
            answered_round: The latest round of which the server has this client's reply.
        """
        return self.codec_next if answered_round == self.round_index else self.codec_state


def save(state: ClientState, path: Path) -> None:
    """Write a state durably.

    Args:
        state: The state.
        path: Its file; a missing folder is made.
    """
    facts = {
        "run": state.run,
        "fingerprint": state.fingerprint,
        "round": state.round_index,
        "loss": state.loss.hex(),
        "score": None if state.score is None else asdict(state.score),
    }
    tensors = (state.values, state.optimizer_state, state.reference, state.codec_state, state.codec_next)
    groups = dict(zip(_GROUPS, tensors, strict=True))
    write_tensors(join(groups), {"fedlama-client": _VERSION, "state": json.dumps(facts)}, path)


def load(path: Path) -> ClientState | None:
    """Read a state.

    Args:
        path: Its file.

    Returns:
        The state; None when the file is missing or cannot be read: the server then sends the full model.
    """
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("fedlama-client") != _VERSION:
            return None
        facts = json.loads(metadata["state"])
        groups = split(tensors)
        if not groups.keys() <= set(_GROUPS):
            return None
        run, fingerprint = str(facts["run"]), str(facts["fingerprint"])
        round_index, loss = int(facts["round"]), float.fromhex(facts["loss"])
        score = None if facts.get("score") is None else Score(**facts["score"])
    except (OSError, SafetensorError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return None
    values, optimizer_state, reference, codec_state, codec_next = (groups.get(name, {}) for name in _GROUPS)
    return ClientState(
        run, fingerprint, round_index, loss, values, optimizer_state, reference, codec_state, codec_next, score
    )


def write_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], path: Path) -> None:
    """Write a safetensors file so that the old or the new one exists complete, whatever happens.

    Args:
        tensors: The tensors.
        metadata: Text that is stored with them.
        path: The file.
    """
    # safetensors refuses tensors that share memory; contiguous clones never do.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with replaced(path) as fresh:
        save_file(whole, fresh, metadata)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Replace a file durably: the old or the new one exists complete, whatever happens.

    Args:
        path: The file; a missing folder is made.

    Yields:
        The path at which the block writes the new file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        yield fresh
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
    """Lock a client's state for one process; a second process waits, and then finds the round done.

    Args:
        path: The state's file.
    """
    import fcntl  # only here, because Windows lacks it; Flower's nodes do not run there

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


KEPT_DAYS = 30.0
_FILES_OF_NODES = ("client-*.safetensors", "client-*.keys", "client-*.lock", ".client-*.new")


def forget_old(root: Path, days: float = KEPT_DAYS) -> list[Path]:
    """Delete the runs' folders in a node's state folder in which nothing was written for a number of days.

    Only files that nodes write are deleted, and only folders that are empty afterwards. If such a run goes on later,
    the client is sent the full model, as after any loss of its state.

    Args:
        root: The node's state folder, see :func:`fedlama.flower.settings.state_folder`.
        days: How long a state is kept after it was written last.

    Returns:
        The deleted folders.
    """
    deleted = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        files = [file for pattern in _FILES_OF_NODES for file in folder.glob(pattern)]
        if files and max(file.stat().st_mtime for file in files) < time.time() - days * 24 * 3600:
            for file in files:
                file.unlink(missing_ok=True)
            if not any(folder.iterdir()):
                folder.rmdir()
                deleted.append(folder)
    return deleted
