"""Folders of .npz files: what is accepted, and what is refused before memory is taken."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib import format as npy

from fedlama.data import npz_folder
from fedlama.errors import DataError


def save(folder: Path, **train: object) -> None:
    np.savez_compressed(folder / "train.npz", **train)  # type: ignore[arg-type]
    np.savez_compressed(folder / "test.npz", **{key: value for key, value in train.items() if key != "group"})  # type: ignore[arg-type]


def test_images_get_a_channel_and_groups_are_kept(tmp_path: Path) -> None:
    save(tmp_path, x=np.zeros((3, 4, 5), np.uint8), y=np.array([0, 1, 4], np.int32), group=np.array([7, 7, 8]))
    data = npz_folder.load(tmp_path)
    assert data.train_x.shape == (3, 1, 4, 5)
    assert data.classes == 5
    assert data.groups is not None
    assert data.groups.tolist() == [7, 7, 8]
    assert data.test_groups is None


def test_channels_last_is_turned(tmp_path: Path) -> None:
    x = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    save(tmp_path, x=x, y=np.array([0]))
    data = npz_folder.load(tmp_path, classes=2, channels_last=True)
    assert data.train_x.shape == (1, 3, 2, 4)
    assert data.train_x[0, 2, 1, 3] == x[0, 1, 3, 2]
    assert data.classes == 2


@pytest.mark.parametrize(
    ("dtype", "expected"), [("f8", torch.float32), (">f4", torch.float32), ("i2", torch.int64), ("?", torch.int64)]
)
def test_features_are_brought_to_the_usual_types(tmp_path: Path, dtype: str, expected: torch.dtype) -> None:
    save(tmp_path, x=np.asfortranarray(np.array([[0, 1, 1], [1, 0, 0]]).astype(dtype)), y=np.array([0, 1]))
    data = npz_folder.load(tmp_path)
    assert data.train_x.dtype == expected
    assert data.train_x.tolist() == [[0, 1, 1], [1, 0, 0]]


def header(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (header((1 << 40,)) + b"\0", "1099511627776 bytes, but unpacks to"),
        (header((5,)) + bytes(7), "5 bytes, but unpacks to 7"),
        (header((1,), "|O") + b"\0", "objects are never read"),
        (header((1,), "<U1") + bytes(4), "expected integers or floats"),
        (b"\x93NUMPY\x01\x00\xff\xff", r"not a plain \.npy array"),
        (b"\x93NUMPY\x09\x00", r"not a plain \.npy array"),
        (b"", r"not a plain \.npy array"),
        (bytes(2_000_000), "above the limit of 1004096"),
    ],
)
def test_members_are_checked_before_they_are_read(tmp_path: Path, member: bytes, message: str) -> None:
    save(tmp_path, x=np.zeros((1, 2)), y=np.array([0]))
    with zipfile.ZipFile(tmp_path / "train.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", member)
        archive.writestr("y.npy", header((1,)) + b"\0")
    with pytest.raises(DataError, match=message):
        npz_folder.load(tmp_path, limit=1_000_000)


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of train\.npz"):
        npz_folder.load(tmp_path)
    save(tmp_path, x=np.zeros((1, 2)))
    with pytest.raises(DataError, match=r"has no array y, only x\.npy"):
        npz_folder.load(tmp_path)
    save(tmp_path, x=np.zeros((1, 2)), y=np.array([0.5]))
    with pytest.raises(DataError, match=r"row 0 holds 0\.5, expected class numbers"):
        npz_folder.load(tmp_path)
    whole = (tmp_path / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        npz_folder.load(tmp_path)


def test_measurements_and_several_labels_of_a_row(tmp_path: Path) -> None:
    x = np.zeros((3, 4), dtype=np.float32)
    path = tmp_path / "several.npz"
    labels = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.uint8)
    np.savez(path, train_images=x, train_labels=labels, test_images=x[:1], test_labels=labels[:1])
    data = npz_folder.load(path, targets="numbers")
    assert data.train_y.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert data.train_y.dtype == torch.float32
    assert (data.classes, data.outputs) == (0, 2)
    np.savez(path, x_train=x, y_train=np.array([[0.5], [1], [2]]), x_test=x[:1], y_test=np.array([[0.25]]))
    assert npz_folder.load(path, targets="numbers").train_y.tolist() == [0.5, 1, 2]
    np.savez(path, x_train=x, y_train=np.array(["a", "b", "c"]), x_test=x[:1], y_test=np.array(["a"]))
    with pytest.raises(DataError, match=r"labels 'y_train' are <U1, but measurements are numbers; set data\.targets"):
        npz_folder.load(path, targets="numbers")
