"""Load a table with named columns: features, one or several targets, and the natural client of each row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse
from fedlama.data.arrays import Dataset
from fedlama.data.columns import as_names, features, first_missing, groups, targets
from fedlama.data.labels import class_numbers
from fedlama.data.splitting import by_column, by_share, check_share, one_way
from fedlama.data.table_files import Table, missing, read_table
from fedlama.errors import DataError, did_you_mean

Kind = Literal["auto", "classes", "numbers"]


@register("data")
@dataclass(frozen=True)
class TableFile:
    """A CSV or Parquet file with named columns.

    CSV files need no library; Parquet files need pyarrow (extra ``datasets``).

    Args:
        path: The file: CSV with a header, plain or ``.gz``, or Parquet.
        target: The column that is to be predicted, or several.
        inputs: The columns to predict it from, by name or pattern such as ``"gene_*"``; by default all others that no
            setting names. A column of names becomes a column of 0 and 1 for each name.
        ignore: Columns, by name or pattern, that are not inputs.
        categories: Columns, by name or pattern, that hold names even where they look like numbers, such as codes.
        targets: Whether the targets are ``"classes"`` or ``"numbers"``; ``"auto"`` takes one column of names, or of at
            most 100 different whole numbers, for classes.
        group: The column of the natural client (hospital, writer, user), for the partition ``natural``.
        group_pattern: A regular expression that finds the group in that column's text, such as ``"_(.*)"``; None for
            the whole text.
        split: The column that says which rows are for training and which for testing; others are left out.
        train: Its word for training rows.
        test: Its word for test rows.
        test_path: Another file with the test rows, in the same columns.
        test_share: Share of the rows that is held out at random, of every group alike, where neither `split` nor
            `test_path` is given.
        join: Another file, whose columns are added; rows that it lacks are left out.
        key: The column by which the rows of the two files belong together.
        standardise: Shift and scale every input to mean 0 and deviation 1 over the training rows.
        missing: What to do with rows that lack a value: ``"refuse"`` them with their line, or ``"drop"`` them.
        separator: What is between two fields of a CSV file.

    Raises:
        ConfigError: A setting is out of range, or two contradict each other.
    """

    name: ClassVar[str] = "table"
    path: Path
    target: str | tuple[str, ...]
    inputs: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    targets: Kind = "auto"
    group: str | None = None
    group_pattern: str | None = None
    split: str | None = None
    train: str = "train"
    test: str = "test"
    test_path: Path | None = None
    test_share: float = 0.2
    join: Path | None = None
    key: str | None = None
    standardise: bool = False
    missing: Literal["refuse", "drop"] = "refuse"
    separator: str = ","

    def __post_init__(self) -> None:
        normalise_numbers(self)
        object.__setattr__(self, "target", self.target if isinstance(self.target, str) else tuple(self.target))
        one_way(split=self.split, test_path=self.test_path)
        problems = check_share(self.test_share) + one_of(self, "targets", ("auto", "classes", "numbers"))
        problems += one_of(self, "missing", ("refuse", "drop"))
        if not self.target_columns:
            problems.append("target names no column, expected one or several; name the column that is to be predicted")
        if len(self.separator) != 1:
            problems.append(f"separator is {self.separator!r}, expected one character; use one such as ';'")
        if (self.join is None) != (self.key is None):
            absent = "key" if self.key is None else "join"
            problems.append(f"{absent} is missing, but join and key belong together; give both, or neither")
        if self.group_pattern is not None:
            problems += _pattern_problems(self.group_pattern, self.group)
        refuse(problems)

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The target columns."""
        return (self.target,) if isinstance(self.target, str) else self.target

    def load(self) -> Dataset:
        """Read the file.

        Returns:
            Inputs float32 (N, features); labels int64 (N,), or targets float32 (N,) or (N, columns); groups int64 (N,),
            numbered in the order of their names.

        Raises:
            DataError: A column or a value is missing, a column mixes numbers and text, or a part has no rows.
        """
        table, parts = self._parts(self._read(self.path))
        inputs = self._inputs(table)
        table, parts = self._complete(table, parts, inputs)
        number, names = (None, ()) if self.group is None else groups(table, self.group, self.group_pattern)
        train, test = by_share(str(self.path), len(table), self.test_share, number) if parts is None else parts
        categories = [column for column in table.columns if any(_matches(column, name) for name in self.categories)]
        x = features(table, inputs, categories)
        y = targets(table, self.target_columns, self.targets, categories)
        classes, class_names = 0, tuple[str, ...]()
        train_y, test_y = y[train], y[test]
        if y.dtype != np.float32:
            labels = class_numbers(f"{self.path}: {self.target_columns[0]!r}", train_y, test_y)
            train_y, test_y, classes, class_names = labels.train, labels.test, labels.classes, labels.names
        if self.standardise:
            x = _standardised(x, train)
        return Dataset(
            self.path.name.partition(".")[0],
            torch.from_numpy(x[train]),
            torch.from_numpy(train_y),
            torch.from_numpy(x[test]),
            torch.from_numpy(test_y),
            classes,
            None if number is None else torch.from_numpy(number[train]),
            None if number is None else torch.from_numpy(number[test]),
            class_names,
            names,
        ).check()

    def _read(self, path: Path) -> Table:
        table = read_table(path, self.separator)
        if self.join is None or self.key is None:
            return table
        return table.joined(read_table(self.join, self.separator), self.key)

    def _parts(self, table: Table) -> tuple[Table, tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
        """Return all rows that are used, and which are for training and for testing; None to draw them."""
        if self.split is not None:
            words = as_names(table.column(self.split, "split"))
            train, test = by_column(str(self.path), self.split, words, self.train, self.test)
            used = np.sort(np.concatenate([train, test]))
            return table.rows(used), (np.searchsorted(used, train), np.searchsorted(used, test))
        if self.test_path is None:
            return table, None
        other = self._read(self.test_path)
        absent = [name for name in table.columns if name not in other.columns]
        if absent:
            raise DataError(
                f"{self.test_path} has no column {absent[0]!r}, which {self.path} has; give both files the same columns"
                f"{did_you_mean(absent[0], other.columns)}"
            )
        both = {name: _stacked(values, other.columns[name]) for name, values in table.columns.items()}
        lines = None if table.lines is None or other.lines is None else np.concatenate([table.lines, other.lines])
        size = len(table)
        return Table(self.path, both, lines), (np.arange(size), np.arange(size, size + len(other)))

    def _inputs(self, table: Table) -> list[str]:
        """Return the names of the input columns, in the order of the file."""
        for setting in ("inputs", "ignore", "categories"):
            for name in getattr(self, setting):
                if not any(_matches(column, name) for column in table.columns):
                    table.column(name, setting)  # raises, with the nearest name
        for name in self.target_columns:
            table.column(name, "target")
        if self.group is not None:
            table.column(self.group, "group")
        others = {*self.target_columns, self.group, self.split, self.key}
        if self.join is not None:  # what it adds was chosen for groups or splits; inputs must be named
            others |= set(read_table(self.join, self.separator).columns) if not self.inputs else set()
        names = [
            column
            for column in table.columns
            if column not in others
            and (not self.inputs or any(_matches(column, name) for name in self.inputs))
            and not any(_matches(column, name) for name in self.ignore)
        ]
        if not names:
            raise DataError(f"{self.path}: no column is left for the inputs; name some in data.inputs")
        return names

    def _complete(
        self, table: Table, parts: tuple[NDArray[np.int64], NDArray[np.int64]] | None, inputs: list[str]
    ) -> tuple[Table, tuple[NDArray[np.int64], NDArray[np.int64]] | None]:
        """Refuse or leave out rows that lack a value."""
        needed = [*inputs, *self.target_columns, *([] if self.group is None else [self.group])]
        gap = first_missing(table, needed)
        if gap is None:
            return table, parts
        if self.missing == "refuse":
            row, name = gap
            kind = "the target " if name in self.target_columns else "the group " if name == self.group else ""
            raise DataError(
                f"{table.where(row)}: {kind}{name!r} has no value; fill it in, leave the column out with data.ignore, "
                "or leave such rows out with data.missing = 'drop'"
            )
        whole = ~np.any([missing(table.columns[name]) for name in needed], axis=0)
        position = np.cumsum(whole) - 1
        kept = None if parts is None else tuple(position[rows[whole[rows]]] for rows in parts)
        if not whole.any() or (kept is not None and min(map(len, kept)) == 0):
            raise DataError(f"{self.path}: every row of a part lacks a value; leave columns out with data.ignore")
        return table.rows(whole), None if kept is None else (kept[0], kept[1])


def _matches(column: str, name: str) -> bool:
    """Return whether a column has a name, or matches a pattern; a name may hold brackets of its own."""
    return column == name or ("*" in name and fnmatchcase(column, name))


def _pattern_problems(pattern: str, group: str | None) -> list[str]:
    try:
        re.compile(pattern)
    except re.error as error:
        return [f"group_pattern is {pattern!r}, expected a regular expression ({error}); correct it"]
    return [] if group is not None else ["group_pattern is given, but group is not; name the column in group"]


def _standardised(x: NDArray[np.float32], train: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return inputs with mean 0 and deviation 1 over the training rows; constant columns become 0."""
    mean, deviation = x[train].mean(axis=0, dtype=np.float64), x[train].std(axis=0, dtype=np.float64)
    scaled: NDArray[np.float32] = ((x - mean) / np.where(deviation > 0, deviation, 1.0)).astype(np.float32)
    return scaled


def _stacked(first: NDArray[np.generic], second: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return a column of two files, as objects where one of them holds text."""
    if first.dtype == second.dtype:
        return np.concatenate([first, second])
    return np.concatenate([first.astype(object), second.astype(object)])
