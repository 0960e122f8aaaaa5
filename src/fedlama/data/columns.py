"""What the columns of a table mean: numbers, names, classes and groups, over training and test rows together."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedlama.data.table_files import Table, Values, missing
from fedlama.errors import DataError, cut

Numbers = NDArray[np.float64]
Names = NDArray[np.object_]
_MOST_NAMES = 100
"""A column of inputs with more different names than this is taken for an identifier, not for categories."""
_MOST_CLASSES = 100
"""Whole numbers with at most this many different values are taken for classes."""
_BOOLEANS = {"true": 1.0, "false": 0.0}


def as_numbers(values: Values) -> Numbers | None:
    """Return a column without missing values as float64; None where none of its values is a number.

    The words true and false are 1 and 0.

    Raises:
        ValueError: Some values are numbers and some are not; its argument is the row of the first that is not.
    """
    if values.dtype != object:
        return values.astype(np.float64)
    try:
        return values.astype(np.float64)
    except ValueError:
        pass
    numbers = np.array([_number(str(value)) for value in values])
    words = np.isnan(numbers)
    if words.all():
        return None
    if words.any():
        raise ValueError(int(np.flatnonzero(words)[0]))
    return numbers


def as_names(values: Values) -> Names:
    """Return a column as names; whole numbers are written without a fraction."""
    names = np.empty(len(values), dtype=object)
    names[:] = [_name(value) for value in values.tolist()]
    return names


def features(table: Table, names: Sequence[str], categories: Collection[str]) -> NDArray[np.float32]:
    """Return columns as features: numbers as they are, and for each name of a column of names a column of 0 and 1.

    Args:
        table: The table, without missing values in these columns.
        names: The columns, in order.
        categories: Those that hold names even where they look like numbers, such as a code.

    Returns:
        float32 (rows, features); the names of a column are in sorted order.

    Raises:
        DataError: A column mixes numbers and text, or has too many different names.
    """
    parts: list[NDArray[np.float32]] = []
    for name in names:
        values = table.column(name, "inputs")
        numbers = None if name in categories else numbers_of(table, name, values)
        if numbers is not None:
            with np.errstate(over="ignore"):  # values that do not fit become infinite, which `Dataset.check` reports
                parts.append(numbers.astype(np.float32)[:, None])
            continue
        known, index = np.unique(as_names(values).astype(str), return_inverse=True)
        if len(known) > _MOST_NAMES:
            raise DataError(
                f"{table.file}: the column {name!r} has {len(known)} different names, so it looks like an identifier; "
                "leave it out of data.inputs, or name it in data.ignore"
            )
        parts.append((index.reshape(-1)[:, None] == np.arange(len(known))).astype(np.float32))
    return np.concatenate(parts, axis=1)


def numbers_of(table: Table, name: str, values: Values) -> Numbers | None:
    """Return a column as numbers, or None where it holds names.

    Raises:
        DataError: It mixes numbers and text; the message has the row.
    """
    try:
        return as_numbers(values)
    except ValueError as error:
        row = error.args[0]
        raise DataError(
            f"{table.where(row)}: {name!r} is {cut(values[row], 80)!r} in a column of numbers; correct it, or, if the "
            "numbers are names, add the column to data.categories"
        ) from error


def targets(
    table: Table, names: Sequence[str], kind: Literal["auto", "classes", "numbers"], categories: Collection[str]
) -> NDArray[np.generic]:
    """Return the target columns: labels, (rows,), or measurements, float32 (rows,) or (rows, columns).

    Args:
        table: The table, without missing values in these columns.
        names: The columns, in order.
        kind: What they are; ``"auto"`` takes one column of names, or of whole numbers with few different values, for
            classes, and everything else for measurements.
        categories: Columns that hold names even where they look like numbers.

    Raises:
        DataError: A column of measurements holds text, or there is one class only.
    """
    columns = [table.column(name, "target") for name in names]
    numbers = [
        None if name in categories else numbers_of(table, name, values)
        for name, values in zip(names, columns, strict=True)
    ]
    first = numbers[0]
    if kind == "auto":
        few = first is None or (bool((first == np.rint(first)).all()) and len(np.unique(first)) <= _MOST_CLASSES)
        kind = "classes" if len(names) == 1 and few else "numbers"
    if kind == "classes":
        if len(names) > 1:
            raise DataError(
                f"data.target names {len(names)} columns, but classes need one; name one, or set data.targets to "
                "'numbers'"
            )
        labels = as_names(columns[0]).astype(str) if first is None else first
        if len(np.unique(labels)) == 1:
            raise DataError(
                f"{table.file}: the target {names[0]!r} is {cut(columns[0][0], 80)!r} in every row, so there is one "
                "class only and nothing to learn; choose another column"
            )
        return labels
    text = [name for name, values in zip(names, numbers, strict=True) if values is None]
    if text:
        raise DataError(
            f"{table.file}: the target {text[0]!r} holds names, but measurements are numbers; choose another column, "
            "or set data.targets to 'classes'"
        )
    stacked = np.stack([values for values in numbers if values is not None], axis=1).astype(np.float32)
    return stacked[:, 0] if len(names) == 1 else stacked


def groups(table: Table, name: str, pattern: str | None) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the group of each row, and the groups' names in order: numerical where all are whole numbers.

    Args:
        table: The table, without missing values in this column.
        name: The column.
        pattern: A regular expression that finds the group's name in the column's text: its first group, or all that
            it matches; None for the whole text.

    Raises:
        DataError: The pattern does not match in a row.
    """
    texts = [str(text) for text in as_names(table.column(name, "group"))]
    if pattern is not None:
        matches = [re.search(pattern, text) for text in texts]
        if None in matches:
            row = matches.index(None)
            raise DataError(
                f"{table.where(row)}: {name!r} is {cut(texts[row], 80)!r}, in which data.group_pattern {pattern!r} "
                "matches nothing; correct the pattern"
            )
        texts = [match.group(1 if match.re.groups else 0) or "" for match in matches if match is not None]
    known = sorted(set(texts))
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in known):
        known.sort(key=int)
    number = {text: index for index, text in enumerate(known)}
    return np.array([number[text] for text in texts], dtype=np.int64), tuple(known)


def first_missing(table: Table, names: Sequence[str]) -> tuple[int, str] | None:
    """Return the first row without a value in one of some columns, and the column; None where all are complete."""
    empty = [(int(np.flatnonzero(gaps)[0]), name) for name in names if (gaps := missing(table.columns[name])).any()]
    return min(empty, default=None)


def _number(text: str) -> float:
    """Return a text as a number; NaN where it is not one."""
    try:
        return float(text)
    except ValueError:
        return _BOOLEANS.get(text.lower(), float("nan"))


def _name(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
