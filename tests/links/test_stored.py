"""Run folders read back: what was written is what is read, and damage is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from fedlama import DataError
from fedlama.analysis.links import PROFILES, Exchanges, clock
from fedlama.analysis.preview import preview
from fedlama.analysis.timing import bytes_until, first_reaching, time_runs
from fedlama.experiment import read, resolve
from fedlama.runs.execute import Finished
from fedlama.runs.stored import find_runs, load_run
from tests.links.conftest import SMALL


def test_a_run_is_read_back_as_it_was(finished: list[Finished]) -> None:
    for one in finished:
        stored = load_run(Path(str(one.summary["run_folder"])))
        assert stored.rounds == one.result.rounds
        assert stored.summary == one.summary
        assert (stored.title, stored.seed) == (one.title, 0)
        result = stored.result()
        assert (result.cost, result.score, result.seconds) == (one.result.cost, one.result.score, one.result.seconds)
        assert result.ledger.transfers == one.result.ledger.transfers
        assert all(torch.equal(result.model[name], value) for name, value in one.result.model.items())


def test_time_needs_the_ledger_and_the_metrics_alone(folder: Path, tmp_path: Path) -> None:
    for name in ("ledger.jsonl", "metrics.jsonl"):
        shutil.copy(folder / name, tmp_path / name)
    links = list(PROFILES.values())
    (whole,), (bare,) = time_runs([folder], links), time_runs([tmp_path], links)
    assert [one.total for one in whole.clocks] == [one.total for one in bare.clocks]
    assert bare.name == tmp_path.name


def test_the_plan_foresees_the_time(finished: list[Finished]) -> None:
    links = list(PROFILES.values())
    seen = preview(resolve(read("digits", SMALL)), links, price_per_gb=2.0)
    for one in finished:
        foreseen = seen.forecasts[one.title]
        for link in clock(Exchanges.of_records(one.result.rounds), links):
            low, high = (side.seconds[link.link.name] for side in (foreseen.low, foreseen.high))
            assert low * (1 - 1e-12) <= link.total <= high * (1 + 1e-12)
            if one.title.startswith("FedAvg"):
                assert low == high
        moved = one.result.ledger.total_bytes("up") + one.result.ledger.total_bytes("down")
        low_price, high_price = foreseen.low.money, foreseen.high.money
        assert low_price is not None
        assert high_price is not None
        assert low_price <= moved * 2e-9 <= high_price


def test_time_and_bytes_to_a_target(folder: Path) -> None:
    (timing,) = time_runs([folder], [PROFILES["fibre"]])
    rounds = timing.run.rounds
    accuracies = [(index, one.score.accuracy) for index, one in enumerate(rounds) if one.score]
    at, accuracy = accuracies[0]
    assert first_reaching(rounds, accuracy) == at
    assert first_reaching(rounds, 1.01) is None
    told = timing.to_json(target=accuracy, price_per_gb=1.0)
    assert (
        told["bytes_to_target"] == bytes_until(rounds, at) == sum(r.bytes_up + r.bytes_down for r in rounds[: at + 1])
    )
    assert told["bytes"] == bytes_until(rounds, len(rounds) - 1)
    assert json.dumps(told)


def test_a_cut_off_line_is_dropped(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "summary.json").unlink()
    text = (copy / "ledger.jsonl").read_text()
    (copy / "ledger.jsonl").write_text(text[:-20])
    stored = load_run(copy)
    assert len(stored.rounds) == len(load_run(folder).rounds) - 1
    with pytest.raises(DataError, match="did not finish; start the same command again"):
        stored.result()


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("ledger.jsonl", "[1]\n", r"ledger\.jsonl, line 1 is not an object with a round"),
        ("ledger.jsonl", "{\n", r"ledger\.jsonl, line 1 is not valid JSON"),
        ("ledger.jsonl", '{"round": 1, "shipments": []}\n', r"ledger\.jsonl, line 1: round is 1, expected round 0"),
        ("ledger.jsonl", '{"round": 0, "shipments": [3]}\n', "round 0 is malformed"),
        ("metrics.jsonl", "", r"metrics\.jsonl, line 1 is missing, expected 4 lines"),
        ("metrics.jsonl", "{}\n", r"metrics\.jsonl, line 1 is not an object with a round"),
        ("layers.jsonl", '{"round": 0, "layers": {"a": {"strange": 1}}}\n', "round 0 is malformed"),
        ("config.json", "[]", "is not a JSON object"),
        ("summary.json", "{", "is not valid JSON"),
    ],
)
def test_damage_is_told(file: str, text: str, said: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / file).write_text(text)
    with pytest.raises(DataError, match=said):
        load_run(copy)


def test_a_damaged_model_is_told(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(DataError, match=r"model\.safetensors cannot be read"):
        load_run(copy).result()


def test_runs_are_found_in_folders(finished: list[Finished], tmp_path: Path) -> None:
    folders = [Path(str(one.summary["run_folder"])) for one in finished]
    top = folders[0].parents[1]
    assert find_runs([top]) == sorted(folders)
    assert find_runs([folders[2], top]) == [folders[2], *sorted(folders[:2])]
    assert find_runs([top / "digits"]) == folders  # in the order of the comparison
    with pytest.raises(DataError, match="there is no folder"):
        find_runs([tmp_path / "none"])
    with pytest.raises(DataError, match="no run folder in"):
        find_runs([tmp_path])
