"""Kills, damaged files, two processes at once and replaced data end in the undisturbed bits or in one sentence.

All moments and all damage are drawn from one seed.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.resume.forks import Ended, Forks, Job

pytestmark = pytest.mark.slow

SEED = 13
KILLS = 30
DAMAGES = 12
RUN = (
    "run", "digits", "local_steps=84", "partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=4",
    "sampler.name=uniform", "sampler.active=3", "engine=loop", "--checkpoint-seconds", "0", "--quiet",
    "--track", "none",
)  # fmt: skip
STREAMS = ("metrics.jsonl", "ledger.jsonl", "layers.jsonl")
PICTURES = {"accuracy_steps.png", "accuracy_rounds.png", "accuracy_megabytes.png", "intervals.png"}


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks() as started:
        yield started


def call(
    forks: Forks,
    out: Path,
    *arguments: str,
    after: float | None = None,
    signal_round: int | None = None,
    number: int = signal.SIGKILL,
) -> Ended:
    given = (*(arguments or RUN), "--out", str(out))
    (ended,) = forks.run(Job(given, out.parent / f"{out.name}.txt", after, number, out, signal_round))
    assert "Traceback" not in ended.messages, ended.messages
    return ended


def folder(out: Path) -> Path:
    (path,) = out.glob("*/fedlama-*")
    return path


def content(out: Path) -> tuple[object, ...]:
    """Everything that must not depend on what happened on the way."""
    path = folder(out)
    metrics = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((path / "summary.json").read_text())
    for line in metrics:
        del line["seconds"], line["evaluation_seconds"]
    del summary["seconds"], summary["run_folder"]
    pictures = {file.name for file in path.glob("*.png")}
    names = ("model.safetensors", "ledger.jsonl", "layers.jsonl")
    return (metrics, summary, pictures, *((path / name).read_bytes() for name in names))


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[object, ...], float]:
    out = tmp_path_factory.mktemp("undisturbed") / "runs"
    ended = call(forks, out)
    assert ended.code == 0, ended.messages
    assert content(out)[2] == PICTURES
    pictures = {name.replace("png", ending) for name in PICTURES for ending in ("png", "svg", "pdf")}
    files = {*STREAMS, *pictures, "config.json", "summary.json", "model.safetensors"}
    assert {file.name for file in folder(out).iterdir()} == files
    return content(out), ended.seconds


def test_thirty_kills(forks: Forks, undisturbed: tuple[tuple[object, ...], float], tmp_path: Path) -> None:
    expected, seconds = undisturbed
    draw, kills, ends = Random(SEED), 0, 0
    out = tmp_path / "runs"
    while kills < KILLS or not ends:
        ended = call(forks, out, after=draw.uniform(0, 0.9 * seconds) if kills < KILLS else None)
        if ended.code == -signal.SIGKILL:
            kills += 1
            continue
        assert ended.code == 0, ended.messages
        assert content(out) == expected
        shutil.rmtree(out)
        seconds = min(seconds, ended.seconds)  # other programs may have slowed the first run
        ends += 1
    assert kills == KILLS


def damage(draw: Random, path: Path) -> str:
    """Damage one file of a run folder as broken disks, editors and other programs do."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix not in (".png", ".svg", ".pdf"))
    file = draw.choice(files)
    data = bytearray(file.read_bytes())
    kind = draw.choice(("cut", "flip", "digit", "removed", "repeated", "garbage", "zeros"))
    digits = [at for at, byte in enumerate(data) if 48 <= byte < 58]
    if kind == "removed" or not data:
        file.unlink()
    elif kind == "cut":
        file.write_bytes(data[: draw.randrange(len(data))])
    elif kind == "digit" and digits:
        at = draw.choice(digits)
        data[at] = 48 + (data[at] - 48 + 1) % 10
        file.write_bytes(data)
    elif kind == "repeated":
        lines = bytes(data).splitlines(keepends=True)
        at = draw.randrange(len(lines))
        file.write_bytes(b"".join([*lines[: at + 1], *lines[at:]]))
    elif kind == "garbage":
        file.write_bytes(data + bytes(draw.randrange(256) for _ in range(40)) + b"\n")
    elif kind == "zeros":
        at = draw.randrange(len(data))
        file.write_bytes(data[:at] + bytes(len(data) - at))
    else:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        file.write_bytes(data)
    return f"{kind}: {file.name}"


