"""A run folder is computed again: the same bits, or the first place where they differ."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedlama import DataError
from fedlama.runs.execute import RunOptions, execute
from fedlama.runs.verify import verify
from tests.cli.call import SMALL, fedlama
from tests.experiment.helpers import experiment

ABSENT = ("availability.name=random", "availability.away=0.3")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    own = experiment(*SMALL, *ABSENT)
    (one,) = execute(own, [own.strategy], RunOptions(tmp_path_factory.mktemp("runs")))
    return Path(str(one.summary["run_folder"]))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def edit(path: Path, round_index: int, change: Callable[[Any], None]) -> None:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    change(lines[round_index])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_folder_of_version_0_1_that_counted_one_transfer_of_several_verifies(tmp_path: Path) -> None:
    own = experiment(*SMALL, "availability.name=trace", "availability.absences=[{client=1,first_round=1,last_round=2}]")
    (one,) = execute(own, [own.strategy], RunOptions(tmp_path))
    folder = Path(str(one.summary["run_folder"]))
    ledger = [json.loads(line)["shipments"] for line in (folder / "ledger.jsonl").read_text().splitlines()]
    path, old = folder / "layers.jsonl", 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line, transfers in zip(lines, ledger, strict=True):
        for transfer in (one for one in transfers if one["direction"] == "down"):
            for name, (_, size) in transfer["layers"].items():
                old += line["layers"][name]["bytes_down"] != len(transfer["clients"]) * size
                line["layers"][name]["bytes_down"] = len(transfer["clients"]) * size
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert old
    assert verify(folder).difference is None
    edit(path, 1, lambda line: next(iter(line["layers"].values())).update(bytes_down=4))
    assert "bytes_down is 4, computed now" in str(verify(folder).difference)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("engine=loop", "server_optimizer.name=adam", "codec.name=float16"),
        ("preset=authors", "sampler.name=uniform", "sampler.active=2"),
        ("layers.name=module", "solver.name=fedprox"),
        ("aggregator.name=median", "partition.name=iid"),
        ("availability.name=trace", "availability.absences=[{client=1,first_round=1,last_round=2}]"),
    ],
)
def test_a_run_verifies(changes: tuple[str, ...], tmp_path: Path) -> None:
    own = experiment(*SMALL, *changes)
    (one,) = execute(own, [own.strategy], RunOptions(tmp_path))
    verdict = verify(Path(str(one.summary["run_folder"])))
    assert verdict.difference is None, verdict.difference
    assert verdict.recorded == verdict.computed
    assert (verdict.rounds, verdict.of, verdict.models) == (4, 4, ("model.safetensors",))
    assert verdict.environment == ()


def test_some_rounds_can_be_asked_for(folder: Path) -> None:
    verdict = verify(folder, rounds=2)
    assert (verdict.difference, verdict.rounds, verdict.models) == (None, 2, ())


def test_a_discrepancy_that_was_changed_is_found_with_its_round_and_layer(folder: Path) -> None:
    first = json.loads((folder / "layers.jsonl").read_text().splitlines()[1])["layers"]
    name = [key for key, layer in first.items() if layer["synchronised"]][-1]
    before = first[name]["discrepancy"]

    def change(line: Any) -> None:  # noqa: ANN401
        line["layers"][name]["discrepancy"] = math.nextafter(before, math.inf)

    edit(folder / "layers.jsonl", 1, change)
    verdict = verify(folder)
    assert verdict.difference is not None
    assert verdict.difference.startswith(f"round 1, layer {name!r}: discrepancy is ")
    assert verdict.recorded != verdict.computed
    assert verify(folder, rounds=1).difference is None


def test_a_loss_and_a_shipment_that_were_changed_are_found(folder: Path) -> None:
    edit(folder / "ledger.jsonl", 2, lambda line: line["shipments"][0]["clients"].pop())
    found = verify(folder).difference
    assert found is not None
    assert "round 2" in found
    edit(folder / "metrics.jsonl", 0, lambda line: line.update(train_loss=line["train_loss"] + 1e-9))
    assert str(verify(folder).difference).startswith("round 0: train_loss is ")


def test_a_model_that_was_changed_is_found(folder: Path) -> None:
    model = load_file(folder / "model.safetensors")
    name = list(model)[-1]
    model[name] = model[name] + 1e-6
    save_file(model, folder / "model.safetensors")
    assert verify(folder).difference == f"model.safetensors: tensor {name!r} differs"
    assert verify(folder, rounds=3).difference is None


def test_settings_that_were_changed_are_found(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["solver"]["learning_rate"] = 0.11
    (folder / "config.json").write_text(json.dumps(config))
    assert verify(folder).difference == "before round 0: solver.learning_rate was 0.1, and is 0.11 now"
    config["solver"] = config["in_force"]["solver"]
    config["seed"] = 8
    (folder / "config.json").write_text(json.dumps(config))
    assert verify(folder).difference == "before round 0: seed was 0, and is 8 now"
    config["in_force"]["seed"] = 8
    for key in ("sizes", "data"):  # they follow from the seed
        config["in_force"]["clients"].pop(key)
    (folder / "config.json").write_text(json.dumps(config))
    assert str(verify(folder).difference).startswith("round 0")


def test_another_environment_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["environment"]["versions"]["torch"] = "1.0"
    (folder / "config.json").write_text(json.dumps(config))
    edit(folder / "metrics.jsonl", 0, lambda line: line.update(train_loss=0.5))
    told = verify(folder).lines()
    assert f"torch was 1.0, and is {torch.__version__.partition('+')[0]}" in told[-1]


def test_an_interrupted_run_is_compared_with_its_checkpoint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fedlama.experiment import assemble, prepare
    from fedlama.federation.run import Run
    from fedlama.runs.checkpoint import save_snapshot

    own = experiment(*SMALL, *ABSENT, "evaluate_every=6")
    run = Run(assemble(own, prepare(own)))
    for _ in range(2):
        run.advance()
    save_snapshot(run.state_dict(), folder / "checkpoints")
    (folder / "summary.json").unlink()
    verdict = verify(folder)
    assert (verdict.difference, verdict.models) == (None, ("the checkpoint after round 1",))
    next(iter(run.values.values())).add_(1.0)
    shutil.rmtree(folder / "checkpoints")
    save_snapshot(run.state_dict(), folder / "checkpoints")
    assert str(verify(folder).difference).startswith("the checkpoint after round 1: tensor 'global/")


def test_what_cannot_be_verified_is_told(folder: Path) -> None:
    (folder / "network.jsonl").write_text("")
    with pytest.raises(DataError, match="was a deployment"):
        verify(folder)
    (folder / "network.jsonl").unlink()
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"has no config\.json"):
        verify(folder)


def test_the_command_tells_and_exits(folder: Path) -> None:
    good = fedlama("verify", str(folder), "--rounds", "2")
    assert (good.code, good.err) == (0, "")
    assert "round 0 to 1 of 4 are the same to the last bit" in good.out
    edit(folder / "metrics.jsonl", 1, lambda line: line.update(accuracy=0.5))
    bad = fedlama("verify", str(folder), "--json")
    assert bad.code == 1
    (told,) = json.loads(bad.out)["runs"]
    assert told["same"] is False
    assert "accuracy is 0.5" in told["difference"]
    missing = fedlama("verify", str(folder / "nowhere"))
    assert missing.code == 2
    assert "error: there is no folder" in missing.err
