"""Files as editors and spreadsheets write them, and paths as people write them: the same result, or one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedlama.data import text
from fedlama.errors import DataError
from tests.cli.call import SMALL, fedlama, refused

MARK = b"\xef\xbb\xbf"
FILE = b"""local_steps = 12
[partition]
clients = 4
[strategy]
name = "fedlama"
base_interval = 3
increase_factor = 2
"""
TRACE = b"client,first_round,last_round,fate\r\n3,0,1,away\r\n"
PLAY = "".join(f"{name}:\n{'to be or not to be ' * 8}\n\n" for name in ("HAMLET", "OPHELIA") * 4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder that ``~`` stands for; the current folder is another one."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def save_arrays(folder: Path) -> None:
    folder.mkdir()
    x = np.arange(240, dtype=np.float32).reshape(120, 2)
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", x=x, y=np.arange(120) % 3)


@pytest.mark.parametrize("content", [MARK + FILE, FILE.replace(b"\n", b"\r\n"), MARK + FILE.replace(b"\n", b"\r\n")])
def test_an_experiment_with_a_byte_order_mark_is_the_same_experiment(home: Path, content: bytes) -> None:
    (home / "plain.toml").write_bytes(FILE)
    (home / "marked.toml").write_bytes(content)
    first, second = (fedlama("plan", str(home / name), "--json").json for name in ("plain.toml", "marked.toml"))
    assert first == second


@pytest.mark.parametrize("content", [FILE.decode().encode("utf-16"), FILE.decode().encode("utf-16-le")])
def test_an_experiment_in_utf_16_is_refused_in_a_sentence(home: Path, content: bytes) -> None:
    (home / "mine.toml").write_bytes(content)
    (problem,) = refused("plan", str(home / "mine.toml"))
    assert "save it again with the encoding UTF-8" in problem


def test_links_with_a_byte_order_mark_are_read(home: Path) -> None:
    (home / "links.toml").write_bytes(MARK + b'[mine]\nup = "5Mbit/s"\ndown = "10Mbit/s"\n')
    assert "mine" in fedlama("plan", *SMALL, "--links=~/links.toml").out
    (home / "links.toml").write_bytes(b'[mine]\nup = "5Mbit/s"\n'.decode().encode("utf-16"))
    assert "UTF-8" in refused("plan", *SMALL, "--links=~/links.toml")[0]


@pytest.mark.parametrize("content", [TRACE, MARK + TRACE, TRACE.replace(b",", b";")])
def test_a_trace_of_a_spreadsheet_is_read(home: Path, content: bytes) -> None:
    (home / "trace.csv").write_bytes(content)
    called = fedlama("run", *SMALL, "availability.name=trace", "availability.path=~/trace.csv", "--quiet")
    assert (called.code, called.err) == (0, "")


def test_a_byte_order_mark_in_a_text_makes_no_class_and_no_client(tmp_path: Path) -> None:
    for name, content in (("plain", PLAY.encode()), ("marked", MARK + PLAY.encode())):
        (tmp_path / f"{name}.txt").write_bytes(content)
    plain, marked = (text.load(tmp_path / f"{name}.txt", 20) for name in ("plain", "marked"))
    assert marked.class_names == plain.class_names
    assert marked.group_names == plain.group_names == ("HAMLET", "OPHELIA")
    assert marked.train_x.equal(plain.train_x)
    (tmp_path / "wide.txt").write_bytes(PLAY.encode("utf-16"))
    with pytest.raises(DataError, match="save it again with the encoding UTF-8"):
        text.load(tmp_path / "wide.txt", 20)


def test_the_home_folder_may_be_written_as_a_tilde_everywhere(home: Path) -> None:
    save_arrays(home / "arrays")
    (home / "mine.toml").write_bytes(FILE)
    npz = ("data.name=npz", "data.path=~/arrays")
    assert fedlama("run", "~/mine.toml", *npz, "partition.name=iid", "--out=~/runs", "--quiet").code == 0
    assert (home / "runs").is_dir()
    assert fedlama("report", "~/runs", "--out=~/page.html").code == 0
    assert (home / "page.html").is_file()
    assert fedlama("verify", "~/runs").code == 0
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("folder", ["2024", "1e5", "true"])
def test_a_folder_may_be_called_like_a_number(home: Path, folder: str) -> None:
    save_arrays(Path(folder))
    npz = ("data.name=npz", f"data.path={folder}", "partition.name=iid")
    assert fedlama("plan", *SMALL, *npz).code == 0


def test_a_missing_folder_says_where_paths_count_from(home: Path) -> None:
    (problem,) = refused("plan", *SMALL, "data.name=npz", "data.path=arrays", "partition.name=iid")
    assert f"relative paths count from the current folder, {Path.cwd()}" in problem
