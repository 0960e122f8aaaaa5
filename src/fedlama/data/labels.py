"""From labels as people store them to class numbers 0..n-1: the one way for every source that a user made.

Data sets with a format of their own (CIFAR, MNIST, LEAF) have class numbers. Arrays and tables that users write have
names, one-hot rows, columns of shape (N, 1), -1 and +1, or floats. Each becomes the class numbers that are meant; what
cannot be read as classes is refused with the row and what to do, before the inputs are read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedlama.core.losses import IGNORED
from fedlama.errors import DataError

Integers = NDArray[np.int64]
_Any = NDArray[np.generic]

_FEW = 1000
"""This many classes are believed whatever the number of rows."""
_OWN_OBJECTIVE = "train on them in Python with fedlama.Federation(objective=...)"


@dataclass(frozen=True)
class ClassNumbers:
    """The labels of both parts of a data set.

    Attributes:
        train: int64 (N,), or (N, T) when every position of a sequence has a label; float32 where they are measurements.
        test: The same for the test rows.
        classes: Number of classes; 0 where they are measurements.
        names: Name of each class, or empty where the labels were numbers.
    """

    train: NDArray[Any]
    test: NDArray[Any]
    classes: int
    names: tuple[str, ...] = ()


def class_numbers(
    where: str, train: _Any, test: _Any, *, classes: int | None = None, per_position: bool = False
) -> ClassNumbers:
    """Convert labels.

    Args:
        where: What they are, for messages, such as ``"my-data: labels 'y'"``.
        train: Labels of the training rows: integers, booleans, floats that are whole numbers, or text, of shape (N,) or
            (N, 1); or one-hot rows (N, classes). If the values are -1 and 1, they become 0 and 1.
        test: Labels of the test rows, in the same form.
        classes: Number of classes; None for the largest label plus one.
        per_position: Whether the inputs are sequences with one label per position, (N, T).

    Returns:
        The class numbers. Names are numbered in sorted order.

    Raises:
        DataError: They are not classes, or their largest number is out of proportion to the number of rows.

    >>> class_numbers("toy", np.array(["dog", "cat"]), np.array(["emu"])).train
    array([1, 0])
    >>> class_numbers("toy", np.array([[1.0], [0.0]]), np.array([[1.0]])).train
    array([1, 0])
    """
    parts = [_without_column(labels) if not per_position else labels for labels in (train, test)]
    texts = [labels.dtype.kind in "US" for labels in parts]
    if all(texts) and all(labels.ndim == 1 for labels in parts):
        return _named(where, parts[0], parts[1])
    whole = [_whole(f"{where}, {part} part", labels) for part, labels in zip(("training", "test"), parts, strict=True)]
    if not per_position and any(labels.ndim == 2 for labels in whole):
        return _one_hot(where, whole[0], whole[1])
    values = np.unique(np.concatenate([labels.reshape(-1) for labels in whole]))
    if values.tolist() == np.unique(whole[0]).tolist() == [-1, 1]:
        return ClassNumbers((whole[0] + 1) // 2, (whole[1] + 1) // 2, 2, ("-1", "1"))
    for part, labels in zip(("training", "test"), whole, strict=True):
        _check_range(f"{where}, {part} part", labels, classes, per_position)
    count = _plausible_count(where, values, sum(map(len, whole))) if classes is None else classes
    return ClassNumbers(whole[0], whole[1], count)


def numbered(train: _Any, test: _Any | None) -> tuple[Integers, Integers | None, tuple[str, ...]]:
    """Number names in sorted order, over both parts.

    Args:
        train: One name per training row, text of shape (N,).
        test: The same for the test rows, or None.

    Returns:
        int64 (N,) for each part, and the names.

    Raises:
        UnicodeDecodeError: A name is not text.
    """
    both = train if test is None else np.concatenate([train, test])
    if both.dtype.kind == "S":
        both = np.char.decode(both.astype(np.bytes_), "utf-8")
    names, index = np.unique(both, return_inverse=True)
    index = index.astype(np.int64)
    return index[: len(train)], None if test is None else index[len(train) :], tuple(str(name) for name in names)


def _named(where: str, train: _Any, test: _Any) -> ClassNumbers:
    try:
        numbers, test_numbers, names = numbered(train, test)
    except ValueError as error:
        raise DataError(f"{where} hold text that cannot be decoded; write them as UTF-8 text or numbers") from error
    if len(names) > max(_FEW, len(train)):
        raise DataError(f"{where} hold {len(names)} different names in {len(train)} rows; choose the labels' column")
    return ClassNumbers(numbers, np.asarray(test_numbers), len(names), names)


def _without_column(labels: _Any) -> _Any:
    """Return labels of shape (N, 1), as some libraries write them, as (N,)."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _whole(where: str, labels: _Any) -> Integers:
    """Return labels as int64."""
    if labels.dtype.kind in "biu":
        return labels.astype(np.int64)
    if labels.dtype.kind == "f":
        values = labels.astype(np.float64)
        wrong = np.argwhere(~np.isfinite(values) | (values != np.rint(values)) | (np.abs(values) > 2**53))
        if not len(wrong):
            return values.astype(np.int64)
        value = float(values[tuple(wrong[0])])
        raise DataError(
            f"{where}: row {wrong[0][0]} holds {value}, expected class numbers 0, 1, 2, ...; write class numbers or "
            f"names, or, if they are measurements, {_OWN_OBJECTIVE}"
        )
    missing = [row for row, value in enumerate(labels.reshape(-1)) if value is None] if labels.dtype == object else []
    if missing:
        raise DataError(f"{where}: row {missing[0]} has no label (None); leave out the rows without a label")
    kind = "text in a part of the rows" if labels.dtype.kind in "US" else str(labels.dtype)
    raise DataError(f"{where} are {kind}, expected class numbers or names; write all of them as one of these")


