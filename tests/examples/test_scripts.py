"""Every script of examples/ runs as a user would run it; what it computes and prints is checked."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama import Federation
from tests.cli.call import SMALL, fedlama
from tests.docs.blocks import DOCS, ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:  # noqa: ANN401
    """Return a function that runs a script in an empty folder and returns its variables and the printed lines."""
    monkeypatch.chdir(tmp_path)

    def call(number: str, *arguments: str) -> tuple[dict[str, Any], list[str]]:
        (script,) = [path for path in SCRIPTS if path.name.startswith(number)]
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        names = runpy.run_path(str(script), run_name="__main__")
        return names, capsys.readouterr().out.splitlines()

    return call


def test_there_are_enough_scripts_and_each_is_short() -> None:
    assert 5 <= len(SCRIPTS) <= 20
    assert {path.name: n for path in SCRIPTS if (n := len(path.read_text().splitlines())) > 70} == {}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_listed_where_a_reader_looks(script: Path) -> None:
    for page in (ROOT / "README.md", DOCS / "gallery.md"):
        assert f"examples/{script.name}" in page.read_text(encoding="utf-8"), page
    assert f"python examples/{script.name}" in script.read_text(encoding="utf-8")


def test_01_fedlama_in_30_lines(run: Any) -> None:  # noqa: ANN401
    names, lines = run("01")
    result = names["result"]
    assert result.score.accuracy > 0.9
    assert 25 <= result.cost_percent < 100
    assert lines[0] == f"accuracy {result.score.accuracy:.1%}, cost C {result.cost_percent:.1f} % of FedAvg(6)"
    assert lines[2:] == [
        f"{name}: aggregated every {layer.interval * 6} local steps at the end"
        for name, layer in result.rounds[-1].layers.items()
    ]
    body = (ROOT / "examples" / "01_fedlama_in_30_lines.py").read_text().split('"""')[2].strip().splitlines()
    assert len([line for line in body if line]) <= 30
    assert "\n".join(body) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_02_own_strategy(run: Any) -> None:  # noqa: ANN401
    names, lines = run("02")
    assert names["result"].ledger.synchronisations() == {"1.weight": 8, "1.bias": 24, "3.weight": 24, "3.bias": 24}
    fedavg, waiting = [int(re.findall(r"(\d+) bytes", line)[0]) for line in lines]
    assert waiting < fedavg / 2


def test_03_layers_by_block(run: Any) -> None:  # noqa: ANN401
    names, lines = run("03")
    assert [layer.name for layer in names["layers"]] == ["block0", "block1", "block2", "head"]
    assert "synchronisations: {'block0': 12, 'block1': 12, 'block2': 12, 'head': 4}" in lines
    assert names["result"].score.accuracy > 0.85


def test_04_resume(run: Any, tmp_path: Path) -> None:  # noqa: ANN401
    names, lines = run("04")
    assert lines[0] == "stopped after 7 of 16 rounds"
    assert lines[-1] == "the model is the same bit for bit"
    assert names["result"].ledger.transfers == names["uninterrupted"].ledger.transfers
    assert len((tmp_path / "runs" / "resumed" / "metrics.jsonl").read_text().splitlines()) == 16


def test_05_own_codec(run: Any) -> None:  # noqa: ANN401
    _, lines = run("05")
    (full, exact), (eight, rounded), (four, coded) = [
        (int(re.findall(r"(\d+) bytes", line)[0]), float(re.findall(r"([\d.]+)%", line)[0])) for line in lines
    ]
    assert 0.25 < eight / full < 0.27
    assert 0.125 < four / full < 0.14
    assert abs(exact - rounded) < 5
    assert abs(exact - coded) < 5


def test_06_compare_from_python(run: Any, tmp_path: Path) -> None:  # noqa: ANN401
    names, lines = run("06")
    study = names["study"]
    assert [method.title for method in study.methods] == ["FedAvg(6)", "FedLAMA(6, 4)", "FedLUAR(6, 1)"]
    assert (study.base, study.seeds) == ("FedAvg(6)", (0, 1))
    assert len(study.finished) == 6
    assert all(Path(finished.summary["run_folder"], "summary.json").exists() for finished in study.finished)
    assert lines[1].startswith("FedAvg(6): accuracy ")
    assert "noise" in lines[2]
    assert [line.split()[0] for line in lines[4:]] == ["trained"] * 6
    assert [line.split()[0] for line in run("06")[1][4:]] == ["reused"] * 6


