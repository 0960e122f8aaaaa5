"""Real deployments on loopback: a SuperLink and SuperNodes, each its own process. Slow; needs the extra ``flower``.

Nodes are warm here; `test_default_settings.py` has Flower's own.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.experiment import Experiment, assemble, prepare
from fedlama.flower.client.state import read_tensors
from fedlama.flower.protocol import model_digest
from fedlama.flower.server.engine import FINAL
from fedlama.runs.execute import PlannedRun, RunOptions, run_one
from fedlama.runs.network_log import NAME, read_log
from tests.flower.live import Live, assert_same_folders, lines, model, small, wait

pytestmark = pytest.mark.slow
SIZES = ("bytes_up", "bytes_down")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with Live(tmp_path_factory.mktemp("live"), warm=True) as started:
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


def test_four_nodes_on_loopback_give_the_bits_of_the_loop_engine(live: Live, tmp_path: Path) -> None:
    folder = live.finish(live.submit(quick(), "same"))
    assert_same_folders(folder, in_loop(quick(), tmp_path))
    assert not any(line["incidents"] for line in read_log(folder / NAME).values())
    assert "the SuperNode runs as Flower's own" not in (live.services.folder / "node0.log").read_text()


def test_an_aggregator_gives_the_bits_of_the_loop_engine(live: Live, tmp_path: Path) -> None:
    """With its norms in the log, and the final model on every node."""
    given = small("local_steps=4", "strategy.base_interval=2", "aggregator.name=norm-bound")
    folder = live.finish(live.submit(given, "aggregator", **{"send-final": True}))
    assert_same_folders(folder, in_loop(given, tmp_path))
    assert all(set(line["norms"]) == {"0", "1", "2", "3"} for line in read_log(folder / NAME).values())
    final = json.loads((folder / FINAL).read_text())
    assert (final["kept"], final["incidents"]) == ([0, 1, 2, 3], [])
    for number in range(4):
        (kept,) = (live.services.folder / f"states-{number}").rglob("final-*.safetensors")
        assert read_tensors(kept)[1]["digest"] == final["digest"] == model_digest(read_tensors(kept)[0])


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


def test_secure_aggregation_has_the_bits_of_plain_sums_and_goes_on_without_a_node(live: Live) -> None:
    """The last test with these nodes: one of them is stopped in a round."""
    given = small("local_steps=6", "strategy.base_interval=2", "strategy.increase_factor=2")
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


def test_bytes_on_the_wire(tmp_path: Path) -> None:
    """FedLAMA at phi = 4 on 4.4 MB moves at most half of FedAvg's bytes a round; the ledger is within 3 % of them."""
    wire, rounds = {}, {"fedavg": 4, "fedlama": 16}  # every round of FedAvg moves the whole model
    with Live(tmp_path / "live", nodes=2, warm=True) as live:
        for name, strategy in (("fedavg", "strategy.name=fedavg"), ("fedlama", "strategy.increase_factor=4")):
            big = small(
                strategy,
                "strategy.base_interval=1",
                f"local_steps={rounds[name]}",
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
            assert counted <= wire[name] <= counted * 1.03 + rounds[name] * 2 * 40_000
            shutil.copy(folder / NAME, tmp_path / f"{name}.jsonl")
    print(wire)
    assert wire["fedlama"] / rounds["fedlama"] <= 0.5 * wire["fedavg"] / rounds["fedavg"]
