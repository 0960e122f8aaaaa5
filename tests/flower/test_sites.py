"""Experiments whose data stay on their sites: each node loads its own folder, and the server an example."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

import torch
from flwr.app import Context, RecordDict

from fedlama.core.scores import Score
from fedlama.data.clients import TensorClients
from fedlama.errors import ConfigError, FedlamaError
from fedlama.experiment import Experiment, read, resolve
from fedlama.flower.apps import client_app, server_app
from fedlama.flower.deploy.loopback import run_on_loopback
from fedlama.flower.deploy.submit import run_config
from fedlama.flower.sites import server_federation, site_federation
from fedlama.runs.stored import load_run
from tests.flower.fake_grid import FakeGrid, with_identity
from tests.flower.live import Live, model

ROWS = (40, 24)
PARTITION = ["partition.name=iid", "partition.clients=2"]


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    with_identity(monkeypatch)


def arrays(site: int, rows: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    draw = np.random.default_rng(site)
    y = draw.integers(0, 3, rows)
    y[:3] = (0, 1, 2)
    x = draw.normal(size=(rows, 6)).astype(np.float32)
    x[:, :3] += 2 * np.eye(3, dtype=np.float32)[y]
    return x, y


def folder(path: Path, site: int, rows: int) -> Path:
    """A site's own data, as NumPy writes them."""
    path.mkdir(parents=True, exist_ok=True)
    for number, (part, count) in enumerate((("train", rows), ("test", 10))):
        x, y = arrays(10 * site + number, count)
        np.savez(path / f"{part}.npz", x=x, y=y)
    return path


def experiment(*changes: str) -> Experiment:
    partition = [] if "partition.name=natural" in changes else PARTITION
    given = [
        "engine=loop", "data.name=npz", "data.path=node:data", "model.name=mlp", "model.hidden=[8]", "rounds=4",
        "strategy.name=fedlama", "strategy.base_interval=2", "strategy.increase_factor=2", "batch_size=8",
    ]  # fmt: skip
    return resolve(read("digits", [*given, *partition, *changes]))


@pytest.fixture
def sites(tmp_path: Path) -> dict[str, Path]:
    """Two sites with folders of their own, and the server's example."""
    return {
        "0": folder(tmp_path / "hospital-a", 1, ROWS[0]),
        "1": folder(tmp_path / "hospital-b", 2, ROWS[1]),
        "server": folder(tmp_path / "example", 3, 12),
    }


def deployed(given: Experiment, sites: dict[str, Path], out: Path, **options: Any) -> tuple[FakeGrid, Path]:  # noqa: ANN401
    """Run an experiment with its nodes in this process; return the Grid and the run folder."""
    config = {
        "experiment": json.dumps(given.to_json()),
        "out": str(out),
        "server-config": f"data='{sites['server']}'",
        "deadline": 5.0,
        "join": 2.0,
        "poll": 0.0,
        **options,
    }
    grid = FakeGrid(client_app, 2, out / "states", config)
    grid.node_config = {client: {"data": str(sites[str(client)])} for client in (0, 1) if str(client) in sites}
    server_app()(grid, Context(1, 1, {}, RecordDict(), config))  # type: ignore[arg-type]
    (summary,) = out.rglob("summary.json")
    return grid, summary.parent


def test_each_node_trains_on_its_own_data_as_a_simulation_of_all_would(tmp_path: Path, sites: dict[str, Path]) -> None:
    given = experiment("client_test_share=0")
    _, run = deployed(given, sites, tmp_path / "out")
    whole = server_federation(given, {"data": str(sites["server"])})
    x, y = (np.concatenate(parts) for parts in zip(arrays(10, ROWS[0]), arrays(20, ROWS[1]), strict=True))
    rows = [np.arange(ROWS[0]), ROWS[0] + np.arange(ROWS[1])]
    together = TensorClients(torch.from_numpy(x), torch.from_numpy(y), rows, 8)
    expected = replace(whole, clients=together, engine="loop").run()
    for name, value in model(run).items():
        assert torch.equal(value, expected.model[name]), name
    assert load_run(run).result().ledger.transfers == expected.ledger.transfers
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["path"] == "node:data"
    assert json.loads((run / "clients.json").read_text()) == {"samples": list(ROWS), "with_test_set": [0, 1]}


