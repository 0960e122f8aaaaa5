"""A run folder gives everything back without its data: the experiment, the model with its values, tidy tables."""

from __future__ import annotations

import csv
import json
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.core.ledger import MESSAGE
from fedlama.data.digits import Digits
from tests.cli.call import SMALL, fedlama, refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loaded")
    (run,) = fedlama("run", "digits", *SMALL, "--json", "--out", out).json["runs"]
    return Path(run["run_folder"])


def no_data(*_: object) -> Any:  # noqa: ANN401
    raise AssertionError("the data are not needed")


MODELS = [
    (["model=mlp", "model.hidden=[16]"], "Sequential"),
    (["model=small-cnn"], "SmallCNN"),
    (["model=resnet", "model.widths=[4,4,8]", "model.stem=4"], "ResidualNetwork"),
]


@pytest.mark.parametrize(("words", "name"), MODELS, ids=[name for _, name in MODELS])
def test_the_model_is_built_again_without_the_data(
    words: list[str], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fedlama("run", "digits", *SMALL, *words, "--out", tmp_path)
    (path,) = fl.find_runs([tmp_path])
    expected = fl.load_run(path).result().model
    monkeypatch.setattr(Digits, "load", no_data)
    before = torch.get_rng_state()
    model = fl.load_run(path).load_model()
    assert type(model).__name__ == name
    assert not model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in expected.items())


def test_the_model_predicts_as_well_as_the_run(folder: Path) -> None:
    run = fl.load_run(str(folder))  # a text will do
    data = fl.data.digits.load()
    scaled = fl.data.Normalise.per_channel(data.train_x)(data.test_x)
    correct = (run.load_model()(scaled).argmax(1) == data.test_y).double().mean()
    assert float(correct) == pytest.approx(run.summary["accuracy"], abs=1e-9)


def test_the_experiment_is_the_one_that_ran(folder: Path) -> None:
    experiment = fl.load_run(folder).experiment()
    assert experiment == replace(fl.load_experiment("digits", SMALL), settings=experiment.settings)
    assert experiment.settings.local_steps == 12


def test_a_configuration_of_a_run_repeats_it(folder: Path) -> None:
    again = fedlama("run", "--config", folder / "config.json", "--json", "--out", folder.parents[1]).json["runs"][0]
    assert (again["reused"], again["run_folder"]) == (True, str(folder))
    other = fedlama("run", "seed=7", "--config", folder / "config.json", "--json", "--out", folder.parents[1]).json
    assert other["runs"][0]["seed"] == 7
    assert fedlama("plan", folder / "config.json").code == 0
    assert refused("run", "cifar10-resnet20", "--config", folder / "config.json") == [
        f"the experiment is given as 'cifar10-resnet20' and with --config {folder / 'config.json'}; leave one of them "
        "out"
    ]


def test_a_configuration_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    assert "cannot be read" in refused("run", "--config", file)[0]
    file.write_text("{", encoding="utf-8")
    assert "cannot be read" in refused("run", "--config", file)[0]
    file.write_text('{"seed": 1}', encoding="utf-8")
    assert "holds no experiment; give the config.json of a run" in refused("run", "--config", file)[0]
    file.write_text('{"seed": 1, "in_force": {}}', encoding="utf-8")
    assert "was built in Python, which only its code can repeat" in refused("run", "--config", file)[0]


