"""Kills of a SuperLink by SIGKILL: started again with its database, it resumes the run. Slow; needs ``flower``."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from tests.flower.live import Live, assert_same_folders, wait
from tests.flower.test_deployment import in_loop, quick
from tests.flower.test_kills import MOMENTS, kill_server_apps

pytestmark = pytest.mark.slow


def test_kill_the_super_link(tmp_path: Path) -> None:
    """Kill -9 the SuperLink at three moments."""
    with Live(tmp_path / "live", warm=True, database=True) as live:
        out = live.submit(quick(), "link")
        for rounds, later in MOMENTS:
            wait(lambda enough=rounds: live.rounds(out) >= enough, 240, f"{rounds} rounds")  # type: ignore[misc]
            time.sleep(later)
            live.services.stop("link", kill=True)
            wait(lambda: not kill_server_apps(live), 60, "the ServerApp to end with its SuperLink")
            live.services.start_link()
            live.submit(quick(), "link")
        folder = live.finish(out)
    assert_same_folders(folder, in_loop(quick(), tmp_path))