def test_sites_score_the_model_on_their_own_test_rows(tmp_path: Path, sites: dict[str, Path]) -> None:
    given = experiment("evaluate_clients=global")
    _, run = deployed(given, sites, tmp_path / "out")
    scores = load_run(run).result().rounds[-1].client_scores
    assert scores is not None
    assert sorted(scores.global_model) == [0, 1]
    final = model(run)
    for client, score in scores.global_model.items():
        network = site_federation(given, {"data": str(sites[str(client)])}, client).model
        network.load_state_dict(final)
        x, y = arrays(10 * (client + 1) + 1, 10)
        with torch.no_grad():
            right = (network(torch.from_numpy(x)).argmax(1).numpy() == y).mean()
        assert score.metrics["accuracy"] == pytest.approx(right)
        assert score == Score(score.loss, score.metrics, "accuracy", "higher")
        assert score.weight == 10
    pooled, known = scores.pooled, scores.global_model
    assert pooled is not None
    assert pooled.weight == 20
    assert pooled.metrics["accuracy"] == pytest.approx((known[0].value + known[1].value) / 2)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["pooled"]["metrics"]["accuracy"] == pytest.approx(pooled.value)


def test_a_node_without_the_key_is_an_incident_with_its_remedy(tmp_path: Path, sites: dict[str, Path]) -> None:
    without = {name: path for name, path in sites.items() if name != "1"}
    with pytest.raises(FedlamaError, match=r"no node serves the clients 1 \(node 101: data\.path is 'node:data'"):
        deployed(experiment(), without, tmp_path / "out")
    failed = (tmp_path / "out" / "failed.txt").read_text()
    assert "the node's configuration has no 'data'; start its SuperNode with --node-config 'data=" in failed


def test_data_that_are_gone_are_reported(tmp_path: Path, sites: dict[str, Path]) -> None:
    given = experiment()
    _, run = deployed(given, sites, tmp_path / "out")
    assert json.loads((run / "clients.json").read_text())["samples"] == list(ROWS)
    with pytest.raises(FedlamaError, match=r"cannot be read|is missing|No such file"):
        site_federation(given, {"data": str(tmp_path / "nowhere")}, 0)


@pytest.mark.parametrize(
    ("changes", "options", "says"),
    [
        ([], {}, "server-config has no 'data'; the server needs an example of such data"),
        ([], {"server-config": "data"}, "expected key=value"),
        ([], {"server-config": "data='x"}, "ends within a quote"),
        (["validation_share=0.1"], {"server-config": "data=x"}, "takes rows of all clients for the server"),
        (["partition.name=natural"], {"server-config": "data=x"}, "partition.name is 'natural', expected the number"),
        (["local_work.epochs=1"], {"server-config": "data=x"}, "is in epochs, which the server cannot count"),
        (
            ["aggregator.name=fedlpa"],
            {"server-config": "data=x"},
            "whose epochs over a client's data",
        ),
        (["data.path=node:"], {"server-config": "data=x"}, "no key is named; write data.path=node:data"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_submitted(
    changes: list[str], options: dict[str, str | float], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        run_config(experiment(*changes), options)


def test_one_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="here all nodes are on one machine"):
        run_on_loopback(experiment(), tmp_path, {})


@pytest.mark.slow
def test_two_sites_with_folders_of_their_own(tmp_path: Path, sites: dict[str, Path]) -> None:
    given = experiment("evaluate_clients=global")
    _, here = deployed(given, sites, tmp_path / "here")
    with Live(tmp_path / "live", 0, warm=True) as live:
        for client in (0, 1):
            live.node(client, data=str(sites[str(client)]))
        out = live.submit(given, "sites", **{"server-config": f"data='{sites['server']}'"})
        run = live.finish(out)
    for name, value in model(here).items():
        assert value.equal(model(run)[name]), name
    first, second = (load_run(path).result().rounds[-1].client_scores for path in (here, run))
    assert first == second
