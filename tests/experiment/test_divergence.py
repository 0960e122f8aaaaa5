"""A run that leaves the finite numbers stops, says where, and keeps what it had written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlama import DivergenceError
from fedlama.runs.execute import RunOptions, execute
from tests.cli.call import refused
from tests.experiment.helpers import SMALL, experiment

RATES = ["solver.learning_rate=1e6", "solver.learning_rate=1e30"]


@pytest.mark.parametrize("rate", RATES)
def test_the_command_names_round_client_and_layer(rate: str, tmp_path: Path) -> None:
    (problem,) = refused("run", *SMALL, rate, "--out", tmp_path)
    assert problem.startswith("round ")
    assert ": client " in problem
    assert "diverged in layer 'dense" in problem
    assert "lower the learning rate" in problem


def test_whole_rounds_before_it_are_kept(tmp_path: Path) -> None:
    own = experiment("solver.warm_up_steps=8", "solver.learning_rate=1e6", "solver.momentum=0")
    with pytest.raises(DivergenceError) as caught:
        execute(own, [own.strategy], RunOptions(tmp_path))
    error = caught.value
    assert error.round_index >= 1
    assert 0 <= error.client < 4
    (folder,) = (tmp_path / "digits").iterdir()
    for name in ("metrics", "ledger", "layers"):
        written = [json.loads(line)["round"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        assert written == list(range(error.round_index))
    assert (folder / "config.json").exists()
    assert not (folder / "summary.json").exists()


def test_an_overflowing_average_names_the_client_that_went_farthest() -> None:
    with pytest.raises(DivergenceError, match=r"its largest value is \d.\de\+\d+ and the discrepancy overflows"):
        list(_rounds("solver.learning_rate=1e6", "model.hidden=[64]"))


def _rounds(*overrides: str) -> tuple[object, ...]:
    from tests.experiment.helpers import federation

    return federation(*overrides).run().rounds