def test_damaged_files(forks: Forks, undisturbed: tuple[tuple[object, ...], float], tmp_path: Path) -> None:
    expected, seconds = undisturbed
    draw = Random(SEED)
    for number in range(DAMAGES):
        out = tmp_path / str(number)
        moment = draw.uniform(0.4, 1.0) * seconds
        call(forks, out, after=moment if draw.random() < 0.6 else None)
        if not any(out.glob("*/fedlama-*/config.json")):
            continue
        what = damage(draw, folder(out))
        for command in (("report", str(folder(out))), ("verify", str(folder(out)), "--rounds", "1")):
            given = (*command, *(("--out", str(out / "report.html")) if command[0] == "report" else ()))
            (ended,) = forks.run(Job(given, tmp_path / "messages.txt"))
            assert ended.code in (0, 1) or ended.one_sentence(), (what, ended.messages)
        ended = call(forks, out)
        if ended.code:
            assert ended.one_sentence(), (what, ended.messages)
        else:
            assert content(out) == expected, (what, ended.messages)


def test_a_changed_digit_before_a_checkpoint(
    forks: Forks, undisturbed: tuple[tuple[object, ...], float], tmp_path: Path
) -> None:
    out = tmp_path / "runs"
    assert call(forks, out, signal_round=20).code == -signal.SIGKILL
    file = folder(out) / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    lines[3] = lines[3].replace('"bytes_up": 1', '"bytes_up": 2').replace('"seconds": 0', '"seconds": 1')
    assert lines != file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines))
    ended = call(forks, out)
    assert re.search(r"the first \d+ lines of \S+metrics.jsonl are not those that were written", ended.messages)
    assert "no checkpoint that can be used; starting from round 0" in ended.messages
    assert content(out) == undisturbed[0]


