"""Where the run folders go, and what happens when nothing can be written there."""

from __future__ import annotations

from pathlib import Path

from tests.cli.call import SMALL, fedlama, refused


def test_the_name_and_the_folder_are_the_users(tmp_path: Path) -> None:
    (run,) = fedlama("run", *SMALL, "name=mine", "--json", "--out", tmp_path / "a" / "b").json["runs"]
    assert Path(run["run_folder"]).parent == tmp_path / "a" / "b" / "mine"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (problem,) = refused("run", *SMALL, "--out", tmp_path / "file")
    assert "cannot be written (Not a directory)" in problem
    assert str(tmp_path / "file") in problem


def test_a_place_where_nothing_can_be_written() -> None:
    (problem,) = refused("run", *SMALL, "--out", "/proc/nowhere")
    assert "/proc/nowhere" in problem
