"""The door to the files of a run folder, the lock of a folder, and the advice for files that cannot be written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from fedlama import ClientData, DataError, FedAvg, Federation, FedlamaError, Run, RunFolder, TestSet
from fedlama.core.content import content_digest
from fedlama.data.clients import TensorClients
from fedlama.errors import printable, write_remedy
from fedlama.runs.files import LARGEST_OBJECT, count_lines, read_lines, read_object
from fedlama.runs.lock import FolderLock, is_locked
from fedlama.runs.network_log import read_log
from fedlama.runs.reader import read_config
from fedlama.runs.stored import load_run


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [pipe, device, folder])
def test_only_regular_files_are_read(make: object, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    make(path)  # type: ignore[operator]
    for read in (read_object, count_lines, read_log, lambda file: list(read_lines(file, 1))):
        with pytest.raises(DataError, match="is a pipe, a device or a folder, expected a regular file"):
            read(path)
    assert read_config(tmp_path) is None


def test_a_link_to_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "there.json").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to(tmp_path / "there.json")
    assert read_object(tmp_path / "config.json") == {"a": 1}


def test_what_is_read_has_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    with path.open("wb") as file:
        file.truncate(LARGEST_OBJECT + 1)
    with pytest.raises(DataError, match="has more than 16 MiB"):
        read_object(path)
    with path.open("wb") as file:
        file.truncate(1 << 40)  # holes, which take no space
    with pytest.raises(DataError, match="line 1 has 64 MiB or more"):
        count_lines(path)


def test_text_is_printable(tmp_path: Path) -> None:
    hostile = {"a\x1b[31m": ["\ud800", {"b": "\r\x07\x9b\u202e"}], "plain": "ü\t数"}
    (tmp_path / "config.json").write_text(json.dumps(hostile))
    expected = {"a\\x1b[31m": ["\\ud800", {"b": "\\r\\x07\\x9b\\u202e"}], "plain": "ü\t数"}
    assert read_object(tmp_path / "config.json") == expected
    assert printable(Path("x\x1b]0;y")) == "x\\x1b]0;y"


def test_a_second_holder_is_refused_and_learns_who_the_first_is(tmp_path: Path) -> None:
    with FolderLock(tmp_path / "run") as held:
        assert is_locked(tmp_path / "run")
        with pytest.raises(
            FedlamaError, match=rf"another process writes to .*run \(process {os.getpid()} on .*, since 20"
        ):
            FolderLock(tmp_path / "run")
        held.release()
        assert not (tmp_path / "run").exists()
    with FolderLock(tmp_path / "run"):
        pass
    assert not is_locked(tmp_path)


def hold(path: Path) -> None:
    with FolderLock(path):
        signal.pause()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=hold, args=(tmp_path,))
    process.start()
    while not is_locked(tmp_path):
        assert process.is_alive()
        process.join(0.01)
    process.kill()
    process.join()
    assert (tmp_path / ".lock").exists()
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock").exists()


def test_a_lock_that_is_a_link_does_not_empty_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(FedlamaError, match=r"\.lock is in the way: remove or rename it"):
        FolderLock(tmp_path)
    assert (tmp_path / "precious").read_text() == "kept"


def test_a_run_folder_of_ones_own_is_locked(tmp_path: Path) -> None:
    with RunFolder(tmp_path / "run", {}), pytest.raises(FedlamaError, match="another process writes to"):
        RunFolder(tmp_path / "run", {})
    with RunFolder(tmp_path / "run", {}):
        pass


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some disk space"),
        (errno.EISDIR, "is in the way: remove or rename it"),
        (errno.EROFS, "allow writing there"),
        (errno.EIO, "check the path and the disk"),
    ],
)
def test_advice_follows_from_the_reason(number: int, advice: str, tmp_path: Path) -> None:
    assert advice in write_remedy(OSError(number, os.strerror(number), str(tmp_path)))


def test_a_folder_where_a_file_belongs(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(FedlamaError, match=r"\(Is a directory\); .*metrics\.jsonl is in the way: remove or rename it"):
        RunFolder(tmp_path, {})
    assert not is_locked(tmp_path)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(FedlamaError, match=r"\(Not a directory\); \S+/runs is in the way: remove or rename it"):
        RunFolder(tmp_path / "runs" / "digits" / "a", {})


def federation(engine: str = "loop", shift: float = 0.0) -> Federation:
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.randint(0, 2, (12,))
    x[11, 2] += shift
    clients = [ClientData(x[start : start + 4], y[start : start + 4], 2) for start in (0, 4, 8)]
    test_set = TestSet(x[:6], y[:6])
    return Federation(torch.nn.Linear(3, 2), clients, FedAvg(2), 6, test_set=test_set, engine=engine)


def test_one_changed_number_of_the_data_is_noticed_and_no_engine_matters() -> None:
    described = federation().describe()
    assert federation("stacked").differences(described) == []
    (changed,) = federation(shift=1e-6).differences(described)
    assert changed.startswith("the clients' inputs were [12, 3] torch.float32 sha256 ")
    run, other = Run(federation()), Run(federation(shift=1.0))
    run.advance()
    with pytest.raises(DataError, match="it is of another federation: the clients' inputs were"):
        other.load_state_dict(run.state_dict(), [])


def test_the_digest_is_of_the_content_alone() -> None:
    wide = torch.arange(3_000_000.0).reshape(1000, 3000)  # three blocks
    assert content_digest(wide.t().contiguous().t()) == content_digest(wide)
    assert content_digest(wide.reshape(3000, 1000)) != content_digest(wide)
    wide[999, 2999] += 1
    assert content_digest(wide) != content_digest(torch.arange(3_000_000.0).reshape(1000, 3000))
    clients = TensorClients(wide, torch.zeros(1000), [range(4), range(4, 8)], 2)  # type: ignore[list-item]
    assert clients.data_digests is clients.data_digests


def test_lines_of_a_run_that_has_finished_are_counted(tmp_path: Path) -> None:
    federation_run = federation()
    with RunFolder(tmp_path, federation_run.describe()) as files:
        result = federation_run.run([files])
        files.finish(result, {"method": "fedavg", "rounds": len(result.rounds)})
    assert len(load_run(tmp_path).rounds) == 3
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for damaged, said in (
        (whole + lines[2], r"metrics\.jsonl, line 4 is one too many, expected 3 lines"),
        (whole + '{"round', r"metrics\.jsonl, line 4 is one too many, expected 3 lines"),
        (whole[:-9], r"metrics\.jsonl, line 3 is cut off, expected 3 lines"),
        ("".join(lines[:2]), r"metrics\.jsonl, line 3 is missing, expected 3 lines"),
        (lines[0] + "broken\n" + lines[2], r"metrics\.jsonl, line 2 is not valid JSON"),
        (lines[0] + lines[2] + lines[1], r"metrics\.jsonl, line 2: round is 2, expected round 1"),
    ):
        path.write_text(damaged)
        with pytest.raises(DataError, match=said):
            load_run(tmp_path)