def test_another_version_of_torch_is_noted(forks: Forks, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert call(forks, out).code == 0
    file = folder(out) / "config.json"
    stored = json.loads(file.read_text())
    stored["environment"]["versions"]["torch"] = "1.2.3"
    file.write_text(json.dumps(stored))
    assert ": it was trained with torch 1.2.3, here it is " in call(forks, out).messages


def test_two_at_once(forks: Forks, tmp_path: Path) -> None:
    """The run is long enough that the second process starts while the first one trains, on a busy machine too."""
    long = tuple("local_steps=600" if word.startswith("local_steps=") else word for word in RUN)
    assert call(forks, tmp_path / "undisturbed", *long).code == 0
    draw, expected = Random(SEED), content(tmp_path / "undisturbed")
    for number in range(3):
        out = tmp_path / str(number)
        given, start_round = (*long, "--out", str(out)), 0 if number == 0 else draw.randrange(1, 10)
        first, second = forks.run(
            Job(given, tmp_path / "first.txt"), Job(given, tmp_path / "second.txt", out=out, start_round=start_round)
        )
        assert sorted([first.code, second.code]) == [0, 2], (first.messages, second.messages)
        refused = first if first.code else second
        assert refused.one_sentence()
        assert re.search(r"another process writes to \S+ \(process \d+ on \S+, since 20\d\d-", refused.messages)
        assert content(out) == expected
        assert not (folder(out) / ".lock").exists()


def test_two_comparisons_at_once(forks: Forks, tmp_path: Path) -> None:
    given = ("compare", *RUN[1:], "--out", str(tmp_path / "runs"))
    jobs = [Job(given, tmp_path / f"{number}.txt") for number in range(2)]
    ends = forks.run(*jobs)
    assert sorted(ended.code for ended in ends) == [0, 2], [ended.messages for ended in ends]
    assert next(ended for ended in ends if ended.code).one_sentence()
    assert json.loads((tmp_path / "runs" / "digits" / "comparison.json").read_text())["base"] == "FedAvg(3)"


def test_a_killed_process_leaves_no_lock(forks: Forks, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert call(forks, out, signal_round=5).code == -signal.SIGKILL
    assert json.loads((folder(out) / ".lock").read_text()).keys() == {"pid", "host", "since"}
    assert call(forks, out).code == 0


def test_pictures_that_a_kill_prevented(forks: Forks, tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert call(forks, out).code == 0
    (folder(out) / "intervals.png").unlink()
    (folder(out) / "accuracy_rounds.png").unlink()
    before = (folder(out) / "model.safetensors").stat().st_mtime_ns
    assert call(forks, out).code == 0
    assert {file.name for file in folder(out).glob("*.png")} == PICTURES
    assert (folder(out) / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_signals_save(name: str, forks: Forks, undisturbed: tuple[tuple[object, ...], float], tmp_path: Path) -> None:
    out, number = tmp_path / "runs", getattr(signal, name)
    seldom = tuple("1000" if word == "0" else word for word in RUN)
    ended = call(forks, out, *seldom, signal_round=10, number=number)
    assert ended.code == 128 + number, ended.messages
    assert "start the same command again to continue" in ended.messages
    (saved,) = (folder(out) / "checkpoints").iterdir()
    rounds = len((folder(out) / "metrics.jsonl").read_text().splitlines())
    assert saved.name.startswith(f"round-{rounds:08d}-")
    ended = call(forks, out)
    assert f"continuing after round {rounds - 1}" in ended.messages
    assert content(out) == undisturbed[0]


def write_data(path: Path, seed: int, rows: int = 200) -> None:
    path.mkdir(exist_ok=True)
    draw = np.random.default_rng(seed)
    for part, count in (("train", rows), ("test", 50)):
        x, y = draw.normal(size=(count, 6)).astype("f4"), draw.integers(0, 3, count)
        np.savez(path / f"{part}.npz", x=x, y=y)


@pytest.fixture(scope="module")
def on_files(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, ...], Path, Path]:
    """Return the arguments of a run on files, the folder of the files, and that of the undisturbed run."""
    path = tmp_path_factory.mktemp("on-files")
    data, expected = path / "data", path / "expected"
    arguments = (*RUN, "data.name=npz", f"data.path={data}", "partition.name=iid", "model.name=mlp")
    write_data(data, 0)
    whole = call(forks, expected, *arguments)
    assert whole.code == 0, whole.messages
    return arguments, data, expected


@pytest.mark.parametrize("rows", [200, 240], ids=["same shapes", "other shapes"])
@pytest.mark.parametrize("finished", [False, True], ids=["interrupted", "finished"])
def test_replaced_data(
    rows: int, finished: bool, on_files: tuple[tuple[str, ...], Path, Path], forks: Forks, tmp_path: Path
) -> None:
    arguments, data, expected = on_files
    write_data(data, 0)
    out = tmp_path / "runs"
    call(forks, out, *arguments, signal_round=None if finished else 20)
    before = sorted((file.name, file.stat().st_mtime_ns) for file in folder(out).iterdir() if file.name != ".lock")
    write_data(data, 1, rows)
    ended = call(forks, out, *arguments)
    assert ended.one_sentence(), ended.messages
    assert "has a run on other data: the clients' inputs were [200, 6] torch.float32" in ended.messages
    assert (
        "restore the data of that run, choose another folder (--out), or train on the data as they are now with --again"
        in ended.messages
    )
    after = sorted((file.name, file.stat().st_mtime_ns) for file in folder(out).iterdir() if file.name != ".lock")
    assert after == before
    write_data(data, 0)
    assert call(forks, out, *arguments).code == 0
    assert content(out) == content(expected)
    write_data(data, 1, rows)
    assert call(forks, out, *arguments, "--again").code == 0
    assert content(out) != content(expected)
