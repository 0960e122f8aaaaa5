"""Secure aggregation on a live deployment: the bits of plain sums, and a node that is stopped in a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlama.runs.network_log import NAME, read_log
from tests.flower.live import Live, lines, model, small, wait

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")
SIZES = ("bytes_up", "bytes_down")


@pytest.mark.slow
def test_a_live_run_has_the_bits_of_plain_sums_and_goes_on_without_a_node(tmp_path: Path) -> None:
    given = small("local_steps=6", "strategy.base_interval=2", "strategy.increase_factor=2")
    with Live(tmp_path, nodes=4, warm=True) as live:
        secure = live.finish(live.submit(given, "secure", aggregation="secure"))
        plain = live.finish(live.submit(given, "plain", aggregation="sums"))
        for name, value in model(plain).items():
            assert model(secure)[name].equal(value), name
        for ours, theirs in zip(lines(secure, "layers"), lines(plain, "layers"), strict=True):
            for layer, record in theirs["layers"].items():
                kept = {key: value for key, value in ours["layers"][layer].items() if key not in SIZES}
                assert kept == {key: value for key, value in record.items() if key not in SIZES}
        log = read_log(secure / NAME)
        assert [line["secure"]["attempts"] for line in log.values()] == [1] * 3
        assert not any(line["incidents"] for line in log.values())
        out = live.submit(given, "stopped", aggregation="secure", deadline=20.0)
        wait(lambda: live.rounds(out) >= 1, 200, "a round")
        live.services.stop("node3", kill=True)
        log = read_log(live.finish(out) / NAME)
        assert len(log) == 3
        assert log[0]["answered"] == [0, 1, 2, 3]
        assert log[2]["answered"] == [0, 1, 2]
