"""Every command of the guide, as written, on loopback with TLS and registered nodes; only paths and budgets differ."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.flower.deploy.processes import Services, free_port
from tests.docs.blocks import DOCS, ROOT, Block, blocks
from tests.flower.live import wait

pytestmark = pytest.mark.slow
NODES = 4
SHORT = "partition.clients=4 local_steps=12 strategy.base_interval=12 strategy.increase_factor=1"  # one round


class Reader:
    """A person who follows the guide in one folder on one machine."""

    def __init__(self, folder: Path, services: Services) -> None:
        self.folder, self.services = folder, services
        self.submitted = 0

    def follow(self, block: Block) -> None:
        """Carry out a block of the guide."""
        text = self.here(block.text)
        if block.file:
            (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.file).write_text(text)
        elif block.kind == "toml":
            home = self.services.folder / "home-operator"
            home.mkdir(parents=True)
            (home / "config.toml").write_text(text)
        elif block.kind == "sh":
            for command in text.replace("\\\n", " ").splitlines():
                if "node0" in command:
                    for number in range(NODES):
                        self.do(command.replace("node0", f"node{number}").replace("id=0", f"id={number}"), number)
                elif command:
                    self.do(command)

    def here(self, text: str) -> str:
        """Put this test's paths and budgets into a text of the guide."""
        changes = {
            "localhost:8000": f"localhost:{self.services.port}",
            "--port 8000": f"--port {self.services.port}",
            "--host 0.0.0.0": "--host 127.0.0.1",
            "/path/to": str(self.folder),
            "/var/lib/fedlama": str(self.folder / "var"),
            "partition.clients=4": SHORT,
            "rounds=8": "rounds=1",
        }
        for old, new in changes.items():
            text = text.replace(old, new)
        return text

    def do(self, command: str, number: int = 0) -> None:
        """Run one command; a server is left running, and a submitted run is waited for."""
        if command.startswith(("flower-superlink ", "fedlama flower node ")):
            name = "link" if "superlink " in command.split("--", 1)[0] else f"node{number}"
            more = "" if name == "link" else f" --port {free_port()}"
            self.services.start(name, ["bash", "-c", f"cd {self.folder} && exec {command}{more}"])
            if name == "link":
                self.services.wait_for_port("link", self.services.port)
            return
        environment = self.services.environment("operator")
        done = subprocess.run(
            ["bash", "-ec", command], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (command, done.stdout[-2000:], done.stderr[-2000:])
        if "flwr run" in command or "fedlama flower run" in command:
            self.submitted += 1
            wait(lambda: len(self.finished()) == self.submitted, 300, command)

    def finished(self) -> list[Path]:
        """The summaries of the runs on the SuperLink."""
        return list((self.folder / "var").rglob("summary.json"))


def test_every_command_of_the_guide_runs_as_written(tmp_path: Path) -> None:
    found = blocks(DOCS / "how-to" / "flower.md")
    (cost,) = [block for block in found if "model.hidden=[8700" in block.text]  # eight rounds, 300 MB: tried by hand
    shutil.copytree(ROOT / "examples" / "flower_own", tmp_path / "flower_own")
    with Services(tmp_path / "services") as services:
        reader = Reader(tmp_path, services)
        for block in found:
            if block is not cost and block.run:
                reader.follow(block)
        assert reader.submitted == 6
        assert {"link", *(f"node{number}" for number in range(NODES))} == set(services.processes)
    assert len(list((tmp_path / "runs").rglob("summary.json"))) == 3  # two of `compare`, one of `up`
