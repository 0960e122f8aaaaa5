"""The commands of the guide on tracking that need optional libraries: they run where the libraries are."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.call import SMALL
from tests.docs.blocks import DOCS, blocks

pytestmark = pytest.mark.slow
LINES = [
    line
    for block in blocks(DOCS / "how-to" / "track.md")
    if block.kind == "sh" and not block.run
    for line in block.text.splitlines()
]


def environment(home: Path) -> dict[str, str]:
    """This environment's programs, and a home of its own."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": programs, "HOME": str(home), "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": ""}


@pytest.mark.thorough
@pytest.mark.parametrize("library", ["wandb", "mlflow"])
def test_a_tracked_run(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library, reason=f"needs fedlama[{library}]")
    (command,) = [line for line in LINES if "fedlama" in line and f"--track {library}" in line]
    done = subprocess.run(
        ["bash", "-c", " ".join([command, *SMALL])],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    kept = {"wandb": "runs/digits/*/wandb/offline-run-*/run-*.wandb", "mlflow": "runs/mlflow.db"}
    assert list(tmp_path.glob(kept[library]))


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="needs fedlama[tensorboard]")
def test_tensorboard_shows_the_runs(tmp_path: Path) -> None:
    (command,) = [line for line in LINES if line.startswith("tensorboard")]
    (tmp_path / "runs").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (tmp_path / "log").open("w") as log:
        words = [*command.split(), "--port", str(port)]
        server = subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path), stdout=log, stderr=log)
        try:
            assert "TensorBoard" in _page(port, server)
        finally:
            server.terminate()
            server.wait(30)


def _page(port: int, server: subprocess.Popen[bytes]) -> str:
    """Wait for the first page."""
    end = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as reply:
                return str(reply.read().decode())
        except OSError:
            time.sleep(0.5)
    raise AssertionError("TensorBoard did not answer")


def test_no_command_of_the_page_is_missed() -> None:
    others = [line for line in LINES if not line.startswith(("pip install ", "mlflow ui "))]
    assert len(others) == 3
