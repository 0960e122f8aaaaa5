"""Load FEMNIST as the LEAF benchmark writes it: JSON files of users with their images."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.registry import register
from fedlama.data.arrays import Dataset
from fedlama.data.files import decode_text, read_whole
from fedlama.errors import DataError, cut, shown

CLASSES = 62
PIXELS = 28 * 28
_LIMIT = 4 << 30
_Users = dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]


def load(path: Path | str) -> Dataset:
    """Load LEAF's FEMNIST.

    Args:
        path: Folder with ``train/*.json`` and ``test/*.json``, or one that contains it as ``data`` or
            ``femnist/data``.

    Returns:
        Images float32 (N, 1, 28, 28) in [0, 1], where 1 is white paper; labels int64 (N,) of 62 classes; ``groups``
        int64 (N,), the user.
        Users are numbered in the order of their names over both parts (a split by user gives the parts different
        users).

    Raises:
        DataError: If a folder is missing, or a file is not JSON as LEAF writes it, or contradicts itself.

    Source: Caldas et al., LEAF, arXiv:1812.01097, https://leaf.cmu.edu. Deviation from the other image loaders:
    pixels stay float32, since LEAF stores them as such.
    """
    folder = _folder(Path(path).expanduser())
    train, test = _read_part(folder / "train"), _read_part(folder / "test")
    names = tuple(sorted(train.keys() | test.keys()))
    number = {name: index for index, name in enumerate(names)}
    train_x, train_y, groups = _stack(train, number)
    test_x, test_y, test_groups = _stack(test, number)
    return Dataset("femnist", train_x, train_y, test_x, test_y, CLASSES, groups, test_groups, group_names=names).check()


def _folder(root: Path) -> Path:
    for folder in (root, root / "data", root / "femnist" / "data", root / "femnist"):
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return folder
    raise DataError(f"{root} has no sub-folders train and test with LEAF's JSON files; run LEAF's preprocess.sh first")


def _read_part(folder: Path) -> _Users:
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"{folder} has no .json file; run LEAF's preprocess.sh first")
    users: _Users = {}
    for file in files:
        for name, rows in _read_file(file).items():
            if name in users:
                raise DataError(
                    f"{file}: user {cut(name, 80)} is in another file of {folder} too; is a file there twice?"
                )
            users[name] = rows
    if not users:
        raise DataError(f"{folder}: the .json files name no users; run LEAF's preprocess.sh again")
    return users


def _read_file(file: Path) -> _Users:
    try:
        content = json.loads(decode_text(read_whole(file, _LIMIT), str(file)))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{file} is not whole JSON ({cut(error)}); write it again") from error
    if not isinstance(content, dict) or not {"users", "num_samples", "user_data"} <= content.keys():
        raise DataError(f"{file} lacks one of 'users', 'num_samples', 'user_data'; it is not a file of LEAF")
    users, sizes, data = content["users"], content["num_samples"], content["user_data"]
    if not isinstance(users, list) or not isinstance(sizes, list) or len(users) != len(sizes):
        raise DataError(f"{file}: 'users' and 'num_samples' are not two lists of one length; write it again")
    if not isinstance(data, dict):
        raise DataError(f"{file}: 'user_data' is not a table by user; write it again")
    if not all(isinstance(user, str) for user in users) or len(set(users)) < len(users):
        raise DataError(f"{file}: 'users' are not names that differ; write it again")
    return {
        user: _rows(data.get(user), size, f"{file}, user {cut(user, 80)}")
        for user, size in zip(users, sizes, strict=True)
    }


def _rows(entry: object, size: object, where: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("x"), list) or not isinstance(entry.get("y"), list):
        raise DataError(f"{where}: no lists 'x' and 'y' in 'user_data'; write the file again")
    try:
        with np.errstate(over="ignore"):  # infinite values are named by the check of the data set
            x = np.asarray(entry["x"], dtype=np.float32).reshape(len(entry["x"]), PIXELS)
        y = np.asarray(entry["y"])
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(
            f"{where}: expected images as lists of {PIXELS} numbers and labels as a list of integers ({cut(error)})"
        ) from error
    if not len(x) == len(y) == size:
        raise DataError(
            f"{where}: {len(x)} images, {len(y)} labels, num_samples {shown(size)}; expected three equal numbers"
        )
    if len(y) and not (np.issubdtype(y.dtype, np.integer) and y.ndim == 1):
        raise DataError(f"{where}: the labels are not integers")
    return x, y.astype(np.int64)


def _stack(users: _Users, number: dict[str, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    names = sorted(users)
    x = np.concatenate([users[name][0] for name in names])
    y = np.concatenate([users[name][1] for name in names])
    groups = np.repeat([number[name] for name in names], [len(users[name][1]) for name in names])
    images = torch.from_numpy(x.reshape(-1, 1, 28, 28))  # (rows, channels, height, width)
    return images, torch.from_numpy(y), torch.from_numpy(groups.astype(np.int64))


@register("data")
@dataclass(frozen=True)
class Leaf:
    """LEAF's FEMNIST json files.

    Args:
        path: Folder with ``train`` and ``test``.
    """

    name: ClassVar[str] = "leaf"
    path: Path

    def load(self) -> Dataset:
        """Read the files; see :func:`load`."""
        return load(self.path)
