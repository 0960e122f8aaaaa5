"""What the fuzzing found in the readers of checkpoints and run folders, each as it was found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from fedlama import Run
from fedlama.errors import DataError
from fedlama.flower.client.state import load
from fedlama.runs.checkpoint import VERSION, Snapshot, whole_snapshots
from fedlama.runs.reader import read_config, read_records
from fedlama.runs.stored import load_run
from tests.fuzz.targets.federations import small

WHOLE = {"version": VERSION, "rounds_done": 4, "facts": {}}


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (
            json.dumps(WHOLE | {"rounds_done": float("inf")}),
            "is not the one in its name",
        ),  # an OverflowError
        (json.dumps(WHOLE | {"rounds_done": 3}), "is not the one in its name"),
        (json.dumps(WHOLE | {"facts": [1]}), "is not the one in its name"),
        (json.dumps(WHOLE | {"version": "x" * 3000}), "it has version 'xxx"),
        ("[" * 100_000, "recursion"),
        ("[]", "damaged"),
        ("", "damaged"),
    ],
)
def test_a_checkpoint_that_vouches_for_nonsense_is_passed_over(record: str, says: str, tmp_path: Path) -> None:
    content = save({"w": torch.ones(2)}, metadata={"fedlama": record})
    name = f"round-00000004-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    (tmp_path / name).write_bytes(content)
    said: list[str] = []
    assert list(whole_snapshots(tmp_path, said.append)) == []
    assert says in said[0]
    assert len(said[0]) < 600


def taken() -> Snapshot:
    run = Run(small())
    run.advance()
    return run.state_dict()


def test_a_checkpoint_of_another_seed_is_refused() -> None:
    with pytest.raises(DataError, match="it is of another federation: seed was 0, and is 1 now"):
        Run(small(seed=1)).load_state_dict(taken(), [])


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": 3},
        {"cohort": [0, 0]},
        {"cohort": [0, 7]},
        {"clients": []},
        {"steps_done": {"": 1}},
        {"steps_done": {"0": float("inf")}},
        {"changed": ["no layer"]},
        {"strategy": {}},
        {"strategy": None},
        {"engine": 5},
        {"federation": None},
    ],
    ids=str,
)
def test_forged_facts_are_refused_and_leave_the_run_alone(changes: dict[str, Any]) -> None:
    snapshot, run = taken(), Run(small())
    before = {name: value.clone() for name, value in run.values.items()}
    with pytest.raises(DataError, match="is not one of this run"):
        run.load_state_dict(replace(snapshot, facts={**snapshot.facts, **changes}), [])
    assert run.round_index == 0
    assert all(torch.equal(run.values[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("global/0.weight", None),
        ("global/0.weight", torch.ones(2, 2)),
        ("global/0.weight", torch.ones(4, 3, dtype=torch.float64)),
        ("client/0.weight", None),
        ("client/0.weight", torch.ones(3, 4, 3)),
        ("client/0.weight", torch.tensor(1.0)),
        ("memory/velocity/0.weight", torch.ones(2, 1)),
        ("memory/velocity/0.weight", None),
        ("update/nothing", torch.ones(1)),
        ("server/nothing/velocity", torch.ones(1)),
    ],
)
def test_forged_tensors_are_refused(name: str, value: torch.Tensor | None) -> None:
    snapshot = taken()
    tensors = dict(snapshot.tensors)
    assert value is not None or name in tensors
    tensors.pop(name, None)
    if value is not None:
        tensors[name] = value
    with pytest.raises(DataError, match="is not one of this run"):
        Run(small()).load_state_dict(replace(snapshot, tensors=tensors), [])


METRICS = {
    "round": 0, "local_steps": 1, "clients": 1, "train_loss": 0.5, "accuracy": None, "test_loss": None,
    "bytes_up": 1, "bytes_down": 1, "seconds": 0.1, "evaluation_seconds": 0.0,
}  # fmt: skip
SHIPMENT = {"direction": "up", "clients": [0], "layers": {"w": [2, 8]}, "scalars": True}
LAYER = {
    "interval": 1, "synchronised": True, "discrepancy": 0.5, "unit_discrepancy": 0.5, "bytes_up": 8, "bytes_down": 0,
}  # fmt: skip


def folder(path: Path, metrics: dict[str, Any], transfer: dict[str, Any], layer: dict[str, Any]) -> Path:
    lines = {
        "metrics": METRICS | metrics,
        "ledger": {"round": 0, "shipments": [SHIPMENT | transfer]},
        "layers": {"round": 0, "layers": {"w": LAYER | layer}},
    }
    for name, line in lines.items():
        (path / f"{name}.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    return path


def test_the_lines_below_are_otherwise_sound(tmp_path: Path) -> None:
    (record,) = read_records(folder(tmp_path, {}, {}, {}))
    assert (record.cohort, record.layers["w"].interval, record.bytes_up) == ((0,), 1, 40 + 16 + 8 + 8)


@pytest.mark.parametrize(
    ("metrics", "transfer", "layer"),
    [
        ({"round": False}, {}, {}),
        ({"local_steps": "1"}, {}, {}),
        ({"train_loss": float("nan")}, {}, {}),
        ({"accuracy": 7.0, "test_loss": 1.0}, {}, {}),
        ({"seconds": 10**400}, {}, {}),
        ({}, {"direction": "sideways"}, {}),  # the report looked it up
        ({}, {"clients": [float("inf")]}, {}),
        ({}, {"clients": [-1]}, {}),
        ({}, {"layers": {"w": [2**64, 8]}}, {}),
        ({}, {"layers": {"w": [2]}}, {}),
        ({}, {"layers": {"x" * 3000: [2, 8]}}, {}),
        ({}, {}, {"interval": "one"}),
        ({}, {}, {"discrepancy": [1]}),
        ({}, {}, {"bytes_up": None}),
    ],
    ids=str,
)
def test_nonsense_in_a_run_folder_is_refused(
    metrics: dict[str, Any], transfer: dict[str, Any], layer: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="round 0") as caught:
        read_records(folder(tmp_path, metrics, transfer, layer))
    assert len(str(caught.value)) < 1000


def test_deep_json_is_refused_and_is_no_configuration(tmp_path: Path) -> None:
    folder(tmp_path, {}, {}, {})
    for name in ("metrics", "ledger", "layers"):
        with (tmp_path / f"{name}.jsonl").open("a", encoding="utf-8") as file:
            file.write('{"round":' * 100_000 + "\n")
    with pytest.raises(DataError, match=r"metrics\.jsonl, line 2 is not valid JSON"):
        read_records(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000, encoding="utf-8")
    assert read_config(tmp_path) is None


@pytest.mark.parametrize(
    "state", ['{"run": "r", "fingerprint": "f", "loss": "0x1p0", "round": Infinity}', "[" * 100_000]
)
def test_a_client_with_a_strange_state_has_none(state: str, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(save({"values/w": torch.ones(1)}, metadata={"fedlama-client": "1", "state": state}))
    assert load(path) is None


@pytest.mark.parametrize("cost", ["x" * 3000, [1], {}, "\u0000"])
def test_a_summary_whose_cost_is_no_number(cost: object, tmp_path: Path) -> None:
    folder(tmp_path, {}, {}, {})
    (tmp_path / "model.safetensors").write_bytes(save({"w": torch.ones(2)}))
    summary = {"method": 5, "hyperparameters": [[]], "cost_percent": cost or [0]}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    run = load_run(tmp_path)
    assert isinstance(run.title, str)
    with pytest.raises(DataError, match=r"summary\.json is damaged"):
        run.result()
