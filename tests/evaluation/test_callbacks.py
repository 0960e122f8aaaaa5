"""The contract of callbacks: what is called when, stops that return a result, and failures that lose nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.runs.autosave import Interrupted
from fedlama.runs.execute import Finished, Observer, PlannedRun, RunOptions, plan_runs, run_one
from fedlama.runs.verify import verify
from tests.evaluation.cases import federation
from tests.experiment.helpers import experiment

DECIDING = ("local_steps=48", "validation_share=0.2", "patience=1", "evaluate_every=6", "solver.learning_rate=0.5")


class Diary(fl.Callback):
    """Writes down what is called, and raises what it is given at one of the calls."""

    def __init__(self, fails: dict[tuple[str, int], Exception] | None = None) -> None:
        self.lines: list[tuple[str, int]] = []
        self.fails = fails or {}

    def _write(self, what: str, number: int) -> None:
        self.lines.append((what, number))
        if (what, number) in self.fails:
            raise self.fails[what, number]

    def on_run_start(self, run: Any) -> None:  # noqa: ANN401
        self._write("start", run.round_index)

    def on_round(self, record: fl.RoundRecord) -> None:
        self._write("round", record.round_index)

    def on_evaluate(self, record: fl.RoundRecord) -> None:
        assert record.score or record.validation
        self._write("evaluate", record.round_index)

    def on_run_end(self, result: fl.Result) -> None:
        self._write("end", len(result.rounds))


class Simple:
    """The oldest form: a class with `on_round` alone."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_round(self, record: fl.RoundRecord) -> None:
        self.seen.append(record.round_index)


def test_what_is_called_when() -> None:
    diary, simple = Diary(), Simple()
    federation(local_steps=8).run([diary, simple])
    rounds = [("round", 0), ("round", 1), ("evaluate", 1), ("round", 2), ("round", 3), ("evaluate", 3)]
    assert diary.lines == [("start", 0), *rounds, ("end", 4)]
    assert simple.seen == [0, 1, 2, 3]
    fl.Federation(federation().model, federation().clients, fl.FedAvg(2), 4).run([nothing := Diary()])
    assert nothing.lines == [("start", 0), ("round", 0), ("round", 1), ("end", 2)]


@pytest.mark.parametrize("hook", ["round", "evaluate"])
def test_a_callback_may_stop_the_run_and_the_result_is_returned(hook: str) -> None:
    diary, simple = Diary({(hook, 3): fl.StopRun("good enough")}), Simple()
    result = federation(early_stopping=None).run([diary, simple])
    assert (len(result.rounds), result.stopped) == (4, "good enough")
    assert simple.seen == [0, 1, 2, 3]
    assert diary.lines[-1] == ("end", 4)
    shorter = federation(early_stopping=None, local_steps=8).run()
    assert all(torch.equal(result.model[name], value) for name, value in shorter.model.items())
    assert shorter.stopped is None


@pytest.mark.parametrize(
    ("call", "rounds", "when"),
    [
        (("start", 0), None, "on_run_start before the first round"),
        (("round", 2), 3, "on_round after round 2"),
        (("evaluate", 1), 2, "on_evaluate after round 1"),
        (("end", 8), 8, "on_run_end at the end"),
    ],
)
def test_a_failure_has_the_result_so_far(call: tuple[str, int], rounds: int | None, when: str) -> None:
    simple = Simple()
    with pytest.raises(fl.CallbackError, match=f"the callback Diary failed in {when}: KeyError: 'oh'") as caught:
        federation().run([Diary({call: KeyError("oh")}), simple])
    assert isinstance(caught.value.__cause__, KeyError)
    result = caught.value.result
    assert (None if result is None else len(result.rounds)) == rounds
    assert simple.seen == list(range(rounds or 0))  # those behind it have seen the round too
    if result is not None:
        assert result.ledger.total_bytes("up") > 0
        assert result.model.keys() == federation().model.state_dict().keys()


class Watching(Observer):
    """Hands a run its callbacks."""

    def __init__(self, *callbacks: fl.RoundCallback) -> None:
        self.callbacks, self.notes = callbacks, list[str]()

    def watch(self, run: PlannedRun) -> AbstractContextManager[Sequence[fl.RoundCallback]]:
        return nullcontext(self.callbacks)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


