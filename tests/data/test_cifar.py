"""CIFAR archives made by hand, binary and Python version, and pickles that mean harm."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from fedlama.data import cifar, restricted_pickle
from fedlama.errors import ConfigError, DataError

TEN = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


def images(rows: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, 3072), dtype=np.uint8)


def write_binary_ten(folder: Path) -> None:
    folder.mkdir()
    for number, name in enumerate(TEN):
        labels = np.array([[number], [9]], dtype=np.uint8)
        (folder / f"{name}.bin").write_bytes(np.hstack([labels, images(2, number)]).tobytes())
    (folder / "batches.meta.txt").write_text("a b c d e f g h i j\n")


def write_python_ten(folder: Path, protocol: int) -> None:
    folder.mkdir()
    for number, name in enumerate(TEN):
        batch = {b"batch_label": b"one", b"labels": [number, 9], b"data": images(2, number), b"filenames": [b"a", b"b"]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))


def test_binary_ten(tmp_path: Path) -> None:
    write_binary_ten(tmp_path / "cifar-10-batches-bin")
    data = cifar.load(tmp_path, complete=False)
    assert data.train_x.shape == (10, 3, 32, 32)
    assert data.train_y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert data.test_y.tolist() == [5, 9]
    assert data.class_names == tuple("abcdefghij")
    assert np.array_equal(data.test_x.numpy().reshape(2, -1), images(2, 5))


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_the_python_version_equals_the_binary_one(tmp_path: Path, protocol: int) -> None:
    write_binary_ten(tmp_path / "cifar-10-batches-bin")
    write_python_ten(tmp_path / "cifar-10-batches-py", protocol)
    binary = cifar.load(tmp_path, complete=False)
    python = cifar.load(tmp_path / "cifar-10-batches-py", complete=False)
    assert python.train_x.equal(binary.train_x)
    assert python.train_y.equal(binary.train_y)


def test_a_batch_pickled_by_python_2_is_read(tmp_path: Path) -> None:
    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    body = images(1, 0).tobytes()
    minus_one = b"J\xff\xff\xff\xff"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR(K\x03" + text(b"|") + b"NNN" + minus_one * 2 + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    state = b"(K\x01(K\x01M\x00\x0ct" + dtype + b"\x89T" + struct.pack("<i", len(body)) + body + b"tb"
    content = b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + b"]K\x07au."
    found = restricted_pickle.loads(content, "batch")
    assert found["labels"] == [7]
    assert np.array_equal(found["data"], images(1, 0))  # type: ignore[arg-type]


def test_hundred_takes_the_fine_labels(tmp_path: Path) -> None:
    binary, python = tmp_path / "cifar-100-binary", tmp_path / "cifar-100-python"
    binary.mkdir()
    python.mkdir()
    for number, name in enumerate(["train", "test"]):
        labels = np.array([[1, 42], [2, 99]], dtype=np.uint8)
        (binary / f"{name}.bin").write_bytes(np.hstack([labels, images(2, number)]).tobytes())
        batch = {"fine_labels": [42, 99], "coarse_labels": [1, 2], "data": images(2, number)}
        (python / name).write_bytes(pickle.dumps(batch, 2))
    for folder in (binary, python):
        data = cifar.load(folder, 100, complete=False)
        assert data.train_y.tolist() == [42, 99]
        coarse = cifar.load(folder, 100, complete=False, labels="coarse")
        assert coarse.train_y.tolist() == [1, 2]
        assert coarse.classes == 20
        assert coarse.train_x.equal(data.train_x)
        assert np.array_equal(data.train_x.numpy().reshape(2, -1), images(2, 0))


def test_missing_and_cut_files_are_named_with_their_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    write_binary_ten(folder)
    with pytest.raises(DataError, match=r"expected 30730000 bytes .*, found 6146; .*complete=False"):
        cifar.load(folder)
    whole = (folder / "data_batch_3.bin").read_bytes()
    (folder / "data_batch_3.bin").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: expected 6146 bytes .*, found 6141; download it again$"):
        cifar.load(folder, complete=False)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"none of data_batch_3\.bin"):
        cifar.load(folder, complete=False)
    with pytest.raises(ConfigError, match="labels is 'coarse', which only CIFAR-100 has; set classes to 100"):
        cifar.load(folder, labels="coarse")
    with pytest.raises(ConfigError, match="classes is 20"):
        cifar.load(folder, 20)


def test_an_incomplete_python_version_is_noticed(tmp_path: Path) -> None:
    write_python_ten(tmp_path / "py", 2)
    with pytest.raises(DataError, match="holds 2 images, expected 10000"):
        cifar.load(tmp_path / "py")


class Harm:
    """Runs a shell command when unpickled by the usual reader."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo harm",)


HOSTILE = {
    "a command": pickle.dumps({"data": Harm()}),
    "an old-style command": b"cos\nsystem\n(S'echo harm'\ntR.",
    "a builtin": pickle.dumps(print),
    "an object array": pickle.dumps({"data": np.array([{}, {}], dtype=object)}),
    "wrong lengths": pickle.dumps({"data": np.zeros((2, 3072), np.uint8)}).replace(b"M\x00\x0c", b"M\x00\x1c"),
    "floats": pickle.dumps({"data": np.zeros((2, 3))}, 2),
    "a huge memo number": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a huge byte array": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x00.",
    "an extension": b"\x80\x02\x82\x01.",
    "a change to a stand-in": b"\x80\x02ccodecs\nencode\n.",
    "a change to a function": b"\x80\x02c_codecs\nencode\n}b.",
    "a change to a class": b"\x80\x02cnumpy\nndarray\n}b.",
    "no dictionary": pickle.dumps([1, 2]),
    "a cut file": pickle.dumps({"data": images(2, 0)})[:-20],
    "no pickle": b"<html>404</html>",
    "nothing": b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_pickles_are_refused(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError):
        restricted_pickle.loads(HOSTILE[what], "batch")
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"data": images(2, 0)}, "no list of labels"),
        ({"data": images(2, 0), "labels": [1]}, "2 images but 1 labels"),
        ({"data": images(2, 0), "labels": [1, 10]}, r"no list of labels 0\.\.9"),
        ({"data": images(2, 0)[:, :5], "labels": [1, 2]}, "with 3072 columns"),
    ],
)
def test_strange_batches_are_refused(tmp_path: Path, batch: dict[str, object], message: str) -> None:
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match=message):
        cifar.load(tmp_path, complete=False)
