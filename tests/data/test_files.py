"""Files are found by their customary names and never read beyond a limit."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from fedlama.data.files import locate, read_whole
from fedlama.errors import DataError


def test_locate_prefers_the_folder_itself_and_accepts_gz(tmp_path: Path) -> None:
    (tmp_path / "usual").mkdir()
    inner, outer = tmp_path / "usual" / "a.bin", tmp_path / "a.bin.gz"
    inner.write_bytes(b"")
    assert locate(tmp_path, ["a.bin"], ["usual"]) == inner
    outer.write_bytes(b"")
    assert locate(tmp_path, ["a.bin"], ["usual"]) == outer


def test_locate_says_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing, expected the folder"):
        locate(tmp_path / "nowhere", ["a.bin"])
    with pytest.raises(DataError, match=r"none of a\.bin, b\.bin .* is in .* or .*usual"):
        locate(tmp_path, ["a.bin", "b.bin"], ["usual"])
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="is a file, expected the folder"):
        locate(tmp_path / "file", ["a.bin"])


def test_read_whole_stops_at_the_limit(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(10_000_000)))
    assert bomb.stat().st_size < 20_000
    with pytest.raises(DataError, match="more than 1000 bytes"):
        read_whole(bomb, 1000)


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"no gzip" + b, lambda b: b[:20] + b"\xff" * 20])
def test_damaged_gzip_is_named(tmp_path: Path, damage: object) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(damage(gzip.compress(b"some bytes " * 50)))  # type: ignore[operator]
    with pytest.raises(DataError, match="not a whole gzip file"):
        read_whole(file, 10_000)
