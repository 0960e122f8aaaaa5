"""A SuperNode that hangs: the deadline passes, the round goes on without it, and it comes back by the rule."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.reporting.html import report_page
from fedlama.runs.network_log import NAME, read_log
from tests.flower.live import Live, lines, small, wait

pytestmark = pytest.mark.slow
DEADLINE = 45.0


def test_a_node_that_hangs_is_left_out_and_comes_back(tmp_path: Path) -> None:
    experiment = small(
        "partition.clients=2", "strategy.base_interval=1", "strategy.increase_factor=2", "local_steps=8", "engine=loop"
    )
    with Live(tmp_path / "live", nodes=2, warm=True) as live:
        out = live.submit(experiment, "slow", **{"deadline": DEADLINE, "min-replies": 0.3})
        wait(lambda: live.rounds(out) >= 1, 200, "the first round")
        node = live.services.processes["node1"].pid
        os.killpg(node, signal.SIGSTOP)
        wait(lambda: any(1 in line["missing"] for line in log(out).values()), 200, "a round without client 1")
        os.killpg(node, signal.SIGCONT)
        folder = live.finish(out, 700)
    seen = log(out)
    (missed, *_) = [index for index, line in sorted(seen.items()) if 1 in line["missing"]]
    assert any(f"deadline of {DEADLINE:g} s has passed" in one for one in seen[missed]["incidents"])
    assert "client 1 did not answer" in seen[missed]["incidents"]
    assert any(1 in line["answered"] for index, line in seen.items() if index > missed)  # it is back
    ledger = {line["round"]: line["shipments"] for line in lines(folder, "ledger")}
    for index, line in seen.items():
        for transfer in ledger[index]:
            if transfer["direction"] == "up":
                assert transfer["clients"] == line["answered"]
    assert [line["missing"] for line in lines(folder, "metrics")] == [seen[index]["missing"] for index in sorted(seen)]
    assert "client 1 did not answer" in report_page([folder])


def log(out: Path) -> dict[int, dict[str, list[object]]]:
    """The lines of the network's log so far, by round."""
    return {index: line for file in out.rglob(NAME) for index, line in read_log(file).items()}
