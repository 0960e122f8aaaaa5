"""No command reaches for the network unless it is asked to: not for data, not for versions, not to report home."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from fedlama.cli.app import app
from tests.cli.call import SMALL, fedlama

_EVENTS = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "socket.sendmsg",
    "socket.bind",
)
_seen: list[tuple[str, Any]] | None = None


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is not None and event in _EVENTS:
        _seen.append((event, arguments))
        raise PermissionError(f"{event} {arguments[1:]}: a command reached for the network")


sys.addaudithook(
    _hook
)  # Python calls it for every socket that any code opens; it cannot be removed, so it is idle between tests


@pytest.fixture
def network() -> Iterator[list[tuple[str, Any]]]:
    """Refuse all use of the network in this process, and keep what was refused."""
    global _seen
    _seen = []
    try:
        yield _seen
    finally:
        _seen = None


def test_no_command_opens_a_connection(network: list[tuple[str, Any]], tmp_path: Path) -> None:
    out, report, links = tmp_path / "runs", tmp_path / "report.html", ["--link", "4g"]
    calls: dict[str, list[str | Path]] = {
        "compare": ["compare", "digits", *SMALL, "--quiet", "--out", out],
        "run": ["run", "digits", *SMALL, "--quiet", "--out", out],
        "plan": ["plan", "digits", *links],
        "list": ["list", "strategies"],
        "config": ["config", "digits"],
        "links": ["links", out, *links],
        "report": ["report", out, "--out", report],
        "verify": ["verify", out],
        "flower": ["flower", "app", tmp_path / "app"],
    }
    assert set(get_command(app).commands) <= set(calls), "a new command: show here that it keeps to itself"  # type: ignore[attr-defined]
    for name, arguments in calls.items():
        if name in get_command(app).commands:  # type: ignore[attr-defined]
            called = fedlama(*arguments)
            assert called.code == 0, called
    assert network == []


def test_the_guard_sees_what_reaches_out(network: list[tuple[str, Any]]) -> None:
    import socket

    with pytest.raises(PermissionError):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    assert len(network) == 1
