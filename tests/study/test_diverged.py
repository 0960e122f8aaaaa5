"""A seed that diverges ends its row of a comparison, not the comparison."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fedlama as fl
from fedlama.analysis.statistics import interval
from tests.cli.call import SMALL, Called, fedlama, refused
from tests.runs.federations import make

WILD = fl.SGD(learning_rate=1e30)
METHODS = "fedavg fedlama fedavg,solver=sgd,learning_rate=1e6"


@pytest.fixture(scope="module", autouse=True)
def _pictures() -> None:
    """Draw them: numbers that are not finite are in them."""


def tame(seed: int) -> fl.Federation:
    return make(seed, local_steps=8, solver=fl.SGD(learning_rate=0.05), server_optimizer=fl.Replace())


def wild_under_seed_1(seed: int) -> fl.Federation:
    own = replace(tame(seed), strategy=fl.FedAvg(2))
    return replace(own, solver=WILD) if seed == 1 else own


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[fl.Study, Path]:
    out = tmp_path_factory.mktemp("study")
    methods = {"tame": tame, "wild": wild_under_seed_1}
    return fl.compare(methods, seeds=3, out=out, track=(), quiet=True), out / "comparison"


def test_the_other_seeds_and_methods_go_on(study: tuple[fl.Study, Path]) -> None:
    found, _ = study
    same, wild = found.methods
    assert (sorted(same.runs), dict(same.diverged)) == ([0, 1, 2], {})
    assert (sorted(wild.runs), sorted(wild.diverged)) == ([0, 2], [1])
    assert found.seeds == (0, 1, 2)
    assert len(found.finished) == 5


def test_means_and_differences_leave_it_out(study: tuple[fl.Study, Path]) -> None:
    tame_one, wild = study[0].methods
    assert study[0].base == "wild"  # FedAvg at the base interval
    megabytes = [wild.runs[seed].result.ledger for seed in (0, 2)]
    sums = [(ledger.total_bytes("up") + ledger.total_bytes("down")) / 1e6 for ledger in megabytes]
    assert wild.megabytes == interval(sums)
    assert wild.value is not None
    assert tame_one.difference is not None
    assert (wild.value.count, tame_one.difference.count) == (2, 2)


def test_the_file_says_which_one_and_why(study: tuple[fl.Study, Path]) -> None:
    content = json.loads((study[1] / "comparison.json").read_text())
    (entry,) = content["diverged"]
    assert (entry["method"], entry["seed"]) == ("wild", 1)
    assert "diverged in layer" in entry["reason"]
    assert entry["layer"] in entry["reason"]
    assert (Path(entry["run_folder"]) / "config.json").exists()
    assert [row["seeds_that_diverged"] for row in content["methods"]] == [[], [1]]
    assert content["seeds"] == [0, 1, 2]


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> Called:
    out = tmp_path_factory.mktemp("called")
    return fedlama("compare", *SMALL, "--methods", METHODS, "--seeds", "2", "--track", "none", "--out", out)


def test_the_table_marks_the_row(called: Called) -> None:
    assert called.code == 0
    assert "2 of 2 diverged" in called.out
    assert "diverged under all 2 seeds and has no means" in called.out
    assert called.out.count("diverged in layer 'dense") == 2
    assert "FedLAMA(3, 2) is" in called.out
    assert called.err.count("the other runs go on") == 2


def test_when_all_diverge_nothing_is_compared(tmp_path: Path) -> None:
    with pytest.raises(fl.DivergenceError, match="diverged in layer"):
        fl.compare(lambda seed: replace(tame(seed), solver=WILD), out=tmp_path, track=(), quiet=True)
    assert not (tmp_path / "comparison" / "comparison.json").exists()


def test_a_run_by_itself_is_refused_as_before(tmp_path: Path) -> None:
    (problem,) = refused("run", *SMALL, "solver.learning_rate=1e6", "--out", tmp_path)
    assert "diverged in layer" in problem
