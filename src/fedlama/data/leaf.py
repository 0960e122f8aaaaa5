"""Load the data sets of the LEAF benchmark: JSON files of users with their samples."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.paths import expanded
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.files import decode_text, read_whole
from fedlama.data.leaf_sets import LeafOptions, LeafSet, User, recognise
from fedlama.errors import DataError, cut, shown

_LIMIT = 4 << 30
_Users = dict[str, User]
_OPTIONS = LeafOptions()
_SETS = ("femnist", "celeba", "shakespeare", "sent140", "reddit", "synthetic")


def load(path: Path | str, options: LeafOptions = _OPTIONS) -> Dataset:
    """Load one of LEAF's sets; which one is seen from the files.

    Args:
        path: Folder with ``train/*.json`` and ``test/*.json``, or one that contains it as ``data``, ``femnist/data``
            and so on.
        options: Sizes that the files leave open.

    Returns:
        ``groups`` int64 (N,), the user, numbered in the order of their names over both parts (a split by user gives the
        parts different users), and inputs and labels:

        * femnist: images float32 (N, 1, 28, 28) in [0, 1], where 1 is white paper; 62 classes.
        * celeba: faces uint8 (N, 3, 84, 84); 2 classes.
        * shakespeare: characters int64 (N, 80); targets int64 (N, 80), where only the last position counts.
        * sent140: words int64 (N, 25), 0 after the last one and 1 for words that are not in the vocabulary; 2 classes.
        * reddit: words int64 (N, 10) likewise; targets int64 (N, 10), -100 where LEAF does not count.
        * synthetic: vectors float32 (N, features).

    Raises:
        DataError: If a folder is missing, or a file is not JSON as LEAF writes it, or contradicts itself.

    Source: Caldas et al., LEAF, arXiv:1812.01097, https://leaf.cmu.edu. Deviations: pixels of FEMNIST stay float32, as
    LEAF stores them; the vocabulary is made from the training part, not read from LEAF's pickle or GloVe.
    """
    folder = _folder(expanded(path))
    train, test = _read_part(folder / "train"), _read_part(folder / "test")
    names = tuple(sorted(train.keys() | test.keys()))
    number = {name: index for index, name in enumerate(names)}
    in_order = [[part[name] for name in sorted(part)] for part in (train, test)]
    kind = recognise(folder, in_order[0], in_order[1], options)
    train_x, train_y, groups = _stacked(train, number, kind)
    test_x, test_y, test_groups = _stacked(test, number, kind)
    classes, class_names = kind.classes()
    return Dataset(
        kind.title,
        train_x,
        train_y,
        test_x,
        test_y,
        classes or int(max(train_y.max(), test_y.max())) + 1,
        groups,
        test_groups,
        class_names,
        names,
    ).check()


def _folder(root: Path) -> Path:
    below = [root / name / inner for name in _SETS for inner in ("data", "")]
    for folder in (root, root / "data", *below):
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
        user: _user(data.get(user), size, f"{file}, user {cut(user, 80)}")
        for user, size in zip(users, sizes, strict=True)
    }


def _user(entry: object, size: object, where: str) -> User:
    if not isinstance(entry, dict) or not isinstance(entry.get("x"), list) or not isinstance(entry.get("y"), list):
        raise DataError(f"{where}: no lists 'x' and 'y' in 'user_data'; write the file again")
    x, y = entry["x"], entry["y"]
    whole = isinstance(size, int) and not isinstance(size, bool)
    if len(x) != len(y) or not whole or not (len(x) == size or _is_of_all_parts(x)):
        raise DataError(
            f"{where}: {len(x)} samples, {len(y)} labels, num_samples {shown(size)}; expected three equal numbers"
        )
    return User(where, x, y)


def _is_of_all_parts(x: list[Any]) -> bool:
    """Return whether samples are comments of the Reddit set, whose num_samples counts those of all parts."""
    return not x or (isinstance(x[0], list) and bool(x[0]) and isinstance(x[0][0], list))


def _stacked(users: _Users, number: dict[str, int], kind: LeafSet) -> tuple[Tensor, Tensor, Tensor]:
    names = sorted(users)
    rows = [kind.rows(users[name]) for name in names]
    groups = np.repeat([number[name] for name in names], [len(y) for _, y in rows])
    filled = [(x, y) for x, y in rows if len(y)]
    if not filled:
        raise DataError(f"{users[names[0]].where}: no user of this part has samples; run LEAF's preprocess.sh again")
    shapes = {x.shape[1:] for x, _ in filled}
    if len(shapes) > 1:
        raise DataError(
            f"{users[names[0]].where}: samples have the shapes {sorted(shapes)}, expected one; write the files again"
        )
    x, y = np.concatenate([x for x, _ in filled]), np.concatenate([y for _, y in filled])
    return torch.from_numpy(x), torch.from_numpy(y), torch.from_numpy(groups.astype(np.int64))


@register("data")
@dataclass(frozen=True)
class Leaf:
    """LEAF's json files: femnist, celeba, shakespeare, sent140, reddit or synthetic, as the files say.

    Args:
        path: Folder with ``train`` and ``test``.
        vocabulary: Words of sent140 and reddit that have a number of their own, the most frequent ones.
        words: Words of a tweet that are read.
        side: Height and width to which celeba's faces are scaled.
        pictures: Folder of celeba's faces; None for ``raw/img_align_celeba`` beside the data.
    """

    name: ClassVar[str] = "leaf"
    path: Path
    vocabulary: int = field(default=10_000, metadata=LEFT_OUT_AT_DEFAULT)
    words: int = field(default=25, metadata=LEFT_OUT_AT_DEFAULT)
    side: int = field(default=84, metadata=LEFT_OUT_AT_DEFAULT)
    pictures: Path | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "vocabulary", "words", "side", minimum=1))

    def load(self) -> Dataset:
        """Read the files; see :func:`load`."""
        return load(self.path, LeafOptions(self.vocabulary, self.words, self.side, self.pictures))
