"""Runs of the command line that are killed, interrupted or damaged, and started again with the same command.

Each run is a process of its own, forked from one that has imported everything.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.resume.forks import Forks, Job

SETTINGS = [
    "local_steps=180",
    "partition.clients=4",
    "strategy.base_interval=3",
    "strategy.increase_factor=4",
    "sampler.name=uniform",
    "sampler.active=3",
]
COMMAND = ("run", "digits", *SETTINGS, "--checkpoint-seconds", "0", "--quiet")
ROUNDS = 60


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as started:
        yield started


def stop_after(forks: Forks, out: Path, rounds: int | None, number: int = signal.SIGKILL) -> tuple[int, str]:
    """Start a run, and send it a signal once it has written a number of rounds; without one it ends by itself."""
    job = Job((*COMMAND, "--out", str(out)), out.parent / f"{out.name}.txt", None, number, out, rounds)
    (ended,) = forks.run(job)
    return ended.code, ended.messages


def finish(forks: Forks, out: Path) -> str:
    code, said = stop_after(forks, out, None)
    assert code == 0, said
    return said


def folder(out: Path) -> Path:
    (path,) = (out / "digits").glob("fedlama-*")
    return path


def lines(out: Path) -> int:
    found = list((out / "digits").glob("fedlama-*/metrics.jsonl"))
    return len(found[0].read_bytes().splitlines()) if found else 0


def content(out: Path) -> tuple[object, ...]:
    """Everything that must not depend on interruptions."""
    path = folder(out)
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for line in metrics:
        del line["seconds"], line["evaluation_seconds"]
    names = ("model.safetensors", "ledger.jsonl", "layers.jsonl")
    return (metrics, *((path / name).read_bytes() for name in names))


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[object, ...]:
    out = tmp_path_factory.mktemp("undisturbed") / "runs"
    finish(forks, out)
    return content(out)


@pytest.mark.thorough
def test_killed_again_and_again(forks: Forks, tmp_path: Path, undisturbed: tuple[object, ...]) -> None:
    out = tmp_path / "runs"
    for rounds in (2, 21, 43):
        code, _ = stop_after(forks, out, rounds)
        assert code == -signal.SIGKILL
        assert not (folder(out) / "summary.json").exists()
    assert "continuing after round" in finish(forks, out)
    assert content(out) == undisturbed
    assert not (folder(out) / "checkpoints").exists()


@pytest.mark.slow
def test_ctrl_c_finishes_the_round_and_says_how_to_go_on(
    forks: Forks, tmp_path: Path, undisturbed: tuple[object, ...]
) -> None:
    out = tmp_path / "runs"
    code, said = stop_after(forks, out, 10, signal.SIGINT)
    assert code != 0
    assert "start the same command again to continue" in said
    assert "Traceback" not in said
    assert "continuing after round" in finish(forks, out)
    assert content(out) == undisturbed


@pytest.mark.slow
def test_power_cuts(forks: Forks, tmp_path: Path, undisturbed: tuple[object, ...]) -> None:
    out = tmp_path / "runs"
    stop_after(forks, out, 20)
    path = folder(out)
    newest = max((path / "checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-100])  # cut off
    (path / "checkpoints" / "round-00000030-0123456789abcdef.safetensors.partial").write_bytes(b"half")
    with (path / "ledger.jsonl").open("ab") as file:
        file.write(b'{"round": 99, "ship')
    said = finish(forks, out)
    assert "is damaged" in said
    assert "continuing after round" in said
    assert content(out) == undisturbed


@pytest.mark.slow
def test_lost_lines_go_back_to_an_older_checkpoint(
    forks: Forks, tmp_path: Path, undisturbed: tuple[object, ...]
) -> None:
    out = tmp_path / "runs"
    stop_after(forks, out, 20)
    path = folder(out)
    newest, before = sorted((path / "checkpoints").glob("*.safetensors"), reverse=True)
    rounds = int(before.name[6:14])
    assert int(newest.name[6:14]) == rounds + 1
    kept = (path / "layers.jsonl").read_bytes().splitlines(keepends=True)[:rounds]
    (path / "layers.jsonl").write_bytes(b"".join(kept))
    assert f"continuing after round {rounds - 1}" in finish(forks, out)
    assert content(out) == undisturbed


@pytest.mark.slow
def test_other_settings_begin_afresh(forks: Forks, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    stop_after(forks, out, 5)
    config = folder(out) / "config.json"
    stored = json.loads(config.read_text())
    stored["seed"] = 7
    config.write_text(json.dumps(stored))
    said = finish(forks, out)
    assert "has checkpoints of a run with other settings (seed was 7, and is 0 now); starting from round 0" in said
    assert "continuing" not in said
    assert lines(out) == ROUNDS
