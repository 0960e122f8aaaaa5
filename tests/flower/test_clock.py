"""A node compares its clock with the SuperLink's before it connects, and says the difference."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from fedlama.flower.deploy.clock import clock_problem, seconds_ahead, warn_of_clock


@contextmanager
def server(date: str | None) -> Iterator[int]:
    """A server that names a time, on a free port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version: ClassVar[str] = "HTTP/1.0"

        def do_HEAD(self) -> None:
            self.send_response_only(403)
            if date is not None:
                self.send_header("Date", date)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield http.server_address[1]
        finally:
            http.shutdown()
            thread.join()


@pytest.mark.parametrize("offset", [0.0, 42.0, -400.0])
def test_the_difference_is_found_to_a_second(offset: float) -> None:
    with server(formatdate(1_000_000_000, usegmt=True)) as port:
        ahead = seconds_ahead("127.0.0.1", port, tls=False, now=lambda: 1_000_000_000.5 + offset)
    assert ahead == pytest.approx(offset)


@pytest.mark.parametrize("date", [None, "soon"])
def test_a_server_without_a_time_gives_none(date: str | None) -> None:
    with server(date) as port:
        assert seconds_ahead("127.0.0.1", port, tls=False) is None
        assert seconds_ahead("127.0.0.1", port, tls=True) is None  # it does not speak TLS
    assert seconds_ahead("127.0.0.1", port, tls=False) is None  # nothing listens


def test_the_sentence_says_the_figure_and_what_follows() -> None:
    assert clock_problem(0.5) == clock_problem(-4.0) == ""
    assert "42 s ahead of the SuperLink's, so that the SuperLink refuses this node" in clock_problem(42.0)
    assert "400 s behind the SuperLink's, so that the SuperLink refuses this node" in clock_problem(-400.0)
    assert "refuses" not in clock_problem(-100.0)


def test_a_node_warns_before_it_connects(caplog: pytest.LogCaptureFixture) -> None:
    with server(formatdate(1_000_000_000, usegmt=True)) as port, caplog.at_level(logging.WARNING):
        said = warn_of_clock(["--insecure", "--superlink", f"127.0.0.1:{port}", "--node-config", "partition-id=0"])
    assert "ahead of the SuperLink's" in said
    assert said in caplog.text
    assert warn_of_clock(["--superlink"]) == warn_of_clock(["--superlink", "nowhere"]) == ""