def trained(out: Path, *callbacks: fl.RoundCallback, changes: Sequence[str] = DECIDING) -> Finished:
    own = experiment(*changes)
    (planned,) = plan_runs(own, [own.strategy], out)
    return run_one(planned, RunOptions(out, quiet=True), Watching(*callbacks))


def content(folder: Path) -> dict[str, Any]:
    """What a run folder says, without seconds."""
    timeless = ("seconds", "evaluation_seconds", "run_folder")
    files: dict[str, Any] = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    for name in ("metrics", "ledger", "layers"):
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        files[name] = [{key: value for key, value in line.items() if key not in timeless} for line in lines]
    summary = json.loads((folder / "summary.json").read_text())
    return files | {"summary": {key: value for key, value in summary.items() if key not in timeless}}


def test_a_failure_in_a_run_folder_continues_bit_for_bit(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    expected = content(Path(str(whole.summary["run_folder"])))
    for call in (("round", 2), ("evaluate", 1), ("end", len(whole.result.rounds))):
        out = tmp_path / f"{call[0]}{call[1]}"
        with pytest.raises(fl.CallbackError, match=r"the state is saved in .*, start the same command again") as caught:
            trained(out, Diary({call: ValueError("a mistake")}))
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.result is not None
        diary = Diary()
        again = trained(out, diary)
        assert content(Path(str(again.summary["run_folder"]))) == expected
        rounds = [number for what, number in diary.lines if what == "round"]
        assert rounds == list(range(len(whole.result.rounds)))
        assert diary.lines[0][0] == "start"
        assert diary.lines[-1][0] == "end"


def test_the_run_folder_has_the_best_model_and_why_the_run_ended(tmp_path: Path) -> None:
    finished = trained(tmp_path)
    folder = Path(str(finished.summary["run_folder"]))
    stored = fl.load_run(folder)
    best, result = finished.result.best, stored.result()
    assert best is not None
    assert result.best is not None
    assert (result.best.round_index, result.best.score) == (best.round_index, best.score)
    assert all(torch.equal(result.best.model[name], value) for name, value in best.model.items())
    assert finished.summary["stopped"] == result.stopped == finished.result.stopped
    assert str(result.stopped).startswith("early stopping: no improvement in 1 evaluations")
    assert len(stored.rounds) < 16
    assert [r.validation for r in stored.rounds] == [r.validation for r in finished.result.rounds]
    verdict = verify(folder)
    assert verdict.difference is None
    assert verdict.models == ("model.safetensors", "best.safetensors")
    assert (folder / "best.safetensors").exists()
    (folder / "best.safetensors").unlink()
    with pytest.raises(fl.DataError, match=r"best\.safetensors cannot be read"):
        stored.result()


def test_a_stopped_run_is_finished_and_reused(tmp_path: Path) -> None:
    from fedlama.runs.execute import execute

    own, options = experiment(*DECIDING), RunOptions(tmp_path, quiet=True)
    (first,), (second,) = (execute(own, [own.strategy], options) for _ in range(2))
    assert (first.reused, second.reused) == (False, True)
    assert second.summary["stopped"] == first.summary["stopped"]
    assert second.to_json()["best"] == first.to_json()["best"]


def test_an_interruption_is_not_a_failure_of_a_callback(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(tmp_path, Diary({("round", 1): Interrupted("stopped by the test")}))


def test_validation_rows_are_not_trained_on() -> None:
    from tests.experiment.helpers import federation as assembled

    plain, held = assembled("normalise=none"), assembled("normalise=none", "validation_share=0.25")
    assert isinstance(plain.clients, fl.TensorClients)
    assert isinstance(held.clients, fl.TensorClients)
    assert held.validation_set is not None
    left, all_rows = (sum(map(len, source.rows)) for source in (held.clients, plain.clients))
    assert left + len(held.validation_set) == all_rows
    assert all(set(few) < set(many) for few, many in zip(held.clients.rows, plain.clients.rows, strict=True))
    assert held.test_set is not None
    assert plain.test_set is not None
    assert len(held.test_set) == len(plain.test_set)
