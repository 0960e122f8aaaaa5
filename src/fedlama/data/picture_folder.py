"""Load pictures from files: a folder for each class, or a table that names files, classes and clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.paths import expanded
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.columns import as_names, first_missing, groups, targets
from fedlama.data.labels import class_numbers
from fedlama.data.picture_files import ENDINGS, read_picture
from fedlama.data.splitting import Rows, by_column, by_share, check_share
from fedlama.data.table_files import read_table
from fedlama.errors import ConfigError, DataError

Layout = Literal["class", "group/class", "class/group"]
_LAYOUTS = ("class", "group/class", "class/group")
_LIMIT = 32 << 30
"""Bytes of all pictures in memory."""


class _Listed(NamedTuple):
    """The files of a data set and what is known of each.

    Attributes:
        files: The files.
        labels: Class of each, as it is written, (files,).
        group: Group of each, int64 (files,), or None.
        group_names: Names of the groups.
        parts: Training and test rows; None to draw them.
    """

    files: list[Path]
    labels: NDArray[np.generic]
    group: Rows | None
    group_names: tuple[str, ...]
    parts: tuple[Rows, Rows] | None


@register("data")
@dataclass(frozen=True)
class PictureFolder:
    """Files of pictures: a sub-folder for each class, or a table of paths.

    Args:
        path: The folder. If it has the sub-folders that `train` and `test` name, these are the two parts.
        size: Height and width to which pictures are scaled down; None where all have one size.
        grey: Whether to read one channel; otherwise three.
        layout: What the folders are: ``"class"``; or two levels, ``"group/class"`` or ``"class/group"``, where a group
            is a natural client, such as a hospital.
        table: A CSV or Parquet file that names the pictures instead, with a path relative to `path` in each row.
        file: Its column of paths.
        label: Its column of classes.
        group: Its column of natural clients.
        split: Its column that says which rows are for training and which for testing.
        train: Word of training rows, or sub-folder of the training part.
        test: Word of test rows, or sub-folder of the test part.
        test_share: Share of the pictures that is held out at random, of every group alike (or of every class, where
            there are no groups), where neither sub-folders nor `split` say which.

    Raises:
        ConfigError: A setting is out of range, or needs a table.
    """

    name: ClassVar[str] = "pictures"
    path: Path
    size: int | None = None
    grey: bool = False
    layout: Layout = "class"
    table: Path | None = None
    file: str = "file"
    label: str = "label"
    group: str | None = None
    split: str | None = None
    train: str = "train"
    test: str = "test"
    test_share: float = 0.2

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = check_share(self.test_share) + one_of(self, "layout", _LAYOUTS)
        problems += [] if self.size is None else whole(self, "size", minimum=1)
        if self.table is None and (self.group or self.split):
            given = "group" if self.group else "split"
            problems.append(
                f"{given} names a column, but there is no table; give table, or set layout to 'group/class'"
            )
        refuse(problems)

    def load(self) -> Dataset:
        """Read the pictures.

        Returns:
            Images uint8 (N, 3, H, W), or (N, 1, H, W) where `grey`; labels int64 (N,), numbered in the order of their
            names; groups int64 (N,).

        Raises:
            DataError: A folder is empty, a file is not a picture, or pictures differ in size.
        """
        root = expanded(self.path)
        if not root.is_dir():
            kind = "a file" if root.exists() else "missing"
            raise DataError(f"{root} is {kind}, expected the folder of the pictures; check the path")
        listed = self._by_folder(root) if self.table is None else self._by_table(root, self.table)
        files, labels, group = listed.files, listed.labels, listed.group
        if len(np.unique(labels)) == 1:
            raise DataError(
                f"{root}: all pictures are of the class {labels[0]!s}, so there is nothing to learn; add others"
            )
        if listed.parts is None:
            strata = np.unique(labels, return_inverse=True)[1] if group is None else group
            train, test = by_share(str(root), len(files), self.test_share, strata)
        else:
            train, test = listed.parts
        classes = class_numbers(f"{root}: classes", labels[train], labels[test])
        pictures = self._read([files[row] for row in np.concatenate([train, test]).tolist()])
        return Dataset(
            root.name or "pictures",
            pictures[: len(train)],
            torch.from_numpy(classes.train),
            pictures[len(train) :],
            torch.from_numpy(classes.test),
            classes.classes,
            None if group is None else torch.from_numpy(group[train]),
            None if group is None else torch.from_numpy(group[test]),
            classes.names,
            listed.group_names,
        ).check()

    def _by_folder(self, root: Path) -> _Listed:
        """List the pictures of a folder for each class."""
        in_parts = all((root / part).is_dir() for part in (self.train, self.test))
        roots = [root / self.train, root / self.test] if in_parts else [root]
        levels = self.layout.split("/")
        files: list[Path] = []
        words: list[tuple[str, ...]] = []
        sizes = []
        for part in roots:
            before = len(files)
            for folder in _folders(part, len(levels)):
                pictures = sorted(file for file in folder.rglob("*") if _is_picture(file))
                if not pictures:
                    raise DataError(
                        f"{folder} holds no pictures ({', '.join(ENDINGS[:4])}, ...); remove it, or add some"
                    )
                files += pictures
                words += [folder.relative_to(part).parts] * len(pictures)
            sizes.append(len(files) - before)
        columns = dict(zip(levels, np.array(words, dtype=str).T, strict=True))
        names, number = np.unique(columns["group"], return_inverse=True) if "group" in columns else ((), None)
        numbers = np.arange(len(files))
        return _Listed(
            files,
            columns["class"],
            None if number is None else number.astype(np.int64),
            tuple(str(name) for name in names),
            (numbers[: sizes[0]], numbers[sizes[0] :]) if in_parts else None,
        )

    def _by_table(self, root: Path, path: Path) -> _Listed:
        """List the pictures that a table names."""
        table = read_table(path)
        needed = {"file": self.file, "label": self.label, "group": self.group, "split": self.split}
        columns = [name for setting, name in needed.items() if name is not None and len(table.column(name, setting))]
        if (gap := first_missing(table, columns)) is not None:
            raise DataError(f"{table.where(gap[0])}: {gap[1]!r} has no value; fill it in, or remove that line")
        files = [root / name for name in as_names(table.columns[self.file])]
        absent = [row for row, file in enumerate(files) if not file.is_file()]
        if absent:
            raise DataError(
                f"{table.where(absent[0])}: {files[absent[0]]} is missing ({len(absent)} such rows); correct the "
                "paths, which count from data.path"
            )
        number, names = (None, ()) if self.group is None else groups(table, self.group, None)
        parts = None
        if self.split is not None:
            parts = by_column(str(path), self.split, as_names(table.columns[self.split]), self.train, self.test)
        return _Listed(files, targets(table, (self.label,), "classes", ()), number, names, parts)

    def _read(self, files: Sequence[Path]) -> torch.Tensor:
        """Return the pictures, uint8 (files, channels, height, width)."""
        mode: Literal["L", "RGB"] = "L" if self.grey else "RGB"
        first = read_picture(files[0], mode, self.size)
        if first.nbytes * len(files) > _LIMIT:
            raise DataError(
                f"{len(files)} pictures of the size of {files[0]} take {first.nbytes * len(files) >> 30} GiB; set "
                "data.size to scale them down"
            )
        pictures = np.empty((len(files), *first.shape), dtype=np.uint8)  # (files, channels, height, width)
        for row, file in enumerate(files):
            picture = read_picture(file, mode, self.size)
            if picture.shape != first.shape:
                raise DataError(
                    f"{file} has {picture.shape[1]} x {picture.shape[2]} pixels, but {files[0]} has {first.shape[1]} "
                    f"x {first.shape[2]}; set data.size to scale all of them to one size"
                )
            pictures[row] = picture
        return torch.from_numpy(pictures)


def _folders(root: Path, levels: int) -> list[Path]:
    """Return the folders at a depth, in the order of their names."""
    folders = [root]
    for _ in range(levels):
        folders = [inner for folder in folders for inner in sorted(folder.iterdir()) if _is_folder(inner)]
    if not folders:
        depth = "a sub-folder for each class" if levels == 1 else "two levels of sub-folders, as data.layout says"
        raise ConfigError(
            f"{root} has no sub-folders, expected {depth}; sort the pictures into them, or give data.table"
        )
    return folders


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and path.is_file()