def _one_hot(where: str, train: Integers, test: Integers) -> ClassNumbers:
    """Return the classes of one-hot rows."""
    parts = (train, test)
    if len({labels.shape[1:] for labels in parts}) > 1:
        raise DataError(
            f"{where} have the shapes {train.shape} (training) and {test.shape} (test), expected the same form in both "
            "parts; write one class number for each row"
        )
    if not all(np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all() for labels in parts):
        raise DataError(
            f"{where} have shape {train.shape} and are not one-hot, expected one class for each row; write class "
            f"numbers of shape ({len(train)},), or, if a row has several labels, {_OWN_OBJECTIVE}"
        )
    return ClassNumbers(train.argmax(axis=1), test.argmax(axis=1), train.shape[1])


def _check_range(where: str, labels: Integers, classes: int | None, per_position: bool) -> None:
    wrong = np.argwhere((labels < 0) & ~(per_position & (labels == IGNORED)))
    if len(wrong):
        raise DataError(
            f"{where}: label {labels[tuple(wrong[0])]} in row {wrong[0][0]} is negative, expected 0 or more; a "
            "negative label often marks a row without a label: leave such rows out, or choose a part that has labels"
        )
    wrong = np.argwhere(labels >= classes) if classes is not None else wrong
    if len(wrong):
        raise DataError(
            f"{where}: label {labels[tuple(wrong[0])]} in row {wrong[0][0]} is not in 0..{(classes or 1) - 1}; "
            f"correct the labels, or raise the number of classes to {labels.max() + 1}"
        )


def _plausible_count(where: str, values: Integers, rows: int) -> int:
    """Return the largest label plus one, if the rows make it plausible."""
    largest = int(values.max(initial=0))
    if largest >= max(_FEW, rows):
        raise DataError(
            f"{where} go up to {largest}, which makes {largest + 1} classes, but there are {rows} rows with "
            f"{len(values)} different labels; number the classes 0 to {len(values) - 1}, for instance with "
            "numpy.unique(y, return_inverse=True)"
        )
    return largest + 1
