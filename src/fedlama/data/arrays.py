"""The form in which every loader returns its data: training and test tensors, and the natural client of each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from fedlama.core.losses import IGNORED
from fedlama.errors import DataError


@dataclass(frozen=True, eq=False)
class Dataset:
    """A supervised data set that fits in memory, split into training and test rows.

    Args:
        name: Its name in messages and reports.
        train_x: Inputs, first dimension = rows. Images are uint8 (N, C, H, W); feature rows are float32 (N, F);
            character sequences are int64 (N, T).
        train_y: int64 labels in [0, classes): (N,), or (N, T) when every position of a sequence has one; then -100
            marks a position that does not count, such as padding. Or measurements: float32 (N,), or (N, targets) for
            several of each row.
        test_x: As ``train_x``.
        test_y: As ``train_y``.
        classes: Number of labels; 0 where the targets are measurements.
        groups: int64 (N,), the natural client of each training row (writer, speaker, user), or None.
        test_groups: int64, the same for the test rows, or None.
        class_names: One name per label, or empty.
        group_names: Name of group g at position g, or empty when the group numbers are those of the source.

    Equality is identity: comparing gigabytes by accident would be slow and, with tensors, ambiguous.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    groups: Tensor | None = None
    test_groups: Tensor | None = None
    class_names: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Number of values that a model returns for a target: one for each class, or for each measurement."""
        return self.classes or self.train_y[:1].numel()

    def check(self) -> Dataset:
        """Check everything that would otherwise show only later, as an unexpected loss.

        Returns:
            This data set, so that a loader can end with ``return Dataset(...).check()``.

        Raises:
            DataError: When a part is empty, lengths differ, a number is not finite, or a label or group is out of
                range; the message names the row and the value.

        >>> import torch
        >>> x, y = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 5])
        >>> Dataset("toy", x, y, x, torch.tensor([0, 1]), classes=2).check()
        Traceback (most recent call last):
            ...
        fedlama.errors.DataError: toy, training part: label 5 in row 1 is not in 0..1; correct it or leave that row out
        """
        if self.classes < 1 and not (self.classes == 0 and self.train_y.is_floating_point()):
            raise DataError(f"{self.name}: classes is {self.classes}, expected at least 1; count the labels")
        if self.class_names and len(self.class_names) != self.classes:
            raise DataError(
                f"{self.name}: {len(self.class_names)} class names for {self.classes} classes; give one name per class"
            )
        self._check_part("training", self.train_x, self.train_y, self.groups)
        self._check_part("test", self.test_x, self.test_y, self.test_groups)
        if self.train_x.dtype != self.test_x.dtype:
            raise DataError(
                f"{self.name}: training rows are {self.train_x.dtype} but test rows {self.test_x.dtype}, expected one "
                "dtype; convert one part"
            )
        if self.train_x.shape[1:] != self.test_x.shape[1:]:
            raise DataError(
                f"{self.name}: training rows have shape {tuple(self.train_x.shape[1:])} but test rows "
                f"{tuple(self.test_x.shape[1:])}, expected one shape; convert one part"
            )
        return self

    def _check_part(self, part: str, x: Tensor, y: Tensor, groups: Tensor | None) -> None:
        where = f"{self.name}, {part} part"
        if x.ndim == 0 or y.ndim == 0 or len(x) == 0:
            raise DataError(f"{where}: there are no rows; check that the files are the right ones")
        if len(x) != len(y):
            raise DataError(f"{where}: {len(x)} inputs but {len(y)} labels; give one label for each input")
        if x.is_floating_point():
            _check_finite(where, x)
        if y.is_floating_point() and not self.classes:
            _check_finite(where, y, "the target of ")
        elif y.dtype != torch.int64:
            raise DataError(f"{where}: labels are {y.dtype}, expected torch.int64; convert them with .long()")
        else:
            counted = torch.where(y == IGNORED, 0, y) if y.ndim > 1 else y
            _check_range(where, "label", counted, self.classes, "correct it or leave that row out")
        if groups is None:
            return
        if groups.shape != (len(x),) or groups.dtype != torch.int64:
            raise DataError(
                f"{where}: groups are {groups.dtype} {tuple(groups.shape)}, "
                f"expected torch.int64 ({len(x)},): one per row"
            )
        if self.group_names:
            _check_range(where, "group", groups, len(self.group_names), "give one name per group")


class DataSource(Protocol):
    """Settings that can load a data set. An implementation is a frozen dataclass whose fields are the settings."""

    name: ClassVar[str]

    def load(self) -> Dataset:
        """Read the data set into memory.

        Returns:
            The data set, checked with :meth:`Dataset.check`.

        Raises:
            DataError: A file is missing or damaged.
        """


def _check_finite(where: str, x: Tensor, what: str = "") -> None:
    finite = torch.isfinite(x).reshape(len(x), -1).all(dim=1)
    if not bool(finite.all()):
        row = int((~finite).nonzero()[0])
        values = x[row].flatten()
        value = float(values[~torch.isfinite(values)][0])
        raise DataError(f"{where}: {what}row {row} holds {value}; replace or leave out the rows with NaN or infinity")


def _check_range(where: str, what: str, values: Tensor, count: int, remedy: str) -> None:
    wrong = (values < 0) | (values >= count)
    if bool(wrong.any()):
        first = wrong.nonzero()[0]
        value = int(values[tuple(first)])
        raise DataError(f"{where}: {what} {value} in row {int(first[0])} is not in 0..{count - 1}; {remedy}")
