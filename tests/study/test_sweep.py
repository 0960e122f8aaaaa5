"""A sweep: each combination of values over any keys, with seeds, reused and resumed; a table, a heat map, a front."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fedlama.analysis.sweep import Axis, Sweep, SweepPlan, parse_axes, run_sweep
from fedlama.errors import ConfigError
from fedlama.reporting.heat_map import draw_sweep, heat_map
from fedlama.runs.execute import RunOptions
from tests.cli.call import SMALL, fedlama, refused

FEW = (*SMALL, "local_steps=6")


def run(*words: str, out: Path) -> dict[str, object]:
    return dict(fedlama("run", *FEW, *words, "--json", "--out", out).json)


def test_every_combination_is_trained_under_every_seed(tmp_path: Path) -> None:
    words = ["--sweep", "solver.learning_rate=0.05,0.1", "--sweep", "strategy.base_interval=2,3", "--seeds", "2"]
    content = run(*words, out=tmp_path)
    cells = content["cells"]
    assert isinstance(cells, list)
    assert content["axes"] == {"solver.learning_rate": ["0.05", "0.1"], "strategy.base_interval": ["2", "3"]}
    assert [list(cell["values"].values()) for cell in cells] == [
        ["0.05", "2"],
        ["0.05", "3"],
        ["0.1", "2"],
        ["0.1", "3"],
    ]
    for cell in cells:
        assert [one["seed"] for one in cell["runs"]] == [0, 1]
        assert cell["metric"]["count"] == 2
        config = json.loads((Path(cell["runs"][0]["run_folder"]) / "config.json").read_text())
        assert str(config["solver"]["learning_rate"]) == cell["values"]["solver.learning_rate"]
        assert str(config["strategy"]["base_interval"]) == cell["values"]["strategy.base_interval"]
        assert cell["metric"]["mean"] == pytest.approx(50 * sum(one["accuracy"] for one in cell["runs"]))
    assert any(cell["on_front"] for cell in cells)
    assert json.loads((tmp_path / "digits" / "sweep.json").read_text()) == content
    assert {path.name for path in (tmp_path / "digits").glob("*.png")} == {"sweep.png", "sweep_front.png"}
    again = run(*words, out=tmp_path)["cells"]
    assert isinstance(again, list)
    assert all(one["reused"] for cell in again for one in cell["runs"])


def test_runs_of_other_commands_are_reused(tmp_path: Path) -> None:
    assert fedlama("run", *FEW, "solver.learning_rate=0.05", "--out", tmp_path).code == 0
    cells = run("--sweep", "solver.learning_rate=0.05,0.1", out=tmp_path)["cells"]
    assert isinstance(cells, list)
    assert [one["reused"] for cell in cells for one in cell["runs"]] == [True, False]


def test_the_table_names_the_best_and_what_was_reused(tmp_path: Path) -> None:
    words = ["--sweep", "model=mlp,small-cnn", "--out", str(tmp_path)]
    assert fedlama("run", *FEW, *words).code == 0
    shown = fedlama("run", *FEW, *words).out
    for part in ("model", "mlp", "small-cnn", "acc %", "loss", "MB", "*", "best accuracy: model=", "2 of 2 runs had"):
        assert part in shown
    assert f"picture: {tmp_path / 'digits' / 'sweep.png'}" in shown


def test_a_combination_that_diverges_ends_its_row(tmp_path: Path) -> None:
    called = fedlama("run", *FEW, "--sweep", "solver.learning_rate=0.1,1e20", "--out", tmp_path)
    assert called.code == 0
    assert "1 of 1 diverged" in " ".join(called.out.split())
    assert "the other runs go on" in called.err


def test_losses_of_other_data_are_not_compared(tmp_path: Path) -> None:
    called = fedlama("run", *FEW, "--sweep", "partition.alpha=0.5,5", "--out", tmp_path)
    assert "no front, since the combinations differ in data" in " ".join(called.out.split())
    assert not (tmp_path / "digits" / "sweep_front.png").exists()


def test_three_keys_have_a_panel_for_each_value_of_the_first(tmp_path: Path) -> None:
    axes = (Axis("batch_size", ("8", "16")), Axis("solver.momentum", ("0", "0.9")))
    plan = SweepPlan("digits", FEW, (*axes, Axis("solver.learning_rate", ("0.1",))))
    sweep: Sweep = run_sweep(plan, RunOptions(tmp_path, quiet=True, track=()))
    figure = heat_map(sweep)
    assert [axes.get_title() for axes in figure.axes] == [
        "test accuracy %; batch_size=8",
        "test accuracy %; batch_size=16",
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["0", "0.9"]
    assert len(draw_sweep(sweep, tmp_path)) == 2
    assert sweep.best in sweep.cells


def test_every_problem_is_reported_before_anything_is_trained(tmp_path: Path) -> None:
    out = ["--out", str(tmp_path)]
    problems = refused("run", *FEW, "--sweep", "solver.learning_rate=0.1,-1", "--sweep", "partition.clients=4,0", *out)
    assert any("learning_rate is -1" in problem for problem in problems)
    assert any("clients is 0" in problem for problem in problems)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("texts", "part"),
    [
        (["solver.learning_rate"], "expected KEY=V1,V2"),
        (["=1"], "expected KEY=V1,V2"),
        (["a.b="], "expected KEY=V1,V2"),
        (["seed=0,1"], "seed cannot be swept; use --seeds"),
        (["name=a,b"], "name cannot be swept; it names the folder"),
        (["solver.momentum=0,0"], "expected each value once; remove one"),
        (["solver.momentum=0", "solver.momentum=0.5"], "names solver.momentum twice"),
    ],
)
def test_axes_that_are_wrong(texts: list[str], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse_axes(texts)


def test_too_many_combinations_are_refused() -> None:
    values = tuple(str(value) for value in range(101))
    with pytest.raises(ConfigError, match="the sweep has 10201 combinations, expected 10000 or fewer"):
        run_sweep(SweepPlan("digits", (), (Axis("solver.momentum", values), Axis("batch_size", values))))


def test_seeds_without_a_sweep_are_refused() -> None:
    assert refused("run", "--seeds", "2") == [
        "--seeds is given without --sweep; use `fedlama compare --seeds`, or add --sweep"
    ]


def test_an_interrupted_sweep_goes_on(tmp_path: Path) -> None:
    plan = SweepPlan("digits", FEW, (Axis("solver.learning_rate", ("0.05", "0.1")),), seeds=(0, 1))
    options = RunOptions(tmp_path, quiet=True, track=())
    whole = run_sweep(plan, options)
    first = next(iter(whole.cells[1].runs.values()))
    Path(str(first.summary["run_folder"]), "summary.json").unlink()  # as if it had been killed before its end
    again = run_sweep(plan, options)
    assert [one.reused for cell in again.cells for one in cell.runs.values()] == [True, True, False, True]
    assert [cell.metric for cell in again.cells] == [cell.metric for cell in whole.cells]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["batch-size=8,16", "batch_size=8,16"], "--sweep names batch_size twice"),
        (["solver=sgd,adam", "solver.name=sgd,adam"], "--sweep names solver.name twice"),
        (["solver.learning_rate=0.05,0.050"], "expected each value once"),
    ],
)
def test_other_spellings_are_the_same_key_and_value(texts: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_axes(texts)
