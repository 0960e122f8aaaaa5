"""The head of the report, means over seeds, and the run folders that a page or a table leaves out."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest

import fedlama as fl
from fedlama.analysis.statistics import interval, paired
from fedlama.reporting.html import report_page
from tests.cli.call import SMALL, fedlama


def text_of(page: str) -> str:
    """Return the words of a page without its data and scripts."""
    body = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def test_the_head_says_what_was_trained(report: Path, runs: list[Path]) -> None:
    text = text_of(report.read_text(encoding="utf-8"))
    for part in (
        "data set digits, 1,437 training rows",
        "model mlp, 9,610 parameters",
        "clients 4, all of them active",
        "partition dirichlet (clients=4, alpha=0.5)",
        "solver sgd (learning_rate=0.1, momentum=0.9",
        "budget 24 local steps",
        "seeds 0, 1",
        f"version fedlama {fl.__version__}",
        f"fedlama run --config {runs[0]}/config.json",
    ):
        assert part in text, part
    assert re.search(r"date \d{4}-\d\d-\d\d version", text)


def test_methods_over_seeds_have_means_and_paired_differences(report: Path, runs: list[Path]) -> None:
    text = text_of(report.read_text(encoding="utf-8"))
    values: dict[str, dict[int, float]] = {}
    for folder in runs:
        run = fl.load_run(folder)
        assert run.seed is not None
        values.setdefault(run.title, {})[run.seed] = 100 * run.summary["accuracy"]
    base = next(iter(values))
    for title, by_seed in values.items():
        assert f"{title} 2 {interval(list(by_seed.values())).show()}" in text
        if title != base:
            difference = paired(by_seed, values[base])
            assert difference is not None
            rated = "within noise" if difference.within_noise else "beyond noise"
            assert f"{difference.mean:+.2f} points ± {difference.half:.2f}, {rated}" in text


def test_one_seed_has_no_table_of_means(runs: list[Path], tmp_path: Path) -> None:
    page = fl.write_report(runs[:1], tmp_path / "one.html").read_text(encoding="utf-8")
    assert "Methods over seeds" not in page


def test_a_federation_built_in_python_has_a_head_too(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    clients = [fl.ClientData(torch.randn(16, 3), torch.arange(16) % 3, batch_size=8) for _ in range(3)]
    fl.run(fl.Federation(nn.Linear(3, 3), clients, fl.FedAvg(2), 4), out=tmp_path, name="mine", quiet=True)
    text = text_of(fl.write_report([tmp_path / "mine"], tmp_path / "mine.html").read_text(encoding="utf-8"))
    assert "model Linear, 12 parameters clients 3, all of them active budget 4 local steps" in text
    assert "fedlama run --config" not in text


def test_a_less_complete_description_is_not_listed_beside_the_complete_one(runs: list[Path], tmp_path: Path) -> None:
    folders = [tmp_path / "old", tmp_path / "new"]
    for folder, source in zip(folders, runs, strict=False):
        shutil.copytree(source, folder)
    config = json.loads((folders[0] / "config.json").read_text(encoding="utf-8"))
    del config["in_force"], config["task"]  # as a version before 0.2 wrote it
    (folders[0] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = text_of(report_page(folders))
    assert "data set digits, 1,437 training rows model mlp, 9,610 parameters clients" in text
    assert "are not compared" not in text
    config["model"] = {"name": "leaf-cnn"}
    (folders[0] / "config.json").write_text(json.dumps(config), encoding="utf-8")
    text = text_of(report_page(folders))
    assert "model leaf-cnn, mlp, 9,610 parameters clients" in text
    assert "The runs differ in data, model or length, so their losses are not compared." in text


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Return the folder of a comparison, one more run, and one without a round."""
    assert fedlama("compare", *SMALL, "--methods", "fedavg fedlama", "--out", tmp_path, "--quiet").code == 0
    assert fedlama("run", *SMALL, "seed=7", "--out", tmp_path, "--quiet").code == 0
    unfinished = tmp_path / "digits" / "zz-unfinished"
    unfinished.mkdir()
    for name in ("metrics", "ledger", "layers"):
        (unfinished / f"{name}.jsonl").touch()
    return tmp_path / "digits"


def test_runs_that_are_left_out_are_named_with_the_reason(several: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    (other,) = several.glob("*seed7*")
    first = f"1 run folder is left out (not in the latest comparison, comparison.json; --all takes every run): {other}"
    second = f"1 run folder is left out (no whole round yet): {several / 'zz-unfinished'}"
    for command in (["report", several, "--out", file], ["links", several]):
        shown = fedlama(*command)
        assert (shown.code, shown.err) == (0, "")
        assert first in shown.out
        assert second in shown.out
        left_out = fedlama(*command, "--json").json["left_out"]
        assert set(left_out) == {str(other), str(several / "zz-unfinished")}
    text = text_of(file.read_text(encoding="utf-8"))
    assert first in text
    assert second in text
    every = fedlama("report", several, "--all", "--out", file, "--json").json
    assert len(every["runs"]) == 3
    assert every["left_out"] == {str(several / "zz-unfinished"): "no whole round yet"}
    assert fedlama("links", other, "--json").json["left_out"] == {}


def test_seeds_that_do_not_differ_share_a_row(tmp_path: Path) -> None:
    words = ["--methods", "fedavg fedlama", "--seeds", "2", "--out", str(tmp_path), "--quiet"]
    assert fedlama("compare", *SMALL, *words).code == 0
    shown = fedlama("links", tmp_path / "digits", "--link", "fibre").out
    assert shown.count("FedAvg(3) seeds 0, 1") == 2  # in both tables
    assert "FedAvg(3) seed 0" not in shown
    spread = fedlama("links", tmp_path / "digits", "--link", "4g", "--target", "95").out
    assert "FedAvg(3) seed" in spread
