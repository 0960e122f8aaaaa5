"""Read a table of named columns from a CSV or Parquet file; what the columns mean is decided elsewhere."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlama.core.paths import expanded
from fedlama.data.files import decode_text, read_whole
from fedlama.errors import DataError, MissingExtraError, cut, did_you_mean

_LIMIT = 4 << 30
_OTHER_SEPARATORS = (";", "\t", "|", ",")
_PARQUET = (".parquet", ".pq")
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "<na>"})
Values = NDArray[Any]
"""One column: text as objects, with None where there is no value; or numbers, with NaN there."""


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length.

    Args:
        file: Where they were read.
        columns: The values of each column, (rows,), by its name.
        lines: The line of each row in the file, int64 (rows,); None where a file has no lines.
    """

    file: Path
    columns: Mapping[str, Values]
    lines: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self.columns.values()), ()))

    def where(self, row: int) -> str:
        """Return where a row is, for messages."""
        return (
            f"{self.file}, {'row' if self.lines is None else 'line'} {row if self.lines is None else self.lines[row]}"
        )

    def column(self, name: str, setting: str) -> Values:
        """Return a column.

        Args:
            name: Its name.
            setting: The setting that names it, for the message.

        Raises:
            DataError: There is no such column; the message has the nearest name.
        """
        if name in self.columns:
            return self.columns[name]
        hint = did_you_mean(name, self.columns)
        if len(self.columns) == 1 and (likely := _separator_in(next(iter(self.columns)))):
            hint = f"; its header is one column with {likely!r} in it, so set data.separator to {likely!r}"
        raise DataError(f"{self.file} has no column {name!r}, which data.{setting} names{hint}")

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Table:
        """Return some rows, by number or by a mask."""
        lines = None if self.lines is None else self.lines[chosen]
        return Table(self.file, {name: values[chosen] for name, values in self.columns.items()}, lines)

    def joined(self, other: Table, key: str) -> Table:
        """Return this table with the columns of another one; rows whose key the other table lacks are left out.

        Args:
            other: The other table, with one row for each key.
            key: The column by which rows belong together, in both tables.

        Raises:
            DataError: A key is there twice, both tables have a column of the same name, or no key is in both.
        """
        known: dict[str, int] = {}
        for row, value in enumerate(other.column(key, "key").tolist()):
            if known.setdefault(str(value), row) != row:
                raise DataError(f"{other.where(row)}: {key!r} is {cut(value, 80)}, as in a row before; remove one")
        doubled = [name for name in other.columns if name in self.columns and name != key]
        if doubled:
            raise DataError(f"{self.file} and {other.file} both have a column {doubled[0]!r}; rename one of them")
        partner = np.array([known.get(str(value), -1) for value in self.column(key, "key").tolist()], dtype=np.int64)
        if not (partner >= 0).any():
            raise DataError(f"no value of {key!r} in {self.file} is in {other.file} too; choose another data.key")
        mine, theirs = self.rows(partner >= 0), other.rows(partner[partner >= 0])
        return Table(self.file, {**theirs.columns, **mine.columns}, mine.lines)


def read_table(path: Path, separator: str = ",") -> Table:
    """Read a table.

    Args:
        path: A CSV file with a header, plain or ``.gz``; or a Parquet file (``.parquet``, ``.pq``).
        separator: What is between two fields of a CSV file, one character.

    Raises:
        DataError: The file is missing or damaged, a row has more or fewer fields than the header, or there are no rows.
        MissingExtraError: It is a Parquet file, and pyarrow is not installed.
    """
    path = expanded(path)
    if not path.is_file():
        counted = "" if path.is_absolute() else f"; relative paths count from the current folder, {Path.cwd()}"
        raise DataError(
            f"{path} is {'a folder' if path.exists() else 'missing'}, expected a file; check the path{counted}"
        )
    table = _parquet(path) if path.suffix.lower() in _PARQUET else _csv(path, separator)
    if not len(table):
        raise DataError(f"{path} has no rows; check that it is the right file")
    return table


def missing(values: Values) -> NDArray[np.bool_]:
    """Return where a column has no value."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype != object:
        return np.zeros(len(values), dtype=np.bool_)
    return np.array([value is None for value in values], dtype=np.bool_)


def _csv(path: Path, separator: str) -> Table:
    text = decode_text(read_whole(path, _LIMIT), str(path))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = _header(path, next(reader, []))
        for fields in reader:
            if not fields:
                continue  # an empty line
            if len(fields) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: {len(fields)} fields, expected {len(header)} as in the header; "
                    "correct that line, or quote fields that contain the separator"
                )
            rows.append(fields)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {cut(error)}; correct that line") from error
    columns = dict(zip(header, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(header, ())
    return Table(path, {name: _values(fields) for name, fields in columns.items()}, np.array(lines, dtype=np.int64))


def _header(path: Path, fields: Sequence[str]) -> list[str]:
    names = [field.strip() for field in fields]
    names = [name or f"column {number}" for number, name in enumerate(names, 1)]  # an index of pandas has none
    doubled = [name for number, name in enumerate(names) if name in names[:number]]
    if not names or doubled:
        what = f"the column {doubled[0]!r} twice" if doubled else "no header"
        raise DataError(f"{path} has {what}; name every column differently in the first line")
    return names


def _values(fields: Sequence[str]) -> Values:
    values = np.empty(len(fields), dtype=object)
    values[:] = [None if field.strip().lower() in _MISSING else field.strip() for field in fields]
    return values


def _parquet(path: Path) -> Table:
    try:
        parquet, types = importlib.import_module("pyarrow.parquet"), importlib.import_module("pyarrow.types")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "datasets") from error
    try:
        read = parquet.read_table(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({cut(error)}); write it again") from error
    columns: dict[str, Values] = {}
    for name in read.column_names:
        column = read.column(name)
        if any(is_kind(column.type) for is_kind in (types.is_integer, types.is_floating, types.is_boolean)):
            columns[name] = column.to_numpy().astype(np.float64)
            continue
        texts = [None if value is None else str(value) for value in column.to_pylist()]
        columns[name] = np.empty(len(texts), dtype=object)
        columns[name][:] = texts
    return Table(path, columns)


def _separator_in(header: str) -> str | None:
    """Return a separator that the only column's name holds."""
    return next((separator for separator in _OTHER_SEPARATORS if separator in header), None)
