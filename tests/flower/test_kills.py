"""Kills on real deployments: ServerApp and SuperNodes by SIGKILL; the run goes on with the same bits.

`test_kill_super_link.py` kills the SuperLink, and `python -m benchmarks.flower_kills` each of them at random moments.
Slow; needs the extra ``flower``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from tests.flower.live import Live, assert_same_folders, lines, model, wait
from tests.flower.test_deployment import in_loop, quick

pytestmark = pytest.mark.slow
MOMENTS = ((1, 0.0), (2, 0.4), (3, 0.8))
"""Finished rounds and seconds since: requests are sent, then nodes train, then replies arrive."""


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(tmp_path_factory.mktemp("live"), warm=True) as started:
        yield started


def test_kill_the_server_app(live: Live, tmp_path: Path) -> None:
    """Kill -9 the SuperLink's ServerApp at three moments; the same command resumes the run."""
    out = live.submit(quick(), "killed")
    for rounds, later in MOMENTS:
        wait(lambda enough=rounds: live.rounds(out) >= enough, 240, f"{rounds} rounds")  # type: ignore[misc]
        time.sleep(later)
        assert kill_server_apps(live) == 1 or rounds == 3  # on a quick machine the last round may be over by then
        live.submit(quick(), "killed")
    folder = live.finish(out)
    assert_same_folders(folder, in_loop(quick(), tmp_path))
    assert [line["round"] for line in lines(folder, "ledger")] == list(range(4))


def kill_server_apps(live: Live) -> int:
    """Kill the ServerApps of this SuperLink, recognised by the port in their commands; return how many there were."""
    ours, count = f"127.0.0.1:{live.services.port}".encode(), 0
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"flwr-serverapp" in command and ours in command:
                os.kill(int(entry.name), signal.SIGKILL)
                count += 1
        except (OSError, ProcessLookupError):
            continue
    return count


@pytest.mark.thorough
def test_kill_super_nodes(live: Live, tmp_path: Path) -> None:
    """Kill -9 three SuperNodes at three moments, and start each again at once."""
    out = live.submit(quick(), "node")
    for (rounds, later), number in zip(MOMENTS, (0, 3, 1), strict=True):
        wait(lambda enough=rounds: live.rounds(out) >= enough, 240, f"{rounds} rounds")  # type: ignore[misc]
        time.sleep(later)
        live.services.stop(f"node{number}", kill=True)
        live.node(number)
    folder = live.finish(out)
    assert_same_folders_but_for_repeats(folder, in_loop(quick(), tmp_path))


def assert_same_folders_but_for_repeats(one: Path, other: Path) -> None:
    """The same model and intervals; a request that was sent twice is in the ledger twice."""
    first, second = model(one), model(other)
    for name in first:
        assert first[name].equal(second[name]), name
    assert [line["round"] for line in lines(one, "ledger")] == [line["round"] for line in lines(other, "ledger")]
