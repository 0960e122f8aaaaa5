"""Old client states are deleted, and no other file."""

from __future__ import annotations

import os
import time
from pathlib import Path

from fedlama.flower.client.state import KEPT_DAYS, forget_old


def state(folder: Path, days: float, *more: str) -> Path:
    """A run's folder whose files were written some days ago."""
    folder.mkdir(parents=True)
    for name in ("client-3.safetensors", "client-3.lock", *more):
        (folder / name).write_bytes(b"x")
        os.utime(folder / name, (time.time() - days * 86_400,) * 2)
    return folder


def test_a_month_without_a_round_and_the_state_is_gone(tmp_path: Path) -> None:
    old, young = state(tmp_path / "old", 31.0), state(tmp_path / "young", 29.0)
    torn = state(tmp_path / "torn", 40.0, ".client-3.safetensors.17.new")
    assert KEPT_DAYS == 30.0
    assert forget_old(tmp_path) == [old, torn]
    assert [path.name for path in tmp_path.iterdir()] == ["young"]
    assert len(list(young.iterdir())) == 2


def test_one_client_that_goes_on_keeps_the_folder(tmp_path: Path) -> None:
    folder = state(tmp_path / "run", 90.0)
    (folder / "client-4.safetensors").write_bytes(b"x")
    assert forget_old(tmp_path) == []
    assert len(list(folder.iterdir())) == 3


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    mixed = state(tmp_path / "mixed", 90.0, "notes.txt")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_bytes(b"x")
    os.utime(photos / "a.jpg", (0, 0))
    (tmp_path / "client-9.safetensors").write_bytes(b"x")
    assert forget_old(tmp_path) == []
    assert [file.name for file in mixed.iterdir()] == ["notes.txt"]
    assert (photos / "a.jpg").exists()
    assert (tmp_path / "client-9.safetensors").exists()
