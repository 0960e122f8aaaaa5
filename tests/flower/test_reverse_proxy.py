"""Nodes need one part of the SuperLink's API: a proxy that passes only that part shuts everybody else out.

The proxy here does what the nginx configuration of the guide does, by the same rule, on a real deployment. Slow; needs
``flower``.
"""

from __future__ import annotations

import re
import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.errors import FedlamaError
from fedlama.flower.deploy.processes import program
from fedlama.flower.deploy.submit import Operator, write_connection
from fedlama.runs.network_log import NAME, read_log
from tests.docs.blocks import DOCS
from tests.flower.live import Live, small

pytestmark = pytest.mark.slow
REQUEST = re.compile(rb"(?:GET|POST|PUT|DELETE|PATCH|HEAD|OPTIONS) (\S+) HTTP/1\.1\r\n")
REFUSED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """Passes requests whose path begins with a prefix to a port of this machine, and refuses all others."""

    def __init__(self, target: int, prefix: bytes) -> None:
        self._target, self._prefix = target, prefix
        self.passed: set[bytes] = set()
        self.refused: set[bytes] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(("127.0.0.1", self._target)) as far:
            back = threading.Thread(target=self._copy, args=(far, near), daemon=True)
            back.start()
            while data := near.recv(1 << 16):
                request = REQUEST.match(data)
                if request and not request[1].startswith(self._prefix):
                    self.refused.add(request[1])
                    near.sendall(REFUSED)
                    return
                if request:
                    self.passed.add(request[1])
                far.sendall(data)

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)


def test_nodes_need_the_fleet_api_alone(tmp_path: Path) -> None:
    """A federation runs through the proxy; those who reach only the proxy cannot submit code or register a key."""
    with Live(tmp_path / "live", nodes=0) as live:
        proxy = Proxy(live.services.port, b"/v1/fleet/")
        try:
            for number in range(2):
                live.services.start_node(number, port=proxy.port)
            given = small("partition.clients=2", "local_steps=4", "strategy.base_interval=2")
            folder = live.finish(live.submit(given, "behind"))
            assert not any(line["incidents"] for line in read_log(folder / NAME).values())
            assert proxy.passed
            assert not proxy.refused
            home = tmp_path / "home-attacker"
            write_connection(home, "outside", f"127.0.0.1:{proxy.port}")
            environment = {**live.services.environment("operator"), "FLWR_HOME": str(home)}
            attacker = Operator(program("flwr"), "outside", environment)
            with pytest.raises(FedlamaError, match="flwr refused the run"):
                attacker.submit(live.app, live.folder / "behind.toml")
            assert proxy.refused
            assert all(path.startswith(b"/v1/control/") for path in proxy.refused)
            assert attacker.status("1") is None
        finally:
            proxy.close()


def test_the_configuration_of_the_guide_has_this_rule() -> None:
    text = (DOCS / "how-to" / "secure-deployment.md").read_text(encoding="utf-8")
    (nginx,) = re.findall(r"```nginx.*?\n(.*?)```", text, re.DOTALL)
    assert re.findall(r"location (\S+) \{", nginx) == ["/v1/fleet/", "/"]
    assert re.search(r"location / \{\s*return 403;", nginx)
    assert "listen 127.0.0.1" not in nginx
    assert "server 127.0.0.1:8001;" in nginx
    assert "--host 127.0.0.1 --port 8001" in text
