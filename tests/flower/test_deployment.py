"""Real deployments on loopback: a SuperLink and SuperNodes, each its own process. Slow; needs the extra ``flower``."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.experiment import Experiment, assemble, prepare
from fedlama.runs.execute import PlannedRun, RunOptions, run_one
from fedlama.runs.network_log import NAME, read_log
from tests.flower.live import Live, assert_same_folders, lines, small, wait

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(tmp_path_factory.mktemp("live")) as started:
        yield started


def in_loop(experiment: Experiment, out: Path) -> Path:
    """Run an experiment on the loop engine; return its run folder."""
    run_one(PlannedRun.of(experiment, assemble(experiment, prepare(experiment)), out), RunOptions(out))
    return next(out.rglob("summary.json")).parent


def quick() -> Experiment:
    """Four rounds of FedLAMA with momentum, three of four clients in each cycle."""
    sizes = ["local_steps=8", "strategy.base_interval=2", "strategy.increase_factor=2"]
    return small(*sizes, "sampler.name=uniform", "sampler.active=3")


def scored() -> Experiment:
    """Two rounds; each node scores the global model and its own one on samples that it holds back."""
    sizes = ["local_steps=4", "strategy.base_interval=2", "strategy.increase_factor=2"]
    return small(*sizes, "client_test_share=0.25", "evaluate_clients=both")


MOMENTS = ((1, 0.0), (2, 2.5), (3, 5.0))
"""Finished rounds and seconds since: requests are sent, then nodes train, then replies arrive."""


def test_four_nodes_on_loopback_give_the_bits_of_the_loop_engine(live: Live, tmp_path: Path) -> None:
    folder = live.finish(live.submit(quick(), "same"))
    assert_same_folders(folder, in_loop(quick(), tmp_path))
    assert not any(line["incidents"] for line in read_log(folder / NAME).values())


def test_four_nodes_with_a_codec_give_the_bits_and_bytes_of_the_loop_engine(live: Live, tmp_path: Path) -> None:
    coded = small("local_steps=8", "strategy.base_interval=2", "strategy.increase_factor=2", "codec.name=differences")
    folder = live.finish(live.submit(coded, "coded"))
    assert_same_folders(folder, in_loop(coded, tmp_path))


def test_four_nodes_score_as_the_loop_engine_does(live: Live, tmp_path: Path) -> None:
    """The metrics have the clients' scores, and the ledger the messages with the model that they scored."""
    folder = live.finish(live.submit(scored(), "scored"))
    assert_same_folders(folder, in_loop(scored(), tmp_path))
    (line,) = [line for line in lines(folder, "metrics") if line.get("client_scores")]
    assert {name: len(clients) for name, clients in line["client_scores"].items()} == {"global": 4, "own": 4}
    assert not any(line["incidents"] for line in read_log(folder / NAME).values())


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


def test_kill_the_super_link(live: Live, tmp_path: Path) -> None:
    """Kill -9 the SuperLink at three moments; started again with its database, it resumes."""
    out = live.submit(quick(), "link")
    for rounds, later in MOMENTS:
        wait(lambda enough=rounds: live.rounds(out) >= enough, 240, f"{rounds} rounds")  # type: ignore[misc]
        time.sleep(later)
        live.services.stop("link", kill=True)
        wait(lambda: not kill_server_apps(live), 60, "the ServerApp to end with its SuperLink")
        live.services.start_link()
        live.submit(quick(), "link")
    assert_same_folders(live.finish(out), in_loop(quick(), tmp_path))


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
    from tests.flower.live import model

    first, second = model(one), model(other)
    for name in first:
        assert first[name].equal(second[name]), name
    assert [line["round"] for line in lines(one, "ledger")] == [line["round"] for line in lines(other, "ledger")]


def test_bytes_on_the_wire(tmp_path: Path) -> None:
    """FedLAMA at phi = 4 on 4.4 MB moves at most half of FedAvg's bytes; the ledger is within 3 % of the wire."""
    wire = {}
    with Live(tmp_path / "live", nodes=2) as live:
        for name, strategy in (("fedavg", "strategy.name=fedavg"), ("fedlama", "strategy.increase_factor=4")):
            big = small(
                strategy,
                "strategy.base_interval=1",
                "local_steps=16",
                "partition.clients=2",
                "model.hidden=[1024, 1000]",
                "solver.learning_rate=0.01",
            )
            before = live.counter.up + live.counter.down
            folder = live.finish(live.submit(big, name), seconds=900)
            wire[name] = live.counter.up + live.counter.down - before
            counted = sum(
                one["payload_bytes"] + one["header_bytes"] + one["scalar_bytes"]
                for line in lines(folder, "ledger")
                for one in line["shipments"]
            )
            assert counted <= wire[name] <= counted * 1.03 + 16 * 2 * 40_000
            shutil.copy(folder / NAME, tmp_path / f"{name}.jsonl")
    print(wire)
    assert wire["fedlama"] <= 0.5 * wire["fedavg"]