def test_code_that_a_configuration_names_is_not_run(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')", encoding="utf-8")
    content["strategy"] = {"name": f"{tmp_path}/evil.py:Mine"}
    (tmp_path / "config.json").write_text(json.dumps(content), encoding="utf-8")
    (problem,) = refused("run", "--config", tmp_path / "config.json")
    assert "which is not run because a run folder names it" in problem
    assert "--plugin" in problem


def test_tables_have_one_row_per_round_layer_and_direction(folder: Path, tmp_path: Path) -> None:
    run = fl.load_run(folder)
    result = run.result()
    assert run.metrics == result.metrics
    assert run.metrics.column("round") == list(range(len(run.rounds)))
    assert run.metrics[-1]["accuracy"] == run.summary["accuracy"]
    assert len(run.layers) == len(run.rounds) * len(run.rounds[0].layers)
    table = run.ledger.table()
    for way in ("up", "down", "evaluation"):
        assert sum(row["bytes"] for row in table if row["direction"] == way) == run.ledger.total_bytes(way)  # type: ignore[arg-type]
    keys = [(row["round"], row["direction"], row["layer"]) for row in table]
    assert len(set(keys)) == len(keys)
    assert {row["layer"] for row in table} == {*run.rounds[0].layers, MESSAGE}
    with table.to_csv(tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["bytes"] for row in written] == [str(row["bytes"]) for row in table]
    assert len(repr(table)) < 200
    with pytest.raises(fl.ConfigError, match="there is no column 'byte'; did you mean 'bytes'"):
        table.column("byte")
    assert table._repr_html_().count("<tr>") == 11


def test_tables_become_frames_of_pandas(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fl.MissingExtraError, match=r"pip install 'fedlama\[pandas\]'"):
        fl.load_run(folder).layers.to_pandas()

    def frame(rows: list[Any], columns: list[str]) -> tuple[int, list[str]]:
        return len(rows), columns

    fake = types.ModuleType("pandas")
    fake.DataFrame = frame  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", fake)
    layers = fl.load_run(folder).layers
    assert layers.to_pandas() == (len(layers), layers.columns)


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    digits = fl.data.digits.load()
    clients = [fl.ClientData(digits.train_x[i::3][:48] / 255, digits.train_y[i::3][:48], 16) for i in range(3)]
    settings = {"model": model, "clients": clients, "strategy": fl.FedAvg(2), "local_steps": 4, **changes}
    return fl.Federation(**settings)


def test_a_model_of_ones_own_is_loaded_into(tmp_path: Path) -> None:
    result = fl.run(federation(), out=tmp_path, name="own", quiet=True)
    run = fl.load_run(tmp_path / "own")
    assert run.missing == ()
    mine = federation().model
    kept = {name: value.clone() for name, value in mine.state_dict().items()}
    loaded = run.load_model(mine)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in result.model.items())
    assert all(torch.equal(mine.state_dict()[name], value) for name, value in kept.items())
    with pytest.raises(fl.DataError, match=r"built in Python.* fedlama\.StoredRun\.load_model"):
        run.load_model()
    with pytest.raises(fl.ConfigError, match=r"model is 3, expected the torch\.nn\.Module with which the run was made"):
        run.load_model(3)  # type: ignore[arg-type]
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 10))
    with pytest.raises(fl.DataError, match=r"differs from Sequential in 1\.weight, 1\.bias, 3\.weight; give the model"):
        run.load_model(other)


def frozen_base() -> fl.Federation:
    made = federation()
    made.model[1].requires_grad_(False)  # type: ignore[index]
    return made


def test_what_nothing_trains_is_not_written_but_named(tmp_path: Path) -> None:
    result = fl.run(frozen_base(), out=tmp_path, name="frozen", quiet=True)
    run = fl.load_run(tmp_path / "frozen")
    assert run.missing == ("1.weight", "1.bias")
    assert sorted(run.result().model) == ["3.bias", "3.weight"]
    assert sorted(result.model) == ["1.bias", "1.weight", "3.bias", "3.weight"]
    again = fl.run(frozen_base(), out=tmp_path, name="frozen", quiet=True)  # read from the folder
    assert list(again.model) == list(result.model)
    assert all(torch.equal(again.model[name], value) for name, value in result.model.items())
    loaded = run.load_model(frozen_base().model)
    assert all(torch.equal(loaded.state_dict()[name], value) for name, value in result.model.items())
    verdict = fl.verify(tmp_path / "frozen", frozen_base())
    assert (verdict.difference, verdict.models) == (None, ("model.safetensors",))


def test_local_layers_and_frozen_layers_of_an_experiment_have_their_initial_values(tmp_path: Path) -> None:
    words = ["layers.frozen=['dense0.*']", "layers.local=['dense1.bias']"]
    done = fedlama("run", "digits", *SMALL, *words, "--out", tmp_path)
    assert (done.code, done.err) == (0, "")
    (path,) = fl.find_runs([tmp_path])
    run = fl.load_run(path)
    assert run.missing == ("dense0.weight", "dense0.bias", "dense1.bias")
    plain = fedlama("run", "digits", *SMALL, "local_steps=6", "--out", tmp_path / "other")
    assert plain.code == 0
    model = run.load_model()
    from fedlama.experiment import prepare

    initial = prepare(run.experiment()).model.state_dict()
    assert all(torch.equal(model.state_dict()[name], initial[name]) for name in run.missing)
    assert not torch.equal(model.state_dict()["dense1.weight"], initial["dense1.weight"])
    assert fedlama("verify", path).code == 0


def test_a_file_that_names_its_missing_tensors_wrongly_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    fl.run(federation(), out=tmp_path, name="own", quiet=True)
    save_file({"a": torch.zeros(1)}, tmp_path / "own" / "model.safetensors", metadata={"missing": "[1]"})
    with pytest.raises(fl.DataError, match=r"names its missing tensors as '\[1\]'"):
        _ = fl.load_run(tmp_path / "own").missing
