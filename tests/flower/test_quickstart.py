"""`examples/flower_quickstart`: four lines differ from an app with Flower's FedAvg, and fewer bytes are sent."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from flwr.app import Context, RecordDict

from fedlama.runs.stored import load_run
from tests.docs.blocks import ROOT
from tests.flower.fake_grid import FakeGrid, with_identity
from tests.flower.live import Live, model

EXAMPLE = ROOT / "examples" / "flower_quickstart"
LINES = {
    "client_app.py": {
        "from fedlama.flower import fedlama_mod\n": "",
        "app = ClientApp(mods=[fedlama_mod])\n": "app = ClientApp()\n",
    },
    "server_app.py": {
        "from fedlama.flower import FedLAMAStrategy\n": "from flwr.serverapp.strategy import FedAvg\n",
        "FedLAMAStrategy(model=global_model, out=out, fraction": "FedAvg(fraction",
    },
}
"""The lines with FedLAMA, and those of Flower's quickstart in their place."""
CLIENTS, PARAMETERS = 2, 8 * 9 + 8 + 8 + 8 + 8 * 16 * 32 + 32 + 32 * 3 + 3
BUFFERS = 4 * (8 + 8) + 8  # running mean and variance, and the number of batches as int64


@pytest.fixture(autouse=True)
def _identity(monkeypatch: pytest.MonkeyPatch) -> None:
    with_identity(monkeypatch)


def ran(example: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> FakeGrid:  # noqa: ANN401
    """Run an app as Flower does; return the Grid with its messages."""
    monkeypatch.syspath_prepend(str(example))
    for name in [name for name in sys.modules if name.startswith("quickstart_app")]:
        monkeypatch.delitem(sys.modules, name)
    server = importlib.import_module("quickstart_app.server_app").app
    client = importlib.import_module("quickstart_app.client_app").app
    config = {
        "num-server-rounds": 4, "fraction-evaluate": 1.0, "local-epochs": 1, "learning-rate": 0.1, "batch-size": 20,
        "out": str(folder / "run"), **changes,
    }  # fmt: skip
    grid = FakeGrid(lambda: client, CLIENTS, folder / "states", config)
    server(grid, Context(1, 1, {}, RecordDict(), config))
    return grid


def without_fedlama(folder: Path) -> Path:
    """The example with its four lines as Flower has them."""
    plain = folder / "plain"
    shutil.copytree(EXAMPLE, plain, ignore=shutil.ignore_patterns("__pycache__"))
    for name, lines in LINES.items():
        file = plain / "quickstart_app" / name
        text = file.read_text()
        for ours, theirs in lines.items():
            assert text.count(ours) == 1, ours
            text = text.replace(ours, theirs)
        file.write_text(text)
        assert not [line for line in text.splitlines()[1:] if "fedlama" in line.lower()]
    return plain


def test_four_lines_make_it_move_fewer_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = ran(EXAMPLE, tmp_path / "ours", monkeypatch)
    theirs = ran(without_fedlama(tmp_path), tmp_path / "theirs", monkeypatch)
    assert PARAMETERS * 4 + BUFFERS == 17364
    for kind, times in (("train", (4, 4)), ("evaluate", (4, 0))):
        assert theirs.bytes_of(kind) == tuple(CLIENTS * count * 17364 for count in times)
    ledger = load_run(tmp_path / "ours" / "run").result().ledger
    assert ours.bytes_of("train") == (ledger.total_bytes("down"), ledger.total_bytes("up"))
    assert ours.bytes_of("evaluate") == (ledger.total_bytes("evaluation-down"), 0)
    assert ours.bytes_of("train")[1] < 0.9 * theirs.bytes_of("train")[1]
    assert sum(ours.bytes_of("train")) + sum(ours.bytes_of("evaluate")) < 0.9 * (
        sum(theirs.bytes_of("train")) + sum(theirs.bytes_of("evaluate"))
    )


def test_the_model_learns_and_clients_score_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran(EXAMPLE, tmp_path, monkeypatch, **{"num-server-rounds": 12})
    rounds = load_run(tmp_path / "run").result().rounds
    assert rounds[0].score is not None
    assert rounds[-1].score is not None
    assert rounds[-1].score.loss < 0.7 * rounds[0].score.loss
    assert rounds[-1].score.metrics["eval_acc"] > 0.6


@pytest.mark.slow
def test_it_runs_on_supernodes_and_gives_the_bits_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran(EXAMPLE, tmp_path / "here", monkeypatch)
    with Live(tmp_path / "live", CLIENTS, warm=True) as live:
        shutil.copytree(EXAMPLE, live.app, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.rmtree(live.app / "fedlama_app")
        out, config = tmp_path / "live" / "run", tmp_path / "run.toml"
        config.write_text(f"out = {json.dumps(str(out))}\n")
        live.run_ids["quickstart"] = live.operator.submit(live.app, config)
        folder = live.finish(out)
    deployed, here = model(folder), model(tmp_path / "here" / "run")
    assert list(deployed) == list(here)
    for name, value in here.items():
        assert value.equal(deployed[name]), name
    expected = load_run(tmp_path / "here" / "run").result().ledger
    assert load_run(folder).result().ledger.transfers == expected.transfers
