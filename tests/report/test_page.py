"""The content of the file, without a browser."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fedlama import DataError, FedlamaError
from fedlama.core.figures import COLOURS, PARTS
from fedlama.experiment import load_experiment
from fedlama.reporting.html import report_page, write_report
from fedlama.reporting.html.local_work import work_tables
from fedlama.runs.execute import RunOptions, execute
from fedlama.runs.stored import load_run
from tests.cli.call import SMALL, fedlama

ASSETS = Path(__file__).parents[2] / "src" / "fedlama" / "reporting" / "html" / "assets"


def data(text: str) -> Any:  # noqa: ANN401
    """The runs' data that the page carries."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


class Links(HTMLParser):
    """Collects every address in the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]


def test_nothing_refers_outside(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert all(address.startswith("#") or address == "data:," for address in parser.found)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|url\(|fetch\(|XMLHttpRequest|WebSocket", text)
    assert "default-src 'none'" in text
    assert len(text) < 300_000


def test_the_numbers_are_the_runs(report: Path, runs: list[Path]) -> None:
    content = data(report.read_text(encoding="utf-8"))
    for shown, path in zip(content["runs"], runs, strict=True):
        run = load_run(path)
        assert shown["up"][-1] == run.ledger.total_bytes("up")
        assert shown["down"][-1] == run.ledger.total_bytes("down")
        assert sum(layer["up"] for layer in shown["layers"]) == run.ledger.payload_bytes("up")
        assert sum(up for _, up, _, _ in shown["clients"]) == run.ledger.total_bytes("up")
        assert sum(shown["directions"]["down"].values()) == run.ledger.total_bytes("down")
        assert {layer["name"]: len(layer["synchronised"]) for layer in shown["layers"]} == run.ledger.synchronisations()
        for layer in shown["layers"]:
            intervals = [record.layers[layer["name"]].interval for record in run.rounds]
            rebuilt = [
                next(v for start, v in reversed(layer["intervals"]) if start <= i) for i in range(len(intervals))
            ]
            assert rebuilt == intervals


def test_adjustments_tell_what_the_run_did(report: Path, runs: list[Path]) -> None:
    """The layers that the curves select are those whose interval is long in the next cycle."""
    content = data(report.read_text(encoding="utf-8"))
    seen = 0
    for shown, path in zip(content["runs"], runs, strict=True):
        rounds = load_run(path).rounds
        for one in shown["adjustments"][:-1]:
            after = rounds[one["round"] + 1].layers
            assert {name for name, layer in after.items() if layer.interval > 1} == set(one["chosen"])
            assert one["rising"] == sorted(one["rising"])
            seen += 1
    assert seen == 2 * 3
    assert [len(run["adjustments"]) for run in content["runs"]] == [0, 0, 4, 4, 0, 0]


def test_seeds_are_drawn_as_one_line_with_its_interval(report: Path) -> None:
    groups = data(report.read_text(encoding="utf-8"))["groups"]
    assert [(group["title"], group["runs"]) for group in groups] == [
        ("FedAvg(3)", [0, 1]),
        ("FedLAMA(3, 2)", [2, 3]),
        ("FedLUAR(3, 1)", [4, 5]),
    ]
    for group in groups:
        band = group["bands"]["accuracy"]
        assert all(
            low <= mean <= high for low, mean, high in zip(*(band[k] for k in ("low", "mean", "high")), strict=True)
        )


def test_tables_hold_every_run_and_section(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    for word in (
        "FedLUAR(3, 1) seed 1",
        "lora-like",
        "dense1.weight",
        "strategy.increase_factor",
        "Bytes by direction",
    ):
        assert word in text
    assert text.count("<section ") == 11
    assert text.count("<table>") == text.count("</table>") >= 10


def test_hostile_names_stay_text(runs: list[Path], tmp_path: Path) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    copy = tmp_path / "run"
    shutil.copytree(runs[2], copy)
    for file in copy.glob("*.json*"):
        escaped = json.dumps(evil)[1:-1]
        file.write_text(file.read_text().replace("dense0.weight", escaped).replace('"digits"', f'"{escaped}"'))
    text = report_page([copy])
    assert "<img" not in text
    assert data(text)["runs"][0]["layers"][0]["name"] == evil


def test_an_unfinished_run_and_one_without_layers_can_be_shown(runs: list[Path], tmp_path: Path) -> None:
    for name in ("ledger.jsonl", "metrics.jsonl"):
        shutil.copy(runs[2] / name, tmp_path / name)
    text = report_page([tmp_path])
    assert "not finished" in text
    assert data(text)["runs"][0]["adjustments"] == []


def test_it_tells_who_was_missing_and_why(runs: list[Path], tmp_path: Path) -> None:
    assert "all clients of the cohort replied" in report_page([runs[0]])
    copy = tmp_path / "run"
    shutil.copytree(runs[0], copy)
    lines = [json.loads(line) for line in (copy / "ledger.jsonl").read_text().splitlines()]
    for transfer in lines[2]["shipments"]:  # client 3 sends nothing up in round 2, counted from 0
        if transfer["direction"] == "up":
            transfer["clients"].remove(3)
    (copy / "ledger.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    metrics = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    metrics[2]["missing"] = [3]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    told = {"round": 2, "incidents": ["client 3 did not answer"]}
    (copy / "network.jsonl").write_text(json.dumps(told) + "\n" + "not a line\n")
    text = report_page([copy])
    (away,) = data(text)["runs"][0]["attendance"]
    assert away == {"round": 2, "cohort": 4, "missing": [3], "incidents": ["client 3 did not answer"]}
    assert re.search(r"<td>3</td><td>3 of 4</td><td>3</td><td>client 3 did not answer</td>", text)


def test_unequal_local_work_and_layers_that_stay_are_shown(runs: list[Path], tmp_path: Path) -> None:
    equal = report_page([runs[0]])
    assert "each client took the local steps of the strategy" in equal
    assert "never: " not in equal
    work = ["local_work.limits.1=1", "local_work.straggler_share=0.5", 'layers.local=["dense0.bias"]']
    shared = ["digits", "engine=loop", "evaluate=best_client", "model.name=mlp", "model.hidden=[8]"]
    called = fedlama("run", *shared, *SMALL, *work, "--track", "none", "--out", tmp_path)
    assert called.code == 0, called
    (path,) = tmp_path.glob("*/*/config.json")
    run, text = load_run(path.parent), report_page([path.parent])
    assert any(record.client_steps for record in run.rounds)
    (shown,) = data(text)["runs"]
    tau, clients = run.rounds[0].local_steps, range(4)
    steps = {client: [record.client_steps.get(client, tau) for record in run.rounds] for client in clients}
    assert shown["work"]["clients"] == [[c, len(t), sum(t), min(t), max(t)] for c, t in steps.items()]
    assert set(steps[1]) == {1}
    assert shown["work"]["unequal"] == sum(count != tau for each in steps.values() for count in each)
    row = (
        f'<th scope="row">{shown["name"]}</th><td>1</td><td>{len(run.rounds)}</td><td>{len(run.rounds)}</td><td>1</td>'
    )
    assert row in text
    assert "<td>dense0.bias</td><td>8</td><td>never: each client keeps its own</td>" in text
    assert "dense0.bias" not in {row.layer for row in run.ledger.rows()}


def test_a_run_of_many_clients_gets_no_row_for_each() -> None:
    clients = [[client, 2, 4 + client % 2, 2, 3] for client in range(201)]
    text = work_tables([{"name": "run", "work": {"unequal": 100, "clients": clients}}])
    assert text.count("<tr>") == 2
    assert "<td>201</td><td>402</td><td>100</td><td>4</td><td>4.5</td><td>5</td>" in text
    assert "metrics.jsonl" in text


def test_the_command_writes_it(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "a" / "page.html"
    shown = fedlama("report", runs[0], "--out", file, "--link", "fibre")
    assert shown.code == 0
    assert "1 run, " in shown.out
    assert list(data(file.read_text(encoding="utf-8"))["runs"][0]["links"]) == ["fibre"]
    assert fedlama("report", runs[0], "--out", file, "--json").json["runs"] == [str(runs[0])]


def test_mistakes_are_told(runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedlamaError, match=r"cannot be written .*; choose another --out"):
        write_report(runs, tmp_path / "file" / "report.html")
    with pytest.raises(DataError, match="there is no run folder"):
        report_page([tmp_path / "none"])


def luminance(colour: str) -> float:
    """WCAG's relative luminance of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast() -> None:
    """WCAG 2: text 4.5 to 1, and what a plot is read by 3 to 1, on white."""
    style = (ASSETS / "style.css").read_text()
    lines = list(COLOURS)
    texts = re.findall(r"--(?:text|quiet|accent): (#[0-9a-f]{6})", style)
    assert (len(lines), len(texts)) == (8, 3)
    assert all(1.05 / (luminance(colour) + 0.05) >= 4.5 for colour in lines + texts)
    assert all(1.05 / (luminance(colour) + 0.05) >= 3 for colour in PARTS[:2])  # the third has a dark border


def test_layers_that_are_frozen_are_named(tmp_path: Path) -> None:
    settings = ["partition.clients=2", "local_steps=6", "layers.frozen=['dense0.*']"]
    given = load_experiment("digits", settings)
    execute(given, [given.strategy], RunOptions(tmp_path, quiet=True))
    (folder,) = (tmp_path / "digits").glob("fedlama-*")
    (run,) = data(report_page([folder]))["runs"]
    assert [layer["name"] for layer in run["frozenLayers"]] == ["dense0.weight", "dense0.bias"]
    assert "dense0.weight" not in [layer["name"] for layer in run["layers"]]
    assert run["frozenLayers"][0]["parameters"] == 64 * 128
    assert report_page([folder]).count("never: neither trained nor sent") == 2
