"""`fedlama.run`, `fedlama.compare` and `fedlama.verify`: the command line's work, for federations built in Python."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.core.records import RoundRecord
from fedlama.runs.lock import FolderLock
from tests.cli.call import fedlama
from tests.runs.federations import ROUNDS, Net, make

SCRIPT = [sys.executable, "-m", "tests.runs.script"]
ROOT = Path(__file__).parents[2]


def start(out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*SCRIPT, str(out)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def stop_after(out: Path, rounds: int, number: signal.Signals) -> tuple[int, str]:
    process, metrics = start(out), out / "mine" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and len(metrics.read_bytes().splitlines()) >= rounds:
                break
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said


def content(folder: Path) -> tuple[object, ...]:
    """Everything that must not depend on interruptions."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        del line["seconds"], line["evaluation_seconds"]
    names = ("model.safetensors", "ledger.jsonl", "layers.jsonl")
    return (metrics, *((folder / name).read_bytes() for name in names))


def same(first: fl.Result, second: fl.Result) -> bool:
    """Return whether two results have the same bits."""
    models = all(torch.equal(value, second.model[name]) for name, value in first.model.items())
    return models and first.ledger.transfers == second.ledger.transfers and first.score == second.score


class Counter:
    """Counts the rounds that it sees."""

    def __init__(self) -> None:
        self.rounds: list[int] = []

    def on_round(self, record: RoundRecord) -> None:
        """Remember the number of the round."""
        self.rounds.append(record.round_index)


@pytest.fixture(autouse=True)
def _one_thread() -> Any:  # noqa: ANN401
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, fl.Result]:
    out = tmp_path_factory.mktemp("trained")
    return out / "mine", fl.run(make(), out, "mine")


def test_a_run_is_that_of_the_federation_and_leaves_what_the_command_line_leaves(
    trained: tuple[Path, fl.Result],
) -> None:
    folder, result = trained
    assert same(result, make().run())
    left = {path.name for path in folder.iterdir()}
    assert left >= {"config.json", "metrics.jsonl", "ledger.jsonl", "layers.jsonl", "model.safetensors", "summary.json"}
    assert left >= {"intervals.png", "accuracy_rounds.png", "tensorboard"}
    assert not left & {"checkpoints", ".lock"}
    config = json.loads((folder / "config.json").read_text())
    assert config["in_force"] == json.loads(json.dumps(make().describe()))
    assert config["in_force"]["clients"]["data"]["inputs"]["sha256"]
    stored = fl.load_run(folder)
    assert (stored.title, stored.seed) == ("FedLAMA(2, 2)", 0)
    assert same(stored.result(), result)


def test_a_finished_run_is_read_and_again_retrains_it(trained: tuple[Path, fl.Result], tmp_path: Path) -> None:
    first = Counter()
    result = fl.run(make(), tmp_path, callbacks=[first], track=())
    (folder,) = fl.find_runs([tmp_path])
    assert folder.name.startswith("fedlama-2-2-seed0-")
    assert same(result, trained[1])
    written = (folder / "summary.json").stat().st_mtime_ns
    second, third = Counter(), Counter()
    assert same(fl.run(make(), tmp_path, callbacks=[second], track=()), result)
    assert (folder / "summary.json").stat().st_mtime_ns == written
    assert same(fl.run(make(), tmp_path, callbacks=[third], track=(), again=True), result)
    assert (first.rounds, second.rounds, third.rounds) == (list(range(ROUNDS)), [], list(range(ROUNDS)))
    assert (folder / "summary.json").stat().st_mtime_ns > written
    assert fl.find_runs([tmp_path]) == [folder]
    fl.run(replace(make(), engine="stacked"), tmp_path, track=())  # where it is computed does not decide a run
    assert fl.find_runs([tmp_path]) == [folder]


