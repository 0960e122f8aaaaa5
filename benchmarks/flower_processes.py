"""A live deployment whose processes can be killed one by one, for :mod:`benchmarks.flower_kills`. It needs Linux."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedlama.experiment import Experiment
from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection

TARGETS = ("ServerApp", "SuperLink", "SuperNode", "ClientApp")
PAUSE = 0.2
_LIFE = 0.6  # seconds that a ClientApp lives at most without being disturbed
_LONGEST_WAIT = 90.0  # seconds for a process to appear


class Deployment:
    """A SuperLink and warm SuperNodes; use it as a context manager.

    Args:
        folder: For everything.
        experiment: What its runs train.
        nodes: Number of nodes.
    """

    def __init__(self, folder: Path, experiment: Experiment, nodes: int) -> None:
        self.folder, self._experiment, self._nodes = folder, experiment, nodes
        self.services = Services(folder / "services")
        self.operator = Operator(program("flwr"), "here", self.services.environment("operator"))
        self._app = folder / "app"

    def __enter__(self) -> Deployment:
        """Start everything."""
        self.services.__enter__()
        write_app(self._app)
        write_connection(self.services.folder / "home-operator", "here", f"127.0.0.1:{self.services.port}")
        self.services.start_link()
        for number in range(self._nodes):
            self.services.start_node(number, warm=True)
        return self

    def __exit__(self, *details: object) -> None:
        """Stop everything."""
        self.services.__exit__(*details)

    def submit(self, out: Path) -> None:
        """Submit the run of a folder; repeated, it resumes the run."""
        options: dict[str, str | float] = {"out": str(out), "deadline": 300.0, "join": 200.0, "min-replies": 1.0}
        config = self.folder / "run.toml"
        config.write_text(run_config(self._experiment, options), encoding="utf-8")
        self.operator.submit(self._app, config)

    def server_apps(self) -> list[int]:
        """Return the processes of ServerApps of this deployment; they are not in the SuperLink's process group."""
        home = f"FLWR_HOME={self.services.folder / 'home-link'}".encode()
        return [pid for pid, command in processes() if b"flwr-serverapp" in command and home in content(pid, "environ")]

    def client_apps(self, number: int) -> list[int]:
        """Return the processes of ClientApps of a node: the children of the process that forks."""
        (executor, *_) = [*children(self.services.processes[f"node{number}"].pid), 0]
        (forker, *_) = [*children(executor), 0]
        return children(forker)

    def kill(self, target: str, draw: random.Random, over: Callable[[], bool]) -> bool:
        """Kill a process of a kind, and start again what a supervisor would start.

        Args:
            target: The kind, one of :data:`TARGETS`.
            draw: Gives the node and, for a ClientApp, the moment of its life.
            over: Returns whether the run has ended, after which there may be no such process.

        Returns:
            Whether there was one.
        """
        node = draw.randrange(self._nodes)
        if target == "SuperLink":
            self.services.stop("link", kill=True)
            self.services.start_link()
            return True
        if target == "SuperNode":
            self.services.stop(f"node{node}", kill=True)
            self.services.start_node(node, warm=True)
            return True
        if target == "ServerApp":
            return _kill_when_alive(self.server_apps, lambda: 0.0, over)
        return _kill_when_alive(lambda: self.client_apps(node), lambda: draw.uniform(0.0, _LIFE), over)

    def keep_nodes(self) -> None:
        """Start nodes that have ended again, as a supervisor would."""
        for number in range(self._nodes):
            process = self.services.processes.get(f"node{number}")
            if process is not None and process.poll() is not None:
                self.services.stop(f"node{number}", kill=True)
                self.services.start_node(number, warm=True)


def _kill_when_alive(find: Callable[[], list[int]], pause: Callable[[], float], over: Callable[[], bool]) -> bool:
    """Kill a process a moment after it was seen; return whether there was one that still lived then."""
    end = time.monotonic() + _LONGEST_WAIT
    while time.monotonic() < end and not over():
        seen = find()
        if seen:
            time.sleep(pause())
            with suppress(ProcessLookupError):
                if seen[0] in find():
                    os.kill(seen[0], signal.SIGKILL)
                    return True
        time.sleep(0.01)
    return False


def processes() -> list[tuple[int, bytes]]:
    """Return all processes with their command lines."""
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return [(pid, content(pid, "cmdline")) for pid in pids]


def content(pid: int, name: str) -> bytes:
    """Return a file of a process in /proc; empty when the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """Return the children of a process that still run."""
    files = [content(pid, f"task/{task}/children") for task in tasks(pid)]
    return [int(child) for file in files for child in file.split() if b") Z " not in content(int(child), "stat")]


def tasks(pid: int) -> list[str]:
    """Return the threads of a process."""
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def wait(until: Callable[[], bool], seconds: float, pause: float = PAUSE) -> None:
    """Wait until a condition holds, or the time is over."""
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(pause)
