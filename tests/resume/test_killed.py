"""Runs of the command line that are killed, interrupted or damaged, and started again with the same command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SETTINGS = [
    "local_steps=180",
    "partition.clients=4",
    "strategy.base_interval=3",
    "strategy.increase_factor=4",
    "sampler.name=uniform",
    "sampler.active=3",
]
COMMAND = [sys.executable, "-m", "fedlama.cli.app", "run", "digits", *SETTINGS, "--checkpoint-seconds", "0", "--quiet"]
ROUNDS = 60


def start(out: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*COMMAND, "--out", str(out)], env=environment, stderr=subprocess.PIPE, text=True)


def finish(out: Path) -> str:
    process = start(out)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    return said


def folder(out: Path) -> Path:
    (path,) = (out / "digits").glob("fedlama-*")
    return path


def lines(out: Path) -> int:
    found = list((out / "digits").glob("fedlama-*/metrics.jsonl"))
    return len(found[0].read_bytes().splitlines()) if found else 0


def stop_after(out: Path, rounds: int, number: signal.Signals) -> tuple[int, str]:
    """Start a run and send it a signal once it has written a number of rounds."""
    process = start(out)
    deadline = time.monotonic() + 60
    try:
        while lines(out) < rounds and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode, said


def content(out: Path) -> tuple[object, ...]:
    """Everything that must not depend on interruptions."""
    path = folder(out)
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        del line["seconds"], line["evaluation_seconds"]
    names = ("model.safetensors", "ledger.jsonl", "layers.jsonl")
    return (metrics, *((path / name).read_bytes() for name in names))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    out = tmp_path_factory.mktemp("undisturbed")
    finish(out)
    return content(out)


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path, undisturbed: tuple[object, ...]) -> None:
    for rounds in (2, 21, 43):
        code, _ = stop_after(tmp_path, rounds, signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert not (folder(tmp_path) / "summary.json").exists()
    assert "continuing after round" in finish(tmp_path)
    assert content(tmp_path) == undisturbed
    assert not (folder(tmp_path) / "checkpoints").exists()


@pytest.mark.slow
def test_ctrl_c_finishes_the_round_and_says_how_to_go_on(tmp_path: Path, undisturbed: tuple[object, ...]) -> None:
    code, said = stop_after(tmp_path, 10, signal.SIGINT)
    assert code != 0
    assert "start the same command again to continue" in said
    assert "Traceback" not in said
    assert "continuing after round" in finish(tmp_path)
    assert content(tmp_path) == undisturbed


@pytest.mark.slow
def test_power_cuts(tmp_path: Path, undisturbed: tuple[object, ...]) -> None:
    stop_after(tmp_path, 20, signal.SIGKILL)
    path = folder(tmp_path)
    newest = max((path / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])  # cut off
    (path / "checkpoints" / "round-00000030-0123456789abcdef.safetensors.partial").write_bytes(b"half")
    with (path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"round": 99, "ship')
    said = finish(tmp_path)
    assert "is damaged" in said
    assert "continuing after round" in said
    assert content(tmp_path) == undisturbed


@pytest.mark.slow
def test_lost_lines_go_back_to_an_older_checkpoint(tmp_path: Path, undisturbed: tuple[object, ...]) -> None:
    stop_after(tmp_path, 20, signal.SIGKILL)
    path = folder(tmp_path)
    newest, before = sorted((path / "checkpoints").glob("*.safetensors"), reverse=True)
    rounds = int(before.name[6:14])
    assert int(newest.name[6:14]) == rounds + 1
    kept = (path / "layers.jsonl").read_bytes().splitlines(keepends=True)[:rounds]
    (path / "layers.jsonl").write_bytes(b"".join(kept))
    assert f"continuing after round {rounds - 1}" in finish(tmp_path)
    assert content(tmp_path) == undisturbed


@pytest.mark.slow
def test_other_settings_begin_afresh(tmp_path: Path) -> None:
    stop_after(tmp_path, 5, signal.SIGKILL)
    config = folder(tmp_path) / "config.json"
    stored = json.loads(config.read_text())
    stored["seed"] = 7
    config.write_text(json.dumps(stored))
    said = finish(tmp_path)
    assert "has checkpoints of a run with other settings (seed was 7, and is 0 now); starting from round 0" in said
    assert "continuing" not in said
    assert lines(tmp_path) == ROUNDS
