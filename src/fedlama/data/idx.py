"""Read the IDX format and the data sets that come in it: MNIST, Fashion-MNIST, KMNIST and EMNIST."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.registry import register
from fedlama.data.arrays import Dataset
from fedlama.data.files import locate, opened, read_up_to
from fedlama.errors import ConfigError, DataError, did_you_mean

LIMIT = 1 << 31
_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_FOLDERS = (
    "raw",
    "MNIST/raw",
    "FashionMNIST/raw",
    "KMNIST/raw",
    "EMNIST/raw",
    "gzip",
    "mnist",
    "fashion-mnist",
    "emnist",
)
_SPLITS = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}


def load(path: Path | str, split: str | None = None) -> Dataset:
    """Load MNIST or a data set of the same format.

    Args:
        path: Folder with ``train-images-idx3-ubyte`` and its three companions, or with ``emnist-<split>-...``
            files; plain or ``.gz``; or a folder that contains the usual sub-folder.
        split: None for MNIST and its like, else EMNIST's ``byclass``, ``bymerge``, ``balanced``, ``letters``,
            ``digits`` or ``mnist``.

    Returns:
        Images uint8 (N, 1, 28, 28), upright; labels int64 (N,). EMNIST is stored with rows and columns exchanged, which
        is undone here; the labels of ``letters``, stored as 1..26, become 0..25.

    Raises:
        DataError: If a file is missing, damaged or does not belong.
        ConfigError: If the split is unknown.

    Source: http://yann.lecun.com/exdb/mnist (format); Cohen et al., EMNIST, 2017, arXiv:1702.05373.
    """
    if split is not None and split not in _SPLITS:
        raise ConfigError(f"EMNIST has no split {split!r}{did_you_mean(split, _SPLITS)}")
    # The first file that is found decides the folder, so that parts of two data sets are never mixed.
    folder = locate(path, _file_names("train", "images-idx3", split), _FOLDERS).parent
    train_x, train_y = _part(folder, "train", split)
    test_x, test_y = _part(folder, "test" if split else "t10k", split)
    name = f"emnist-{split}" if split else folder.name
    return Dataset(name, train_x, train_y, test_x, test_y, _SPLITS[split] if split else 10).check()


def _file_names(part: str, what: str, split: str | None) -> list[str]:
    usual = f"emnist-{split}-{part}-{what}-ubyte" if split else f"{part}-{what}-ubyte"
    # Some tools unpack the files with a dot before "idx".
    return [usual, usual.replace("-idx", ".idx")]


def _part(folder: Path, part: str, split: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    images = read_idx(locate(folder, _file_names(part, "images-idx3", split)), "u1", 3)
    labels = read_idx(locate(folder, _file_names(part, "labels-idx1", split)), "u1", 1).astype(np.int64)
    if split:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))  # (rows, height, width)
    if split == "letters":
        labels -= 1
    return torch.from_numpy(images[:, None]), torch.from_numpy(labels)


def read_idx(path: Path, kind: str, dimensions: int, limit: int = LIMIT) -> NDArray[np.generic]:
    """Read one IDX file.

    Args:
        path: The file, plain or ``.gz``.
        kind: The NumPy type expected, such as ``"u1"`` or ``"i4"``.
        dimensions: How many dimensions are expected.
        limit: Largest number of bytes of data that is accepted.

    Returns:
        Array in native byte order that owns its memory.

    Raises:
        DataError: If the magic number, the type, the dimensions or the length are not as expected.
    """
    with opened(path) as stream:
        magic = read_up_to(stream, 4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES:
            raise DataError(
                f"{path} begins with {magic.hex() or 'nothing'}, expected an IDX magic number (0000, type, "
                "dimensions); it is another format or damaged"
            )
        if _TYPES[magic[2]][1:] != kind or magic[3] != dimensions:
            raise DataError(
                f"{path} holds {_TYPES[magic[2]][1:]} in {magic[3]} dimensions, expected {kind} in "
                f"{dimensions}; are images and labels exchanged?"
            )
        head = read_up_to(stream, 4 * dimensions)
        if len(head) < 4 * dimensions:
            raise DataError(f"{path} ends in its header: expected {4 + 4 * dimensions} bytes, found {4 + len(head)}")
        shape = tuple(int(size) for size in np.frombuffer(head, ">u4"))
        expected = math.prod(shape) * int(kind[1])
        if expected > limit:
            raise DataError(f"{path} declares {shape}, {expected} bytes, above the limit of {limit}; download it again")
        body = read_up_to(stream, expected + 1)
    if len(body) != expected:
        count = "more" if len(body) > expected else len(body)
        raise DataError(f"{path} declares {shape}: expected {expected} bytes of data, found {count}; download it again")
    return np.frombuffer(body, _TYPES[magic[2]]).reshape(shape).astype(kind)


@register("data")
@dataclass(frozen=True)
class Idx:
    """MNIST, Fashion-MNIST or EMNIST in their own idx files.

    Args:
        path: Folder with the files.
        split: None, or EMNIST's split such as ``"byclass"``.
    """

    name: ClassVar[str] = "idx"
    path: Path
    split: str | None = None

    def load(self) -> Dataset:
        """Read the files; see :func:`load`."""
        return load(self.path, self.split)
