"""Central training on the pooled data: equal to a plain loop, on every engine, and a row of a comparison without MB."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import fedlama as fl
from fedlama.cli.app import app
from fedlama.cli.tables import study_table
from fedlama.engines import ENGINES
from fedlama.experiment import assemble, load_experiment, prepare
from fedlama.flower import Flower
from fedlama.flower.deploy.federation import deployable
from fedlama.flower.deploy.submit import run_config
from tests.flower.cases import assert_same_bits, in_process

DRAW = torch.Generator().manual_seed(3)
X = torch.randn(200, 6, generator=DRAW)
Y = (X @ torch.randn(6, 3, generator=DRAW)).argmax(1)
ORDER = Y[:160].argsort()  # every client knows few classes


def federation(seed: int = 0, **changes: Any) -> fl.Federation:  # noqa: ANN401
    """Five clients of 32 samples, of which three take part in a round of two steps."""
    torch.manual_seed(seed)
    rows = [ORDER[start : start + 32].numpy() for start in range(0, 160, 32)]
    settings: dict[str, Any] = {
        "model": nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)),
        "clients": fl.TensorClients(X, Y, rows, 8),
        "strategy": fl.FedLAMA(2, 2),
        "local_steps": 16,
        "solver": fl.SGD(0.1, momentum=0.9),
        "sampler": fl.UniformSampler(3),
        "test_set": fl.TestSet(X[160:], Y[160:]),
        "seed": seed,
    }
    return fl.Federation(**(settings | changes))


def test_it_is_plain_training_on_all_data() -> None:
    given = federation()
    central = fl.pooled(given)
    assert (len(central.clients), central.clients.samples(0)) == (1, 160)
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    model.load_state_dict(given.model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    seen = 0
    for step in range(8 * 3 * 2):  # rounds, clients of a cohort, local steps
        x, y = central.clients.batch(0, step, 0)
        seen += len(x)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    result = central.run()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(result.model[name], value, atol=1e-6, rtol=1e-5)
    assert seen == 8 * 3 * 2 * 8
    first = torch.cat([central.clients.batch(0, step, 0)[0] for step in range(20)])  # an epoch has each sample once
    assert torch.equal(first.unique(dim=0), X[:160].unique(dim=0))
    assert [record.local_steps for record in result.rounds] == [record.local_steps for record in given.run().rounds]
    assert [record.score is not None for record in result.rounds] == [False, True] * 4
    assert (result.ledger.transfers, result.cost) == ([], 0)
    assert all((record.cohort, record.answered, record.missing) == ((), (), ()) for record in result.rounds)


@pytest.mark.parametrize("engine", sorted(set(ENGINES) - {"distributed"}))
def test_every_engine_and_resume(engine: str) -> None:
    central = fl.pooled(federation(engine=engine))
    whole, loop = central.run(), fl.pooled(federation(engine="loop")).run()
    for name, value in loop.model.items():
        torch.testing.assert_close(whole.model[name], value, atol=2e-5, rtol=2e-5)
    first = fl.Run(central)
    records = [first.advance() for _ in range(3)]
    second = fl.Run(central)
    second.load_state_dict(first.state_dict(), records)
    assert_same_bits(second.to_end([], records), whole)


def test_the_number_of_samples_of_a_round() -> None:
    def batches(given: fl.Federation, **settings: Any) -> int:  # noqa: ANN401
        central = fl.pooled(given, **settings)
        return fl.Run(central).client_steps([0], 0).get(0, central.strategy.local_steps)

    assert batches(federation()) == 6
    assert batches(federation(sampler=fl.AllClients())) == 10
    assert batches(federation(), batch_size=16) == 3  # as many samples
    assert batches(federation(local_work=fl.LocalWork(epochs=2.0))) == 24  # 2 epochs of three fifths of 20 batches
    assert batches(federation(local_work=fl.LocalWork(limits={0: 1}, straggler_share=0.5))) == 6


def test_what_stays_on_the_clients_is_trained_and_data_sets_are_pooled_too() -> None:
    given = federation(sampler=fl.AllClients())
    layers = fl.tagged(fl.by_tensor(given.model), local=["0.*"])
    local, plain = fl.pooled(replace(given, layers=layers)), fl.pooled(given)
    assert_same_bits(local.run(), plain.run())
    parts = [torch.utils.data.TensorDataset(X[n : n + 32], Y[n : n + 32]) for n in range(0, 160, 32)]
    one_by_one = fl.pooled(replace(given, clients=fl.DatasetClients(parts, 8)))
    assert_same_bits(one_by_one.run(), plain.run())


def test_a_comparison_shows_no_megabytes(tmp_path: Path) -> None:
    methods = {"FedLAMA": federation, "pooled": lambda seed: fl.pooled(federation(seed))}
    study = fl.compare(methods, seeds=2, out=tmp_path, track=[], quiet=True)
    federated, central = study.methods
    assert federated.megabytes is not None
    sent = (
        central.megabytes,
        central.kilobytes_per_step,
        central.cost,
        central.to_target,
        central.to_target_difference,
    )
    assert sent == (None,) * 5
    assert central.value is not None
    assert central.difference is not None
    assert [point.title for point in study.points] == ["FedLAMA"]  # it is not in the plane of bytes and loss
    rows = study.to_json()["methods"]
    assert isinstance(rows, list)
    assert (rows[1]["method"], rows[1]["megabytes"], rows[1]["cost_percent"]) == ("pooled", None, None)
    table = study_table(study, ["digits"], [])[0]
    cells = [list(column.cells)[1] for column in table.columns]  # type: ignore[union-attr]
    assert str(cells[0]) == "pooled"
    assert cells[3:7] == ["-", "-", "-", "-"]
    page = fl.write_report(fl.find_runs([tmp_path]), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "pooled" in page
    again = fl.compare(methods, seeds=2, out=tmp_path, track=[], quiet=True)
    assert all(run.reused for run in again.finished)
    (folder,) = (Path(run.summary["run_folder"]) for run in central.runs.values() if run.summary["seed"] == 1)
    assert fl.verify(folder, fl.pooled(federation(1))).difference is None


def test_refusals(tmp_path: Path) -> None:
    given = federation()
    with pytest.raises(fl.ConfigError, match=r"there are 5 clients; use fedlama\.pooled"):
        replace(given, strategy=fl.Pooled(2)).run()
    clients = [fl.ClientData(X[:32], Y[:32], 8), fl.ClientData(X[32:64], Y[32:64], 4)]
    with pytest.raises(fl.ConfigError, match=r"the clients' batch sizes differ, from 4 to 8, .* give batch_size"):
        fl.pooled(replace(given, clients=clients, sampler=fl.AllClients()))
    assert fl.pooled(replace(given, clients=clients, sampler=fl.AllClients()), batch_size=8).run().score is not None
    with pytest.raises(fl.ConfigError, match="the clients are ReplayedClients, whose samples cannot be pooled"):
        fl.pooled(replace(given, clients=[[(X, Y)]], sampler=fl.AllClients()))
    engine = Flower(in_process(given, tmp_path))
    with pytest.raises(fl.ConfigError, match="in a deployment these stay on their machines"):
        deployable(fl.pooled(given), engine, tmp_path)


def test_it_is_a_method_of_the_command_line(tmp_path: Path) -> None:
    settings = ["partition.clients=4", "local_steps=12", "strategy.base_interval=3", f"--out={tmp_path}"]
    compared = CliRunner().invoke(app, ["compare", "digits", *settings, "--methods", "fedavg pooled", "--json"])
    assert compared.exit_code == 0, compared.output
    rows = {row["method"]: row for row in json.loads(compared.stdout)["methods"]}
    assert rows["Pooled(3)"]["megabytes"] is None
    (folder,) = (tmp_path / "digits").glob("pooled-*")
    stored = fl.load_run(folder)
    given = load_experiment("digits", settings[:-1])
    expected = fl.pooled(assemble(given, prepare(given))).run()
    assert all(torch.equal(stored.result().model[name], value) for name, value in expected.model.items())
    assert [record.loss for record in stored.rounds] == [record.loss for record in expected.rounds]
    verified = CliRunner().invoke(app, ["verify", str(folder)])
    assert verified.exit_code == 0, verified.output
    assert "are the same to the last bit" in verified.stdout
    planned = CliRunner().invoke(app, ["plan", "digits", *settings[:-1], "strategy.name=pooled", "--json"])
    assert planned.exit_code == 0, planned.output
    (method,) = [one for one in json.loads(planned.stdout)["methods"] if one["method"] == "Pooled(3)"]
    assert (method["low"]["bytes_up"], method["high"]["bytes_down"]) == (0, 0)
    page = fl.write_report([folder], tmp_path / "report.html").read_text(encoding="utf-8")
    assert "0 bytes: Pooled(3) seed 0 trained on the data of all clients in one place, so nothing was sent." in page
    with pytest.raises(
        fl.ConfigError, match=r"strategy\.name is 'pooled', which trains on the pooled data of all clients"
    ):
        run_config(load_experiment("digits", ["strategy.name=pooled"]), {})
