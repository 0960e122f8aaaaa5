"""What the fuzzing found in the readers of data, each as it was found; and bombs, which must not go off."""

from __future__ import annotations

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedlama.data import idx, leaf, npz_folder, restricted_pickle
from fedlama.data.huggingface import Columns, from_splits
from fedlama.errors import ConfigError, DataError
from fedlama.experiment import read
from tests.fuzz.targets.huggingface import _Split

MIB = 1 << 20


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """Fail when Python's and NumPy's objects take more than a limit at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak} bytes"


def npz(folder: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    for part in ("train", "test"):
        with zipfile.ZipFile(folder / f"{part}.npz", "w", method) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    return folder


def array(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def plain(values: list[int]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (((",  # a TokenError
        "{'descr': '|u1', 'fortran_order': False, 'shape': " + str((1,) * 65) + "}",  # beyond NumPy's dimensions
        "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999)}",  # beyond its indices
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,)}",  # 1 TiB that is not there
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "[" * 2000,
    ],
)
def test_headers_of_arrays(header: str, tmp_path: Path) -> None:
    npz(tmp_path, {"x.npy": array(header, b"\0"), "y.npy": plain([0])})
    with memory_below(4 * MIB), pytest.raises(DataError, match="array 'x'"):
        npz_folder.load(tmp_path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_swell_without_bound_are_refused(method: int, tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (67108864,)}"
    npz(tmp_path, {"x.npy": array(header, bytes(64 * MIB)), "y.npy": plain([0])}, method)
    assert (tmp_path / "train.npz").stat().st_size < 12_000
    with memory_below(4 * MIB), pytest.raises(DataError, match="not compressed as numpy does"):
        npz_folder.load(tmp_path)


def test_names_that_are_no_text(tmp_path: Path) -> None:
    npz(tmp_path, {"x.npy": plain([0]), "y.npy": plain([0]), "caf\u00e9.npy": b""})
    whole = (tmp_path / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(whole.replace("\u00e9".encode(), b"\xa0\xa0"))
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        npz_folder.load(tmp_path)


def test_a_bomb_behind_a_small_array_is_not_unpacked(tmp_path: Path) -> None:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2)}"
    npz(tmp_path, {"x.npy": array(header, bytes(256 * MIB)), "y.npy": plain([0, 1])}, zipfile.ZIP_DEFLATED)
    with memory_below(8 * MIB), pytest.raises(DataError, match="4 bytes, but unpacks to 268435456"):
        npz_folder.load(tmp_path)


def test_members_that_climb_out_are_never_written(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    npz(inner, {"../outside.npy": plain([1]), "/x.npy": plain([1])})
    with pytest.raises(DataError, match="has no array x and y"):
        npz_folder.load(inner)
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


@pytest.mark.parametrize("rows", [2**32 - 1, 2**21])
def test_an_idx_file_takes_no_memory_for_what_it_claims(rows: int, tmp_path: Path) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(struct.pack(">4B3I", 0, 0, 8, 3, rows, 28, 28) + b"x"))
    with memory_below(4 * MIB), pytest.raises(DataError, match=r"above the limit|found 1"):
        idx.read_idx(path, "u1", 3)


NESTED = b")" + b"\x85" * 200_000
LAUGHS = b")q\x00" + b"".join(b"h%c\x86q%c" % (n, n + 1) for n in range(60))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (
            b"\x80\x02}" + NESTED + b"K\x01s.",
            "it holds a tuple where a str is expected",
        ),  # its hash ended the process
        (b"\x80\x02}" + LAUGHS + b"K\x01s.", "it holds a tuple where a str is expected"),  # hashing it took for ever
        (b"\x80\x02}U\x04data" + NESTED + b"s.", ""),
        (b"\x80\x02}(" + b"N" * 2_000_001, "more than 2000000 instructions"),
        (b"\x80\x02}U\x04datacnumpy\ndtype\nU\x02u1\x85R)bs.", ""),
        (b"\x80\x02}cbuiltins\neval\nU\x011\x85R.", "it refers to 'builtins.eval'"),
        (b"\x80\x02}c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00utf8\x86R.", "calls something"),
        (b"\x80\x02}", "not a CIFAR batch"),
        (b"N.", "holds a NoneType"),
    ],
)
def test_pickles(program: bytes, says: str) -> None:
    if says:
        with pytest.raises(DataError, match=says):
            restricted_pickle.loads(program, "batch")
    else:
        assert list(restricted_pickle.loads(program, "batch")) == ["data"]


def femnist(folder: Path, **changes: Any) -> Path:  # noqa: ANN401
    rows = {"a": {"x": [[0.5] * 784], "y": [3]}}
    for part in ("train", "test"):
        (folder / part).mkdir()
        content = {"users": ["a"], "num_samples": [1], "user_data": rows} | changes
        (folder / part / "all.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"users": [["a"]]},
        {"users": ["a", "a"], "num_samples": [1, 1]},
        {"users": ["u" * 3000]},
        {"user_data": {"a": {"x": [["x" * 3000] * 784], "y": [3]}}},
        {"user_data": {"a": {"x": [[10**400] * 784], "y": [3]}}},
        {"user_data": {"a": {"x": [[1e300] * 784], "y": [3]}}},
        {"user_data": {"a": {"x": [[0.5] * 784], "y": [[3], 4]}}},
    ],
    ids=str,
)
def test_leaf(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        leaf.load(femnist(tmp_path, **changes))
    assert len(str(caught.value)) < 1000


IMAGES = [[[0, 1], [2, 3]]] * 2


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ({"image": IMAGES, "label": [0, 1]}, {"image": IMAGES}),
        ({"image": [["x"], ["y"]], "label": [0, 1]}, {"image": IMAGES, "label": [0, 1]}),
        ({"image": [[1, [2]], [3]], "label": [0, 1]}, {"image": IMAGES, "label": [0, 1]}),
        ({"image": [{}, {}], "label": [0, 1]}, {"image": IMAGES, "label": [0, 1]}),
        ({"image": [[[1e300]]] * 2, "label": [0, 1]}, {"image": [[[1.0]]] * 2, "label": [0, 1]}),
        ({"image": IMAGES, "label": [[0], 1]}, {"image": IMAGES, "label": [0, 1]}),
    ],
)
def test_splits(train: dict[str, Any], test: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        from_splits("toy", _Split(train), _Split(test), Columns("image", "label"))


def test_an_experiment_file_is_small(tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    path.write_bytes(b"#" * (MIB + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        read(str(path))
