"""IDX files made by hand: the right ones, and every way to be wrong."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlama.data import idx, mnist_writers
from fedlama.errors import ConfigError, DataError


def encode(array: NDArray[np.generic], code: int = 8) -> bytes:
    head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype({8: ">u1", 12: ">i4"}[code]).tobytes()


def write_mnist(folder: Path, prefixes: tuple[str, str] = ("train", "t10k"), first_label: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, rows in zip(prefixes, (4, 2), strict=True):
        images = np.arange(rows * 6).reshape(rows, 2, 3)
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(encode(images))
        labels = gzip.compress(encode(np.arange(rows) + first_label))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(labels)


def write_table(folder: Path, part: str, digits: list[int], writers: list[int]) -> None:
    table = np.zeros((len(digits), 8), dtype=np.int64)
    table[:, 0], table[:, 2] = digits, writers
    (folder / f"qmnist-{part}-labels-idx2-int.gz").write_bytes(gzip.compress(encode(table, 12)))


def test_mnist_is_read_plain_or_compressed_from_a_usual_sub_folder(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    data = idx.load(tmp_path)
    assert data.train_x.shape == (4, 1, 2, 3)
    assert data.train_x[1].flatten().tolist() == [6, 7, 8, 9, 10, 11]
    assert data.train_y.tolist() == [0, 1, 2, 3]
    assert data.test_y.tolist() == [0, 1]
    assert data.classes == 10


def test_emnist_is_turned_upright_and_letters_begin_at_zero(tmp_path: Path) -> None:
    write_mnist(tmp_path, ("emnist-letters-train", "emnist-letters-test"), first_label=1)
    data = idx.load(tmp_path, "letters")
    assert data.train_x[0, 0].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert data.train_y.tolist() == [0, 1, 2, 3]
    assert data.classes == 26


def test_an_unknown_split_is_corrected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'letters'"):
        idx.load(tmp_path, "leters")


GOOD = encode(np.zeros((2, 3, 3)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG----", "begins with 89504e47, expected an IDX magic number"),
        (encode(np.zeros(4)), "holds u1 in 1 dimensions, expected u1 in 3"),
        (encode(np.zeros((1, 1, 1)), 12), "holds i4 in 3 dimensions, expected u1 in 3"),
        (GOOD[:9], "ends in its header: expected 16 bytes, found 9"),
        (GOOD[:-1], r"declares \(2, 3, 3\): expected 18 bytes of data, found 17"),
        (GOOD + b"x", "expected 18 bytes of data, found more"),
        (GOOD[:4] + b"\xff" * 12, "above the limit"),
        (GOOD[:4] + struct.pack(">3I", 2000, 1000, 1000), r"expected 2000000000 bytes of data, found 0"),
    ],
)
def test_wrong_files_are_refused_with_the_numbers(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "images"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        idx.read_idx(file, "u1", 3)


def test_missing_labels_are_named(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="none of t10k-labels-idx1-ubyte"):
        idx.load(tmp_path)


def test_writers_become_groups(tmp_path: Path) -> None:
    write_mnist(tmp_path / "mnist")
    tables = tmp_path / "qmnist-writers"
    tables.mkdir()
    write_table(tables, "train", [0, 1, 2, 3], [50, 7, 50, 8])
    write_table(tables, "test", [0, 1, 9], [90, 91, 92])
    for data in (mnist_writers.load(tmp_path), mnist_writers.load(tmp_path / "mnist", tables)):
        assert data.groups is not None
        assert data.test_groups is not None
        assert data.groups.tolist() == [50, 7, 50, 8]
        assert data.test_groups.tolist() == [90, 91]


def test_a_table_of_other_digits_is_refused(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    write_table(tmp_path, "train", [0, 1, 5, 3], [1, 1, 1, 1])
    with pytest.raises(DataError, match=r"row 2 says digit 5 but MNIST's label is 2 \(1 rows differ\)"):
        mnist_writers.load(tmp_path)
    write_table(tmp_path, "train", [0, 1], [1, 1])
    with pytest.raises(DataError, match=r"table of \(2, 8\), expected 8 columns and at least 4 rows"):
        mnist_writers.load(tmp_path)
