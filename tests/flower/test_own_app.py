"""`examples/flower_own`: epochs, scores by the clients and the ledger, with its nodes in this process."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from flwr.app import Context, RecordDict
from torch import nn

from fedlama.runs.stored import load_run
from tests.docs.blocks import ROOT
from tests.flower.fake_grid import FakeGrid, with_identity


def test_it_trains_epochs_and_its_clients_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_identity(monkeypatch)
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "flower_own"))
    server = importlib.import_module("own_app.server_app").app
    client = importlib.import_module("own_app.client_app").app
    task = importlib.import_module("own_app.task")
    passes: list[int] = []
    fit = task.fit
    counted = importlib.import_module("own_app.client_app")

    def count(model: nn.Module, data: Any, epochs: int) -> float:  # noqa: ANN401
        passes.append(epochs)
        return float(fit(model, data, epochs))

    monkeypatch.setattr(counted, "fit", count)
    config = {"rounds": 6, "epochs": 2, "out": str(tmp_path / "run"), "poll": 0.0, "join": 5.0, "deadline": 20.0}
    grid = FakeGrid(lambda: client, 4, tmp_path / "states", config)
    server(grid, Context(1, 1, {}, RecordDict(), config))
    result = load_run(tmp_path / "run").result()
    assert passes == [2] * 24
    scores = [record.client_scores for record in result.rounds if record.client_scores]
    assert len(scores) == 3  # one for each cycle
    first, last = scores[0].pooled, scores[-1].pooled
    assert first is not None
    assert last is not None
    assert last.loss < first.loss
    assert last.weight == 200
    down, up = grid.bytes_of("train")
    assert (down, up) == (result.ledger.total_bytes("down"), result.ledger.total_bytes("up"))
    assert json.loads((tmp_path / "run" / "clients.json").read_text())["samples"] == [200] * 4
