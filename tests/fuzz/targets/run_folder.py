"""A run folder with one damaged file: read back, asked for everything that is known of it, and reported on."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from fedlama.experiment import assemble, prepare, read, resolve
from fedlama.reporting.html import report_page
from fedlama.runs.execute import PlannedRun, RunOptions, run_one
from fedlama.runs.reader import read_config, read_records
from fedlama.runs.stored import find_runs, load_run
from tests.fuzz.damage import damage_json
from tests.fuzz.folder import Folder
from tests.fuzz.harness import Target
from tests.fuzz.targets.checkpoint import damaged_safetensors

_SMALL = ["partition.clients=2", "strategy.base_interval=1", "strategy.increase_factor=2", "local_steps=3"]


def _fill(folder: Path) -> None:
    experiment = resolve(read("digits", [*_SMALL, "model.hidden=[2]", "partition.name=iid"]))
    finished = run_one(PlannedRun.of(experiment, assemble(experiment, prepare(experiment)), folder), RunOptions(folder))
    source = Path(str(finished.summary["run_folder"]))
    for path in source.iterdir():
        if path.suffix not in (".png", ".svg", ".pdf"):
            path.rename(folder / path.name)
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            for picture in path.iterdir():
                picture.unlink()
            path.rmdir()
    _forget_time_and_place(folder)
    (folder / "comparison.json").write_text('{"runs": [{"run_folder": "runs/a"}]}', encoding="utf-8")


def _forget_time_and_place(folder: Path) -> None:
    """Let the valid files be the same in every process, so that a seed always makes the same input."""
    fixed = {"seconds": 0.5, "evaluation_seconds": 0.25, "run_folder": "runs/a", "environment": {}}
    for path in folder.glob("*.json*"):
        lines = path.read_text(encoding="utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text("utf-8")]
        values = [json.loads(line) for line in lines]
        values = [{key: fixed.get(key, value) for key, value in one.items()} for one in values]
        path.write_text("".join(json.dumps(one) + "\n" for one in values), encoding="utf-8")


def _damage(draw: Random, name: str, content: bytes) -> bytes:
    """Damage a line of a stream, a JSON file, or the model."""
    if name.endswith(".safetensors") and content[8:9] == b"{":
        return damaged_safetensors(draw, content)
    if not name.endswith(".jsonl") or draw.random() < 0.1:
        return damage_json(draw, content) if content[:1] == b"{" and content.count(b"\n{") == 0 else content[::-1]
    lines = content.splitlines(keepends=True)
    at = draw.randrange(len(lines))
    if draw.random() < 0.8 and lines[at][:1] == b"{":
        lines[at] = damage_json(draw, lines[at]) + draw.choice((b"\n", b"\n", b"\n", b""))
    else:
        lines[at] = draw.choice((b"", b"\n", *lines))
    return b"".join(lines)


_FOLDER = Folder(_fill)


def _read(data: bytes) -> None:
    with _FOLDER.replaced(data) as folder:
        find_runs([folder])
        read_config(folder)
        read_records(folder)
        run = load_run(folder)
        assert isinstance(run.title, str)
        assert run.seed is None or isinstance(run.seed, int)
        report_page([folder])
        run.result()


TARGET = Target("run-folder", lambda draw: _FOLDER.make(draw, _damage), _read)