def test_07_run_folder_to_pandas(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN401
    assert fedlama("run", *SMALL).code == 0
    monkeypatch.setitem(sys.modules, "pandas", None)
    names, lines = run("07", "runs/digits")
    rows = names["rows"]
    assert sum(row["bytes_up"] for row in rows) == names["run"].ledger.payload_bytes("up")
    assert lines[-1] == f"pandas is not installed: wrote {len(rows)} rows to layers.csv"
    assert len((tmp_path / "layers.csv").read_text().splitlines()) == len(rows) + 1


def test_07_run_folder_to_pandas_with_pandas(run: Any) -> None:  # noqa: ANN401
    pytest.importorskip("pandas", reason="needs pandas")
    assert fedlama("run", *SMALL).code == 0
    names, _ = run("07", "runs/digits")
    assert len(names["table"]) == len(names["rows"])


def test_08_time_on_a_link(run: Any) -> None:  # noqa: ANN401
    _, lines = run("08")
    seconds = [float(re.findall(r": ([\d.]+) s", line)[0]) for line in lines]
    slow_fedavg, _, fast_fedavg, slow_fedlama, _, fast_fedlama = seconds
    assert slow_fedlama < slow_fedavg
    assert fast_fedlama < fast_fedavg
    assert fast_fedlama > 96 * 0.05


def test_tasks_are_short() -> None:
    tasks = [path for path in SCRIPTS if path.name >= "09"][:5]
    assert all(len(path.read_text(encoding="utf-8").splitlines()) < 60 for path in tasks), tasks


def test_09_regression(run: Any) -> None:  # noqa: ANN401
    names, lines = run("09")
    metrics = names["result"].score.metrics
    assert metrics["rmse"] < 0.2  # 0.1 is the noise
    assert lines[-1] == f"at the end: rmse {metrics['rmse']:.3f}, mae {metrics['mae']:.3f}, r2 {metrics['r2']:.3f}"


def test_10_multi_label(run: Any) -> None:  # noqa: ANN401
    names, lines = run("10")
    assert names["result"].score.value > 0.85
    assert lines[0].startswith(f"f1 {names['result'].score.value:.3f}, auroc ")


def test_11_segmentation(run: Any) -> None:  # noqa: ANN401
    names, lines = run("11")
    assert names["result"].score.value > 0.9
    assert [line.split()[0] for line in lines] == ["iou", "dice", "accuracy"]


def test_12_survival(run: Any) -> None:  # noqa: ANN401
    names, lines = run("12")
    assert names["result"].score.value > 0.85
    assert len(lines) == 6
    assert float(lines[-1].rpartition(" ")[2]) > 0.95


def test_13_language_model(run: Any) -> None:  # noqa: ANN401
    names, lines = run("13")
    assert 1 < names["result"].score.value < 1.5
    assert lines[0] == f"perplexity {names['result'].score.value:.2f} of 27 characters"


def test_14_run_from_python(run: Any, tmp_path: Path) -> None:  # noqa: ANN401
    names, lines = run("14")
    assert lines[:2] == ["the machine failed in round 8", "24 rounds; verified: True"]
    alone = names["make"](0).run()
    assert all(torch.equal(value, names["result"].model[name]) for name, value in alone.model.items())
    assert [line.split(":")[0] for line in lines[2:4]] == ["FedAvg(4)", "FedLAMA(4, 2)"]
    assert lines[4] == "runs/two-seeds.html"
    assert (tmp_path / "runs" / "two-seeds" / "comparison.json").exists()
    assert run("14")[1] == lines[1:]  # what has finished is read


def test_17_data_loaders(run: Any) -> None:  # noqa: ANN401
    names, lines = run("17")
    assert names["result"].score.value > 0.85
    assert lines[1] == "the same bits again: True"


def test_16_survival_in_six_regions(run: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """Files of FLamby's form, in which the first feature decides who lives longer."""
    patients = [f"P{number}" for number in range(180)]
    parts = [f"{'test' if number // 6 % 3 == 0 else 'train'}_{number % 6}" for number in range(180)]
    features = [[(number * 7 % 11) / 11, *[0.0] * 38] for number in range(180)]
    rows = [f"{p},{','.join(map(str, x))},1,{1000 * x[0] + 1}" for p, x in zip(patients, features, strict=True)]
    (tmp_path / "brca.csv").write_text("\n".join([f"pid,{','.join('f' * 39)},E,T", *rows]) + "\n")
    split = [f"{patient},x,{part}" for patient, part in zip(patients, parts, strict=True)]
    (tmp_path / "train_test_split.csv").write_text("\n".join(["pid,fold,fold2", *split]) + "\n")
    _, lines = run("16", str(tmp_path))
    assert [line.partition(":")[0] for line in lines] == ["FedAvg", "FedProx", "FedAdam"]
    assert lines[0].startswith("FedAvg: 1.0000 +- 0.000")


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_15_lora_adapters(run: Any, tmp_path: Path) -> None:  # noqa: ANN401
    peft = pytest.importorskip("peft", reason="the extra peft is not installed")
    pytest.importorskip("transformers", reason="the extra peft is not installed")
    names, lines = run("15")
    results = names["results"]
    assert [line.split()[0] for line in lines] == ["FedIT", "FFA-LoRA", "FedSA-LoRA", "FedLAMA"]
    sent = {name: result.ledger.payload_bytes("up") for name, result in results.items()}
    # Four modules with A and B of 4 x 32 numbers, a classifier of 4 x 33, float32, 24 rounds, 8 clients.
    assert sent["FedIT"] == 4 * (8 * 128 + 132) * 24 * 8
    assert sent["FFA-LoRA"] == sent["FedSA-LoRA"] == 4 * (4 * 128 + 132) * 24 * 8
    assert sent["FedLAMA"] < sent["FedIT"]
    assert {row.layer[-2:] for row in results["FedSA-LoRA"].ledger.rows()} == {".A", "er"}
    for result in results.values():
        assert result.rounds[-1].loss < result.rounds[0].loss
    config = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert (config.peft_type, config.r) == ("LORA", 4)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scripts that set 96 local steps train for 16 of them; the script with its own texts trains for all."""

    def federation(*arguments: Any, **settings: Any) -> fl.Federation:  # noqa: ANN401
        model, clients, strategy, steps, *others = arguments
        assert steps == 96
        return Federation(model, clients, strategy, 16, *others, **settings)

    monkeypatch.setattr(fl, "Federation", federation)


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="plain", marks=pytest.mark.thorough),
        pytest.param('"Class Index","Title","Description"\n', id="header"),
    ],
)
def test_15_lora_adapters_of_a_file(run: Any, tmp_path: Path, header: str) -> None:  # noqa: ANN401
    """A file in the form of AG News: quoted fields with commas, quotes and line ends; one form of it has a header."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    pytest.importorskip("transformers", reason="the extra peft is not installed")
    words = [["election", "army"], ["match", "goal"], ["market", "bank"], ["chip", "web"]]
    lines = []
    for row in range(520):
        kind = row * 7 % 4
        title, text = words[kind]
        lines.append(
            f'"{kind + 1}","The {title}, in short","He said ""{text}""; {" ".join([text] * (row % 40))}\nnew line"'
        )
    (tmp_path / "train.csv").write_text(header + "\n".join(lines) + "\n", encoding="utf-8")
    names, printed = run("15", str(tmp_path / "train.csv"))
    assert names["labels"].tolist() == [row * 7 % 4 for row in range(512)]
    assert names["rows"][3] == (1, 'The match, in short He said "goal"; goal goal goal\nnew line')
    counts = (names["ids"] > 0).sum(1)
    assert counts[3] == 1 + len(names["rows"][3][1].split())
    assert int(counts.max()) == 24  # longer texts are cut
    assert sorted(torch.cat(names["texts"]).tolist()) == list(range(512))  # every text is on one client
    assert [line.split()[0] for line in printed] == ["FedIT", "FFA-LoRA", "FedSA-LoRA", "FedLAMA"]
    for name, result in names["results"].items():
        assert result.rounds[-1].loss < result.rounds[0].loss, name


@pytest.mark.thorough
@pytest.mark.usefixtures("few_steps")
@pytest.mark.filterwarnings("ignore::FutureWarning:transformers")
def test_15_lora_adapters_of_a_short_file(run: Any, tmp_path: Path) -> None:  # noqa: ANN401
    """It works with what a short file has, in sixteen equal parts, and says when that is too little."""
    pytest.importorskip("peft", reason="the extra peft is not installed")
    pytest.importorskip("transformers", reason="the extra peft is not installed")
    rows = [f'"{row % 4 + 1}","{["army", "goal", "bank", "chip"][row % 4]} {row}"' for row in range(140)]
    (tmp_path / "short.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    names, printed = run("15", str(tmp_path / "short.csv"))
    assert sorted(torch.cat(names["texts"]).tolist()) == list(range(128))
    assert [line.split()[0] for line in printed] == ["FedIT", "FFA-LoRA", "FedSA-LoRA", "FedLAMA"]
    (tmp_path / "short.csv").write_text("\n".join(rows[:127]) + "\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"short\.csv has 127 rows with a class, expected 128 or more; give a longer"):
        run("15", str(tmp_path / "short.csv"))
