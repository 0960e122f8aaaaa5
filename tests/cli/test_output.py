"""What a person sees: a table and the folders; with --quiet nothing; progress on standard error of terminals only."""

from __future__ import annotations

from pathlib import Path

import fedlama as package
from tests.cli.call import SMALL, fedlama


def test_run_shows_a_table_and_the_folder(tmp_path: Path) -> None:
    called = fedlama("run", "seed=3", *SMALL, "--out", tmp_path)
    assert (called.code, called.err) == (0, "")
    for word in ("method", "acc %", "C %", "MB up", "MB down", "FedLAMA(3, 2)", "sec"):
        assert word in called.out
    (folder,) = (tmp_path / "digits").iterdir()
    assert f"FedLAMA(3, 2): {folder}" in called.out
    assert "seed3" in folder.name


def test_quiet_shows_nothing(tmp_path: Path) -> None:
    called = fedlama("run", *SMALL, "--quiet", "--out", tmp_path)
    assert (called.code, called.out, called.err) == (0, "", "")


def test_version() -> None:
    assert fedlama("--version").out.strip() == package.__version__


def test_no_arguments_show_the_commands() -> None:
    shown = fedlama().out + fedlama("--help").out
    assert all(command in shown for command in ("compare", "run", "plan"))
