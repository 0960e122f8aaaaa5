"""Checkpoint files: atomic, versioned, checked by content, kept to a limit."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedlama import FedlamaError
from fedlama.runs.checkpoint import Snapshot, save_snapshot, whole_snapshots


def snapshot(rounds: int) -> Snapshot:
    return Snapshot(rounds, {"global/w": torch.arange(4.0) + rounds}, {"cohort": [1, 2], "note": "ü"})


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save_snapshot(snapshot(3), tmp_path)
    (found,) = whole_snapshots(tmp_path, warn=pytest.fail)
    assert found.rounds_done == 3
    assert found.facts == {"cohort": [1, 2], "note": "ü"}
    assert torch.equal(found.tensors["global/w"], torch.tensor([3.0, 4.0, 5.0, 6.0]))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for rounds in (1, 2, 9, 10, 11):
        save_snapshot(snapshot(rounds), tmp_path, keep=3)
    assert [one.rounds_done for one in whole_snapshots(tmp_path, warn=pytest.fail)] == [11, 10, 9]


def test_a_damaged_one_is_passed_over_and_named(tmp_path: Path) -> None:
    save_snapshot(snapshot(1), tmp_path)
    newest = save_snapshot(snapshot(2), tmp_path)
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(content)
    said: list[str] = []
    assert [one.rounds_done for one in whole_snapshots(tmp_path, said.append)] == [1]
    assert newest.name in said[0]
    assert "is damaged" in said[0]


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = save_snapshot(snapshot(1), tmp_path)
    tensors = load_file(path)
    path.unlink()
    other = tmp_path / "other"
    save_file(tensors, other, metadata={"fedlama": '{"version": 99, "rounds_done": 1, "facts": {}}'})
    digest = hashlib.sha256(other.read_bytes()).hexdigest()[:16]
    other.rename(tmp_path / f"round-00000001-{digest}.safetensors")
    said: list[str] = []
    assert list(whole_snapshots(tmp_path, said.append)) == []
    assert "version 99" in said[0]


def test_no_folder_no_checkpoints(tmp_path: Path) -> None:
    assert list(whole_snapshots(tmp_path / "missing", warn=pytest.fail)) == []


def test_a_full_disk_keeps_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_snapshot(snapshot(1), tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(FedlamaError, match=r"No space left on device.*are whole"):
        save_snapshot(snapshot(2), tmp_path)
    monkeypatch.undo()
    assert [one.rounds_done for one in whole_snapshots(tmp_path, warn=pytest.fail)] == [1]
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
