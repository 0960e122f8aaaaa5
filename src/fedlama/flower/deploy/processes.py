"""Flower's own programs on this machine, for tests and a first try: a SuperLink and SuperNodes as child processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from fedlama.errors import FedlamaError, MissingExtraError

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Environment in which Flower makes no connections of its own: no telemetry, update check or package installation."""


def program(name: str) -> str:
    """Return the path of one of Flower's programs, in the folder of the running Python.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise MissingExtraError("flwr", "flower")
    return str(path)


def free_port() -> int:
    """Return a port of the loopback device that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Services:
    """Child processes, each with its log; use it as a context manager, which stops the processes by their ids.

    Args:
        folder: For logs, Flower's own files and the nodes' states.
        tls: Arguments that switch TLS on for the SuperLink; None runs without TLS.
        database: Whether the SuperLink keeps its state on the disk, so that a killed SuperLink can be started again.
    """

    folder: Path
    tls: Sequence[str] | None = None
    database: bool = True
    port: int = field(default_factory=free_port)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _before: Callable[[int, FrameType | None], Any] | int | None = None

    def __enter__(self) -> Services:
        """Return itself; from now on SIGTERM to this process stops the children too."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the processes that still run."""
        for name in reversed(list(self.processes)):
            self.stop(name)
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def environment(self, role: str) -> dict[str, str]:
        """Return the environment of a role; each role has its own home, as it would on its own machine."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {**os.environ, **QUIET, "PATH": path, "FLWR_HOME": str(self.folder / f"home-{role}")}

    def start_link(self, *arguments: str) -> None:
        """Start the SuperLink and wait until it listens."""
        security = ["--insecure"] if self.tls is None else list(self.tls)
        database = ["--database", str(self.folder / "state.db")] if self.database else []
        command = [program("flower-superlink"), *security, "--port", str(self.port), *database, *arguments]
        self.start("link", command)
        self.wait_for_port("link", self.port)

    def start_node(
        self,
        number: int,
        *arguments: str,
        port: int | None = None,
        config: Mapping[str, str | int] | None = None,
        security: Sequence[str] = ("--insecure",),
        warm: bool = False,
    ) -> None:
        """Start the SuperNode of a client.

        Args:
            number: The client's number.
            arguments: Further arguments.
            port: Port to connect to, when it is not the SuperLink's own.
            config: Further keys of the node's configuration.
            security: ``--insecure``, or the arguments for certificates and keys.
            warm: Start it by `fedlama flower node`; see :mod:`fedlama.flower.deploy.warm_node`.
        """
        values = {"partition-id": number, "state-dir": str(self.folder / f"states-{number}"), **(config or {})}
        text = " ".join(
            f'{key}="{value}"' if isinstance(value, str) else f"{key}={value}" for key, value in values.items()
        )
        address = f"127.0.0.1:{port or self.port}"
        start = [sys.executable, "-m", "fedlama", "flower", "node"] if warm else [program("flower-supernode")]
        command = [*start, *security, "--superlink", address, "--port", str(free_port())]
        self.start(f"node{number}", [*command, "--node-config", text, *arguments])

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a process in its own process group; its output goes to ``<name>.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                list(command), stdout=log, stderr=log, env=self.environment(name), start_new_session=True
            )

    def stop(self, name: str, *, kill: bool = False) -> None:
        """Stop a process and its children, by the id of their process group.

        Args:
            name: The process.
            kill: Send SIGKILL instead of SIGTERM.
        """
        process = self.processes.pop(name, None)
        if process is None:
            return
        try:
            os.killpg(process.pid, signal.SIGKILL if kill else signal.SIGTERM)
            process.wait(15)
        except ProcessLookupError:
            pass
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(15)

    def wait_for_port(self, name: str, port: int, seconds: float = 90.0) -> None:
        """Wait until a process listens on its port.

        Raises:
            FedlamaError: The process ended, or the time is over.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.processes[name].poll() is not None:
                break
            with socket.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.2)
        raise FedlamaError(f"{name} does not listen on port {port}; see {self.folder / name}.log")