@pytest.mark.slow
def test_a_script_that_is_killed_continues_bit_for_bit(trained: tuple[Path, fl.Result], tmp_path: Path) -> None:
    for rounds in (3, 10, 17):
        code, _ = stop_after(tmp_path, rounds, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not (tmp_path / "mine" / "summary.json").exists()
    seen = Counter()
    result = fl.run(make(), tmp_path, "mine", callbacks=[seen])
    assert seen.rounds == list(range(ROUNDS))
    assert same(result, trained[1])
    assert content(tmp_path / "mine") == content(trained[0])


@pytest.mark.slow
def test_ctrl_c_saves_and_says_how_to_go_on(trained: tuple[Path, fl.Result], tmp_path: Path) -> None:
    code, said = stop_after(tmp_path, 5, signal.SIGINT)
    assert code != 0
    assert "Interrupted: stopped after round" in said
    _, said = start(tmp_path).communicate(timeout=60)
    assert "continuing after round" in said
    assert content(tmp_path / "mine") == content(trained[0])


class Stopped(Exception):  # noqa: N818
    """Raised in the middle of a run."""


def short(seed: int = 0, **changes: Any) -> fl.Federation:  # noqa: ANN401
    """Make a federation of few rounds."""
    return make(seed, local_steps=16, **changes)


def stop_at(number: int) -> fl.Callback:
    class Stop(fl.Callback):
        def on_round(self, record: RoundRecord) -> None:
            if record.round_index == number:
                raise Stopped

    return Stop()


def interrupted(out: Path, rounds: int = 10) -> Path:
    with pytest.raises(fl.CallbackError, match=r"the callback Stop failed in on_round after round .*: Stopped; "):
        fl.run(make(), out, "mine", callbacks=[stop_at(rounds)], checkpoint_seconds=0.0, track=())
    return out / "mine"


def test_resume_can_be_declined(
    trained: tuple[Path, fl.Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(tmp_path)
    with pytest.raises(fl.CallbackError, match=r"the callback Stop failed in on_round after round .*: Stopped; "):
        fl.run(make(), tmp_path, "mine", callbacks=[stop_at(3)], resume=False, track=())
    assert "continuing" not in capsys.readouterr().err
    assert len((tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()) == 4
    interrupted(tmp_path)
    assert same(fl.run(make(), tmp_path, "mine", track=()), trained[1])
    assert "mine: continuing after round 10" in capsys.readouterr().err


def test_an_unfinished_run_verifies_its_checkpoints_too(tmp_path: Path) -> None:
    verdict = fl.verify(interrupted(tmp_path), make())
    assert (verdict.difference, verdict.rounds) == (None, 11)
    assert verdict.models == ("the checkpoint after round 9", "the checkpoint after round 10")


def other_model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return Net()


def other_forward() -> nn.Module:
    model = make().model
    model.norm = nn.BatchNorm1d(6, momentum=0.2)
    return model


OTHERS: dict[str, tuple[Callable[[], fl.Federation], str]] = {
    "solver": (lambda: make(solver=fl.SGD(0.2, momentum=0.9)), "solver.learning_rate was 0.1, and is 0.2 now"),
    "data": (lambda: make(clients=make(1).clients), "the clients' inputs were [90, 6] torch.float32 sha256 "),
    "seed": (lambda: replace(make(), seed=3), "seed was 0, and is 3 now"),
    "values": (lambda: make(model=other_model()), "the model's initial values are others"),
    "structure": (lambda: make(model=other_forward()), "the model has other modules"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_the_folder_of_another_federation_is_refused_with_the_differences(
    other: str, trained: tuple[Path, fl.Result]
) -> None:
    folder, (federation, difference) = trained[0], OTHERS[other]
    before = content(folder)
    with pytest.raises(fl.DataError) as refused:
        fl.run(federation(), folder.parent, "mine")
    assert f"has the run of another federation: {difference}" in str(refused.value)
    assert str(refused.value).endswith("; give another name, or replace that run with again=True")
    assert content(folder) == before
    verdict = fl.verify(folder, federation())
    assert verdict.difference is not None
    assert verdict.difference.startswith(f"before round 0: {difference}")


def test_again_replaces_the_run_of_another_federation(tmp_path: Path) -> None:
    interrupted(tmp_path)
    other = make(strategy=fl.FedAvg(2))
    result = fl.run(other, tmp_path, "mine", again=True, track=())
    assert same(result, other.run())
    assert fl.verify(tmp_path / "mine", other, rounds=2).difference is None


def test_files_that_are_of_no_run_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "beach.png").write_bytes(b"a picture")
    for again in (False, True):
        with pytest.raises(fl.DataError, match=r"holiday holds files that are of no run, such as beach\.png; give"):
            fl.run(make(), tmp_path, "holiday", again=again)
    assert (tmp_path / "holiday" / "beach.png").exists()
    with pytest.raises(fl.ConfigError, match="name is 'a/b', but it names a folder"):
        fl.run(make(), tmp_path, "a/b")


def test_a_model_without_a_seed_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fl.run(make(), tmp_path, track=())
    fl.run(make(model=other_model()), tmp_path, track=())
    assert "a run of the same federation whose model had other initial values" in capsys.readouterr().err
    assert len(fl.find_runs([tmp_path])) == 2


def test_two_processes_at_once(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "mine"), pytest.raises(fl.FedlamaError, match="another process writes to"):
        fl.run(make(), tmp_path, "mine")
    with FolderLock(tmp_path / "comparison"), pytest.raises(fl.FedlamaError, match="another process writes to"):
        fl.compare(make, out=tmp_path)


def test_several_processes_of_one_run_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for engine in ("distributed", fl.Distributed()):
        with pytest.raises(fl.ConfigError, match="engine is 'distributed' with 2 processes, but one process writes"):
            fl.run(make(engine=engine), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_run_folder_verifies_with_its_federation_and_the_command_says_so(trained: tuple[Path, fl.Result]) -> None:
    folder, _ = trained
    verdict = fl.verify(str(folder), make())
    assert (verdict.difference, verdict.rounds, verdict.models) == (None, ROUNDS, ("model.safetensors",))
    called = fedlama("verify", folder)
    assert called.code == 2
    assert f"the run in {folder} is of a federation that was built in Python" in called.err
    assert called.err.rstrip().endswith("with fedlama.verify(folder, federation)")
    assert "Traceback" not in called.err


def test_report_and_links_read_the_folder_without_code(trained: tuple[Path, fl.Result], tmp_path: Path) -> None:
    called = fedlama("report", trained[0], "--out", tmp_path / "report.html", "--json")
    assert called.code == 0
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "FedLAMA(2, 2) seed 0" in page
    timings = fedlama("links", trained[0], "--link", "4g", "--json").json["runs"]
    assert [timing["run"] for timing in timings] == ["FedLAMA(2, 2) seed 0"]


def test_problems_are_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(fl.ConfigError, match="evaluate is 'all'"):
        fl.run(make(evaluate="all"), tmp_path)
    with pytest.raises(fl.ConfigError, match="there is no tracker 'tensorbord'; did you mean 'tensorboard'"):
        fl.run(make(), tmp_path, track=["tensorbord"])
    with pytest.raises(fl.ConfigError, match="evaluate is 'all'"):
        fl.compare(lambda seed: make(seed, evaluate="all"), out=tmp_path)
    assert not any(tmp_path.rglob("config.json"))


def test_a_comparison_has_the_schema_of_the_command_line(tmp_path: Path) -> None:
    study = fl.compare(short, [fl.FedAvg(2), fl.FedLAMA(2, 2)], seeds=2, out=tmp_path, name="mine", track=())
    written = json.loads((tmp_path / "mine" / "comparison.json").read_text())
    assert written == json.loads(json.dumps(study.to_json()))
    command = fedlama("compare", "local_steps=24", "--seeds", "1", "--out", tmp_path / "cli", "--json", "--quiet").json
    assert written.keys() == command.keys()
    assert written["methods"][0].keys() == command["methods"][0].keys()
    assert written["runs"][0].keys() == command["runs"][0].keys()
    assert [row["method"] for row in written["methods"]] == ["FedAvg(2)", "FedLAMA(2, 2)"]
    assert (study.base, study.seeds) == ("FedAvg(2)", (0, 1))
    for title, strategy in (("FedAvg(2)", fl.FedAvg(2)), ("FedLAMA(2, 2)", fl.FedLAMA(2, 2))):
        (method,) = [method for method in study.methods if method.title == title]
        for seed, finished in method.runs.items():
            alone = short(seed, strategy=strategy, evaluate_every=4).run()
            assert same(finished.result, alone)
            verdict = fl.verify(str(finished.summary["run_folder"]), short(seed, strategy=strategy))
            assert verdict.difference is None, verdict.difference
    assert study.methods[1].difference is not None
    assert study.methods[1].difference.count == 2
    assert (tmp_path / "mine" / "accuracy_rounds.png").exists()
    assert fl.find_runs([tmp_path / "mine"]) == [Path(str(run["run_folder"])) for run in written["runs"]]


def test_finished_runs_of_a_comparison_are_read_and_the_rest_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[int] = []

    def federation(seed: int) -> fl.Federation:
        made.append(seed)
        return short(seed)

    first = fl.compare(federation, [fl.FedLAMA(2, 2)], [4, 1], out=tmp_path, track=())
    assert made == [4, 1]
    again = fl.compare(federation, [fl.FedLAMA(2, 2)], [4, 1], out=tmp_path, track=())
    assert [run.reused for run in again.finished] == [True, True]
    assert "2 of 2 runs had already finished" in capsys.readouterr().err
    assert [row.accuracy for row in again.methods] == [row.accuracy for row in first.methods]
    more = fl.compare(federation, seeds=[4], out=tmp_path, track=())  # with its baselines
    assert [method.title for method in more.methods] == ["FedAvg(2)", "FedAvg(4)", "FedLAMA(2, 2)"]
    assert [run.reused for run in more.finished] == [False, False, True]
    retrained = fl.compare(federation, [fl.FedLAMA(2, 2)], [4], out=tmp_path, track=(), again=True)
    assert [run.reused for run in retrained.finished] == [False]


def test_a_federation_itself_keeps_its_data_and_its_model(tmp_path: Path) -> None:
    study = fl.compare(short(), [fl.FedAvg(2)], 2, out=tmp_path, track=())
    configs = [fl.load_run(folder).config for folder in fl.find_runs([tmp_path / "comparison"])]
    assert [config["seed"] for config in configs] == [0, 1]
    assert configs[0]["initial_model"] == configs[1]["initial_model"]
    assert configs[0]["in_force"]["clients"] == configs[1]["in_force"]["clients"]
    assert study.methods[0].runs[0].result.score != study.methods[0].runs[1].result.score


def test_methods_that_differ_in_more_than_the_strategy(tmp_path: Path) -> None:
    methods = {"four bits": short, "all bits": lambda seed: short(seed, codec=fl.Float32())}
    study = fl.compare(methods, seeds=2, out=tmp_path, track=())
    assert [method.title for method in study.methods] == ["four bits", "all bits"]
    assert study.base == "four bits"
    assert study.methods[0].megabytes.mean < study.methods[1].megabytes.mean
    assert study.methods[1].difference is not None
    assert len({str(run.summary["run_folder"]) for run in study.finished}) == 4


@dataclass(frozen=True)
class Mine(fl.Strategy[None]):
    """A strategy that only this module knows."""

    name: ClassVar[str] = "mine"
    base_interval: int = 2
    layers: tuple[str, ...] = ("first", "last")

    def init(self, layers: fl.Layers, seed: int) -> None:
        """Keep no state."""

    def plan(self, state: None, round_index: int) -> fl.Plan:
        """Synchronise everything in every round."""
        names = ["norm.weight", "norm.bias", "first.weight", "first.bias", "last.weight", "last.bias"]
        return fl.Plan(round_index, frozenset(names), dict.fromkeys(names, 1), cycle_start=True)


def test_a_strategy_of_ones_own_has_a_folder_and_a_title(tmp_path: Path) -> None:
    study = fl.compare(short(), [fl.FedAvg(2), Mine()], out=tmp_path, track=())
    fedavg, mine = study.finished
    assert mine.result.ledger.transfers == fedavg.result.ledger.transfers
    folder = Path(str(mine.summary["run_folder"]))
    assert folder.name.startswith("mine-2-seed0-")
    assert fl.load_run(folder).title == "Mine(2)"
    assert json.loads((tmp_path / "comparison" / "comparison.json").read_text())["methods"][1]["written"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"seeds": 0}, "seeds is 0, expected how many"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\], expected how many"),
        ({"name": ""}, "name is ''"),
        ({"strategies": [fl.FedAvg(2), fl.FedAvg(2)]}, "a method is listed twice"),
        ({"federation": lambda _: short(0), "seeds": [7]}, "the federation for seed 7 has seed 0, expected 7; make it"),
        ({"federation": {"a": make, "b": make}}, "'a' is the same federation as another method; give each once"),
        ({"federation": {}}, "there is no federation; give"),
        ({"federation": {"a": make}, "strategies": [fl.FedAvg(2)]}, "strategies are given beside federations by title"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments: dict[str, Any], problem: str, tmp_path: Path) -> None:
    given = {"federation": make, "out": tmp_path, "track": (), **arguments}
    with pytest.raises(fl.ConfigError, match=problem):
        fl.compare(**given)
    assert not any(tmp_path.rglob("config.json"))


def test_a_comparison_is_a_table_and_its_repr_is_short(tmp_path: Path) -> None:
    study = fl.compare(short, [fl.FedAvg(2), fl.FedLAMA(2, 2)], seeds=2, out=tmp_path, track=(), quiet=True)
    rows = study.table
    assert rows.column("method") == ["FedAvg(2)", "FedLAMA(2, 2)"]
    assert rows.columns[1:4] == ["accuracy %", "accuracy % low", "accuracy % high"]
    sent = [run.result.ledger.total_bytes(way) for run in study.finished[2:] for way in ("up", "down")]  # type: ignore[arg-type]
    assert rows[1]["MB"] == pytest.approx(sum(sent) / 2 / 1e6)
    assert rows[0]["loss low"] < rows[0]["loss"] < rows[0]["loss high"]
    assert repr(study) == "Study(FedAvg(2), FedLAMA(2, 2); 2 seeds)"
    assert study._repr_html_() == rows._repr_html_()
