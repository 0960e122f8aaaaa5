"""What a command imports: nothing that takes longer than the command itself and that it does not need.

Modules are counted by name in a process of their own; a clock would measure the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.cli.conftest import Compared

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "torchmetrics", "matplotlib", "numba", "safetensors", "flwr", "pandas", "transformers")
CODE = """
import json, sys
from fedlama.cli.app import main
codes = []
for command in json.loads(sys.argv.pop()):
    sys.argv = ["fedlama", *command]
    try:
        main()
    except SystemExit as end:
        codes.append(end.code)
print(json.dumps([codes, sorted(name for name in sys.modules if "." not in name)]), file=sys.stderr)
"""


def imported(folder: Path, *arguments: str | Path, among: Sequence[str] = HEAVY) -> list[str]:
    """Return which of some packages a command has imported."""
    return imported_by(folder, [list(map(str, arguments))], among)


def imported_by(folder: Path, commands: list[list[str]], among: Sequence[str] = HEAVY) -> list[str]:
    """Return which of some packages commands have imported, one after another in one process."""
    called = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(commands)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    codes, modules = json.loads(called.stderr.splitlines()[-1])
    assert [code or 0 for code in codes] == [0] * len(commands), called.stderr
    return [name for name in among if name in modules]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["compare", "--help"], ["flower", "up", "--help"], ["list", "experiments"]]
)
def test_help_imports_no_library_for_training(arguments: list[str], tmp_path: Path) -> None:
    assert imported(tmp_path, *arguments) == []


def test_the_first_help_reads_no_run_folder(tmp_path: Path) -> None:
    assert imported(tmp_path, "--help", among=["pydantic"]) == []


@pytest.mark.parametrize("command", ["links", "report"])
def test_commands_that_read_run_folders_need_no_pytorch(command: str, compared: Compared, tmp_path: Path) -> None:
    assert imported(tmp_path, command, compared.out / "digits") == []


def test_commands_that_do_not_draw_need_no_matplotlib(tmp_path: Path) -> None:
    commands = [["plan"], ["config"], ["list", "strategies"]]
    assert {"matplotlib", "torchmetrics", "flwr"}.isdisjoint(imported_by(tmp_path, commands))


def test_verify_needs_no_matplotlib(compared: Compared, tmp_path: Path) -> None:
    assert "matplotlib" not in imported(
        tmp_path, "verify", "--rounds", "1", compared.called.json["runs"][0]["run_folder"]
    )


def test_the_package_itself_imports_nothing_heavy(tmp_path: Path) -> None:
    shown = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import fedlama, sys; print([m for m in {HEAVY} if m in sys.modules], fedlama.FedAvg(6))",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert shown.stdout == "[] FedAvg(base_interval=6)\n"
