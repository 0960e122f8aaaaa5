"""MNIST with its writers: a real federated split, one client per person, from the table of QMNIST."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.registry import register
from fedlama.data import idx
from fedlama.data.arrays import Dataset
from fedlama.data.files import locate
from fedlama.errors import DataError

_FOLDERS = ("qmnist-writers", "qmnist", "QMNIST/raw")
_DIGIT, _WRITER = 0, 2


def load(path: Path | str, table: Path | str | None = None) -> Dataset:
    """Load MNIST with the writer of each digit.

    Args:
        path: Folder of MNIST (see `fedlama.data.idx.load`), or one that contains it as a usual sub-folder.
        table: Folder of ``qmnist-train-labels-idx2-int`` and ``qmnist-test-labels-idx2-int``, plain or ``.gz``;
            None to look in ``path`` and its usual sub-folders.

    Returns:
        MNIST with ``groups`` and ``test_groups``, int64 (N,): the writers' numbers in NIST (539 writers of training
        digits, 297 others of test digits).

    Raises:
        DataError: If a file is missing or damaged, or the table's digits are not MNIST's labels, row by row.

    Source: Yadav and Bottou, Cold Case: the Lost MNIST Digits, NeurIPS 2019, arXiv:1905.10498. Row i of the training
    table describes MNIST's training image i; the first 10,000 rows of the test table describe MNIST's test images.
    """
    mnist = idx.load(path)
    folder = path if table is None else table
    groups = _writers(folder, "train", mnist.train_y.numpy())
    test_groups = _writers(folder, "test", mnist.test_y.numpy())
    return replace(mnist, name="mnist-writers", groups=groups, test_groups=test_groups).check()


def _writers(folder: Path | str, part: str, labels: NDArray[np.int64]) -> torch.Tensor:
    file = locate(folder, [f"qmnist-{part}-labels-idx2-int"], _FOLDERS)
    table = idx.read_idx(file, "i4", 2).astype(np.int64)
    if table.shape[1] != 8 or len(table) < len(labels):
        raise DataError(
            f"{file} is a table of {table.shape}, expected 8 columns and at least {len(labels)} rows; download it again"
        )
    table = table[: len(labels)]
    wrong = np.flatnonzero(table[:, _DIGIT] != labels)
    if len(wrong):
        row = wrong[0]
        raise DataError(
            f"{file}: row {row} says digit {table[row, _DIGIT]} but MNIST's label is {labels[row]} "
            f"({len(wrong)} rows differ); the table and the images belong to different data sets, or are in "
            "different order"
        )
    return torch.from_numpy(table[:, _WRITER].copy())


@register("data")
@dataclass(frozen=True)
class MnistWriters:
    """MNIST with the writer of each digit from QMNIST's table, a natural federated split.

    Args:
        path: Folder with MNIST's files.
        table: Folder with QMNIST's tables; None to look below `path`.
    """

    name: ClassVar[str] = "mnist-writers"
    path: Path
    table: Path | None = None

    def load(self) -> Dataset:
        """Read images and table; see :func:`load`."""
        return load(self.path, self.table)
