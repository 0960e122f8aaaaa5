"""A sweep: each combination of values over any keys, with seeds, reused and resumed; a table, a heat map, a front."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import fedlama as fl
from fedlama.analysis.sweep import Axis, Sweep, SweepPlan, parse_axes, run_sweep
from fedlama.errors import ConfigError
from fedlama.reporting.files import picture_files
from fedlama.reporting.heat_map import draw_sweep, heat_map
from fedlama.runs.execute import RunOptions
from tests.cli.call import SMALL, fedlama, refused
from tests.pictures import drawn
from tests.runs.federations import make

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
        (["seed=0,1"], "seed cannot be swept; use --seeds \\(seeds= in Python\\)"),
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
        (["batch-size=8,16", "batch_size=8,16"], "the sweep names batch_size twice"),
        (["solver=sgd,adam", "solver.name=sgd,adam"], "the sweep names solver.name twice"),
        (["solver.learning_rate=0.05,0.050"], "expected each value once"),
    ],
)
def test_other_spellings_are_the_same_key_and_value(texts: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_axes(texts)


def test_a_sweep_from_python_is_that_of_the_command_line(tmp_path: Path) -> None:
    words = ["--sweep", "solver.learning_rate=0.05,0.1", "--sweep", "codec=float32,float16", "--seeds", "2"]
    content = run(*words, out=tmp_path)
    values = {"solver.learning_rate": [0.05, 0.1], "codec": ["float32", "float16"]}
    sweep = fl.sweep("digits", values, 2, overrides=FEW, out=tmp_path, quiet=True)
    assert sweep.seeds == (0, 1)
    assert all(one.reused for cell in sweep.cells for one in cell.runs.values())
    again = json.loads((tmp_path / "digits" / "sweep.json").read_text())
    for document in (content, again):
        for cell in document["cells"]:  # type: ignore[attr-defined]
            for one in cell["runs"]:
                del one["reused"]
    assert again == content


def test_a_sweep_is_a_table_with_intervals(tmp_path: Path) -> None:
    sweep = fl.sweep("digits", {"batch_size": [8, 16]}, 2, overrides=FEW, out=tmp_path, quiet=True)
    rows = sweep.table
    assert rows.column("batch_size") == [8, 16]
    assert rows.columns[1:4] == ["accuracy %", "accuracy % low", "accuracy % high"]
    assert rows[0]["loss"] == pytest.approx(sum(one.result.score.loss for one in sweep.cells[0].runs.values()) / 2)  # type: ignore[union-attr]
    assert rows[0]["loss low"] < rows[0]["loss"] < rows[0]["loss high"]
    assert rows[0]["MB"] == rows[0]["MB low"] == rows[0]["MB high"]
    assert repr(sweep).startswith("Sweep(2 combinations of batch_size, 2 seeds; best: batch_size=")
    assert sweep._repr_html_() == rows._repr_html_()


def made(seed: int, rate: float, alpha: int = 0, **changes: object) -> fl.Federation:
    """Make a federation from arguments that a sweep varies; `alpha` moves its data."""
    federation = replace(make(seed), local_steps=8, solver=fl.SGD(rate), **changes)  # type: ignore[arg-type]
    clients = list(federation.clients)  # type: ignore[call-overload]
    return replace(federation, clients=clients[alpha:] + clients[:alpha])


def test_a_function_is_swept_over_its_arguments(tmp_path: Path) -> None:
    values = {"rate": [0.1, 0.2], "codec": [fl.Float32(), fl.Float16()]}
    sweep = fl.sweep(made, values, [3, 5], out=tmp_path, name="mine", track=(), quiet=True)
    assert [tuple(cell.values.values()) for cell in sweep.cells] == [
        ("0.1", "Float32()"),
        ("0.1", "Float16(down=False)"),
        ("0.2", "Float32()"),
        ("0.2", "Float16(down=False)"),
    ]
    for cell, (rate, codec) in zip(sweep.cells, [(r, c) for r in (0.1, 0.2) for c in values["codec"]], strict=True):
        for seed, finished in cell.runs.items():
            alone = made(seed, rate, codec=codec).run()  # type: ignore[arg-type]
            assert finished.result.score == alone.score
            assert finished.result.ledger.transfers == alone.ledger.transfers
    assert len(sweep.points) == 4
    pictures = {f"{name}.{kind}" for name in ("sweep", "sweep_front") for kind in ("png", "svg", "pdf")}
    assert {path.name for path in (tmp_path / "mine").glob("sweep*")} == {"sweep.json", *pictures}
    again = fl.sweep(made, values, [3, 5], out=tmp_path, name="mine", track=(), quiet=True)
    assert all(one.reused for cell in again.cells for one in cell.runs.values())


def test_a_function_that_changes_the_data_has_no_front(tmp_path: Path) -> None:
    with drawn():
        sweep = fl.sweep(made, {"rate": [0.1], "alpha": [0, 1]}, out=tmp_path, track=(), quiet=True)
    assert all(file.read_bytes() for file in picture_files(tmp_path / "sweep" / "sweep.png"))
    assert (sweep.same_problem, sweep.points) == (False, [])
    assert sweep.best in sweep.cells


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "values is empty"),
        ({"rate": 0.1}, r"values\['rate'\] is 0.1, expected a list of values; write 'rate': \[0.05, 0.1\]"),
        ({"rate": []}, r"values\['rate'\] is \[\], expected a list"),
        ({"rate": [0.1, 0.10]}, "expected each value once"),
        ({"seed": [0, 1]}, r"seed cannot be swept; use --seeds \(seeds= in Python\)"),
        ({"rate": [0.1, -1.0]}, "learning_rate is -1"),
    ],
)
def test_values_that_are_wrong(values: dict[str, list[object]], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=problem):
        fl.sweep(made, values, out=tmp_path, quiet=True)
    assert not list(tmp_path.iterdir())


def test_overrides_are_for_experiments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="given beside a function; set them in the function"):
        fl.sweep(made, {"rate": [0.1]}, overrides=["seed=1"], out=tmp_path)
