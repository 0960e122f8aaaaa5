"""Load CIFAR-10 and CIFAR-100 from the authors' archives, binary or Python version."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse
from fedlama.data import restricted_pickle
from fedlama.data.arrays import Dataset
from fedlama.data.files import locate, read_whole
from fedlama.errors import ConfigError, DataError

PIXELS = 3 * 32 * 32
_LIMIT = 400_000_000
_BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
_FOLDERS = {
    10: ("cifar-10-batches-bin", "cifar-10-batches-py"),
    100: ("cifar-100-binary", "cifar-100-python"),
}
COARSE = 20
"""Number of CIFAR-100's coarse labels, groups of five classes such as fish or trees."""
Granularity = Literal["fine", "coarse"]
_Rows = tuple[NDArray[np.uint8], NDArray[np.int64]]


def load(path: Path | str, classes: int = 10, *, complete: bool = True, labels: Granularity = "fine") -> Dataset:
    """Load CIFAR-10 or CIFAR-100.

    Args:
        path: Folder of the unpacked archive (``cifar-10-batches-bin``, ``cifar-10-batches-py``,
            ``cifar-100-binary`` or ``cifar-100-python``), or a folder that contains it. The binary version is taken
            if both are there.
        classes: 10 or 100.
        complete: Expect the official number of rows, so that a file that is cut off between two rows is noticed.

        labels: ``"fine"``, or ``"coarse"`` for the 20 groups of CIFAR-100's classes.

    Returns:
        Images uint8 (N, 3, 32, 32), labels int64 (N,), training rows in the order of the archive.

    Raises:
        DataError: If a file is missing, damaged or cut off.
        ConfigError: If ``classes`` is neither 10 nor 100, or CIFAR-10 is to have coarse labels.

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """
    if classes not in (10, 100):
        raise ConfigError(f"classes is {classes}, expected 10 (CIFAR-10) or 100 (CIFAR-100); choose one of them")
    _check_labels(classes, labels)
    train, test = (_BATCHES, ["test_batch"]) if classes == 10 else (["train"], ["test"])
    # The first file that is found decides the folder, so that two versions are never mixed.
    folder = locate(path, [f"{train[0]}.bin", train[0]], _FOLDERS[classes]).parent
    count = COARSE if labels == "coarse" else classes
    train_x, train_y = _part(folder, train, count, 50_000 // len(train) if complete else None)
    test_x, test_y = _part(folder, test, count, 10_000 if complete else None)
    names = _names(folder, count)
    return Dataset(f"cifar{classes}", train_x, train_y, test_x, test_y, count, class_names=names).check()


def _check_labels(classes: int, labels: str) -> None:
    if labels not in ("fine", "coarse"):
        raise ConfigError(f"labels is {labels!r}, expected 'fine' or 'coarse'; choose one of them")
    if labels == "coarse" and classes == 10:
        raise ConfigError("labels is 'coarse', which only CIFAR-100 has; set classes to 100")


def _part(folder: Path, files: list[str], classes: int, rows: int | None) -> tuple[torch.Tensor, torch.Tensor]:
    pieces = [_read(folder, file, classes, rows) for file in files]
    x = np.concatenate([images for images, _ in pieces])
    y = np.concatenate([labels for _, labels in pieces])
    return torch.from_numpy(x.reshape(-1, 3, 32, 32)), torch.from_numpy(y)  # (rows, channels, height, width)


def _read(folder: Path, name: str, classes: int, rows: int | None) -> _Rows:
    file = locate(folder, [f"{name}.bin", name])
    content = read_whole(file, _LIMIT)
    binary = ".bin" in file.suffixes
    images, labels = _binary(content, file, classes, rows) if binary else _pickled(content, file, classes)
    if rows is not None and len(images) != rows:
        raise DataError(
            f"{file} holds {len(images)} images, expected {rows}; download it again, or pass complete=False"
        )
    return images, labels


def _binary(content: bytes, file: Path, classes: int, rows: int | None) -> _Rows:
    # CIFAR-100 writes two label bytes, coarse then fine.
    labels = 1 if classes == 10 else 2
    column = 0 if classes in (10, COARSE) else 1
    record = labels + PIXELS
    expected = (rows if rows is not None else max(1, -(-len(content) // record))) * record
    if len(content) != expected:
        raise DataError(
            f"{file}: expected {expected} bytes ({record} per image), found {len(content)}; download it again"
            + (", or pass complete=False for a part" if len(content) % record == 0 and content else "")
        )
    table = np.frombuffer(content, np.uint8).reshape(-1, record)
    return table[:, labels:], table[:, column].astype(np.int64)


def _pickled(content: bytes, file: Path, classes: int) -> _Rows:
    batch = restricted_pickle.loads(content, str(file))
    images = batch.get("data")
    labels = batch.get({10: "labels", COARSE: "coarse_labels"}.get(classes, "fine_labels"))
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != PIXELS:
        raise DataError(
            f"{file}: 'data' is not a uint8 array with {PIXELS} columns; is it a file of {_title(classes)}?"
        )
    if not isinstance(labels, list) or not all(isinstance(label, int) and 0 <= label < classes for label in labels):
        raise DataError(f"{file} has no list of labels 0..{classes - 1}; is it a file of {_title(classes)}?")
    if len(labels) != len(images):
        raise DataError(f"{file}: {len(images)} images but {len(labels)} labels; download it again")
    return images, np.asarray(labels, dtype=np.int64)


def _title(classes: int) -> str:
    return "CIFAR-10" if classes == 10 else "CIFAR-100"


def _names(folder: Path, classes: int) -> tuple[str, ...]:
    """Read the class names where the binary version lists them; they are optional."""
    try:
        file = locate(
            folder, [{10: "batches.meta.txt", COARSE: "coarse_label_names.txt"}.get(classes, "fine_label_names.txt")]
        )
    except DataError:
        return ()
    names = tuple(read_whole(file, 100_000).decode("utf-8-sig", "replace").split())
    return names if len(names) == classes else ()


@register("data")
@dataclass(frozen=True)
class Cifar:
    """CIFAR-10 or CIFAR-100, binary or python version.

    Args:
        path: Folder of the unpacked archive, or one that contains it.
        classes: 10 or 100.
        complete: Expect all 60,000 images; false accepts a part of them.
        labels: ``"fine"``, or ``"coarse"`` for the 20 groups of CIFAR-100's classes.
    """

    name: ClassVar[str] = "cifar"
    path: Path
    classes: Literal[10, 100] = 10
    complete: bool = True
    labels: Granularity = field(default="fine", metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(one_of(self, "labels", ("fine", "coarse")))
        _check_labels(self.classes, self.labels)

    def load(self) -> Dataset:
        """Read the files; see :func:`load`."""
        return load(self.path, self.classes, complete=self.complete, labels=self.labels)
