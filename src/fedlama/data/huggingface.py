"""Load an image classification data set of the Hugging Face hub by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.paths import expanded
from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.labels import class_numbers, numbered
from fedlama.data.pictures import as_picture, same_channels, stack
from fedlama.data.reduction import shrink
from fedlama.errors import ConfigError, DataError, MissingExtraError, cut, did_you_mean

IMAGE_COLUMNS = ("image", "img", "x", "pixel_values")
_SPLITS = (
    "set train and test to the names of two splits, or hold out rows of the training split with test_share=0.1 "
    "(in Python, Parts(test=None, test_share=0.1))"
)
LABEL_COLUMNS = ("label", "labels", "fine_label", "y", "character")


class Split(Protocol):
    """The part of ``datasets.Dataset`` that is used."""

    @property
    def features(self) -> Mapping[str, object]:
        """Column names and their types."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, key: int | str) -> object: ...


@dataclass(frozen=True)
class Columns:
    """Which columns hold what.

    Args:
        image: Column of the images; None for the first of `IMAGE_COLUMNS` that exists.
        label: Column of the labels; None for the first of `LABEL_COLUMNS` that exists.
        group: Column of the natural client, such as ``"writer_id"``; None for no groups.
        size: Height and width to which pictures are scaled down as they are read, each pixel the average of its area;
            None where all have one size.
    """

    image: str | None = None
    label: str | None = None
    group: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Parts:
    """Which rows are for training and which for testing.

    Args:
        train: Name of the training split.
        test: Name of the test split; None to hold out rows of the training split, for data sets without a test split.
        test_share: Share of the training rows that is held out at random where there is no test split, in (0, 1).
        seed: Decides which rows are held out.

    Raises:
        ConfigError: If ``test_share`` is outside (0, 1).
    """

    train: str = "train"
    test: str | None = "test"
    test_share: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        if not 0 < self.test_share < 1:
            raise ConfigError(f"test_share is {self.test_share}, expected a share between 0 and 1; use one such as 0.1")


_COLUMNS, _PARTS = Columns(), Parts()


def load(name: str, columns: Columns = _COLUMNS, parts: Parts = _PARTS) -> Dataset:
    """Load a data set by name, or from a folder written by ``save_to_disk``.

    Args:
        name: Name on the hub, such as ``"uoft-cs/cifar10"``, or a folder.
        columns: Which columns hold images, labels and clients.
        parts: Which splits to take.

    Returns:
        Images uint8 (N, C, H, W), or float32 with the numbers as stored where they have more than 8 bits; labels int64
        (N,), see :func:`fedlama.data.labels.class_numbers`; groups int64 (N,), numbered in the order of their sorted
        names.

    Raises:
        MissingExtraError: If the library ``datasets`` is not installed.
        DataError: If a split or a column is missing, or images differ in shape.

    Code that a data set on the hub may bring along is never run.
    """
    splits = _open(name, parts)
    for wanted in [parts.train] if parts.test is None else [parts.train, parts.test]:
        if wanted not in splits:
            raise DataError(f"{name} has no split {wanted!r}{did_you_mean(wanted, splits)}; {_SPLITS}")
    test = None if parts.test is None else splits[parts.test]
    return from_splits(name, splits[parts.train], test, columns, parts)


def from_splits(
    name: str, train: Split, test: Split | None, columns: Columns = _COLUMNS, parts: Parts = _PARTS
) -> Dataset:
    """Convert splits that are already open, such as filtered or in-memory ones.

    Args:
        name: What to call the data set.
        train: A ``datasets.Dataset``.
        test: Another, or None to hold out ``parts.test_share`` of the training rows.
        columns: Which columns hold images, labels and clients.
        parts: Which rows are held out where `test` is None.

    Returns:
        The data set in memory, as from :func:`load`.

    Raises:
        DataError: If a column is missing, or its values are not what they should be.
    """
    train, test = _plain(name, train), None if test is None else _plain(name, test)
    image = _column(name, train, columns.image, IMAGE_COLUMNS, "image")
    label = _column(name, train, columns.label, LABEL_COLUMNS, "label")
    group = columns.group
    x, y, of = _images(name, train, image, columns.size), _labels(name, train, label), _values(name, train, group)
    test_x, test_y, test_of = x[:0], y[:0], None
    if test is not None:
        for column, what in ((image, "image"), (label, "label")):
            _column(name, test, column, (), what)
        test_x, test_y = _images(name, test, image, columns.size), _labels(name, test, label)
        test_of = _values(name, test, group) if group is not None and group in test.features else None
        x, test_x = same_channels(x, test_x)
    class_names = tuple(getattr(train.features[label], "names", None) or ())
    labels = class_numbers(f"{name}: labels {label!r}", y, test_y, classes=len(class_names) or None)
    train_y, test_labels = labels.train, labels.test
    if test is None:
        order = permutation(parts.seed, "held out rows", len(y))
        held = max(1, round(len(y) * parts.test_share))
        rows, test_rows = np.sort(order[held:]), np.sort(order[:held])
        x, test_x, train_y, test_labels = x[rows], x[test_rows], train_y[rows], train_y[test_rows]
        of, test_of = (of[rows], of[test_rows]) if of is not None else (None, None)
    groups, test_groups, group_names = (None, None, ()) if of is None else numbered(of, test_of)
    return Dataset(
        name,
        torch.from_numpy(x),
        torch.from_numpy(train_y),
        torch.from_numpy(test_x),
        torch.from_numpy(test_labels),
        labels.classes,
        None if groups is None else torch.from_numpy(groups),
        None if test_groups is None else torch.from_numpy(test_groups),
        class_names or labels.names,
        group_names,
    ).check()


def _open(name: str, parts: Parts) -> Mapping[str, Split]:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    folder = expanded(name)
    try:
        splits = library.load_from_disk(str(folder)) if folder.is_dir() else library.load_dataset(name)
    # The library raises many kinds of errors (network, hub, format); all mean that the data cannot be loaded.
    except Exception as error:
        raise DataError(f"{name} cannot be loaded ({cut(error)}); check the name and the connection") from error
    if isinstance(splits, Mapping):
        return cast("Mapping[str, Split]", splits)
    if parts.test is not None:
        raise DataError(f"{name} is a single split, without a test part; {_SPLITS}")
    return {parts.train: cast("Split", splits)}


def _plain(name: str, split: Split) -> Split:
    """Return a split whose rows are pictures and Python values, whatever format was set for its output."""
    if not hasattr(split, "__len__"):
        raise DataError(
            f"{name} is a stream ({type(split).__name__}), expected a data set in memory; load it without "
            "streaming=True, or collect it with datasets.Dataset.from_list(list(stream))"
        )
    form = getattr(split, "format", None)
    if not isinstance(form, Mapping) or form.get("type") in (None, "custom"):  # custom: the user's own transform
        return split
    return cast("Split", split.with_format(None))  # type: ignore[attr-defined]


def _row(name: str, split: Split, row: int) -> Mapping[str, object]:
    """Return one row; reading it decodes a picture and may run the user's own transform."""
    try:
        return cast("Mapping[str, object]", split[row])
    except Exception as error:
        raise DataError(
            f"{name}: row {row} cannot be read ({type(error).__name__}: {cut(error)}); correct that row, or the "
            "transform that was set for the data set"
        ) from error


def _column_of(name: str, split: Split, column: str) -> list[object]:
    """Return the values of a column; with a transform of the user's own, from whole rows."""
    form = getattr(split, "format", None)
    if isinstance(form, Mapping) and form.get("type") == "custom":
        return [_row(name, split, row)[column] for row in range(len(split))]
    return list(cast("Sequence[object]", split[column]))


def _column(name: str, split: Split, given: str | None, usual: Sequence[str], what: str) -> str:
    for column in [given] if given is not None else usual:
        if column in split.features:
            return column
    sought = repr(given) if given is not None else f"any of {', '.join(usual)}"
    raise DataError(
        f"{name} has no {what} column {sought}; it has {', '.join(split.features)}; set {what} to one of them"
    )


def _images(name: str, split: Split, column: str, size: int | None) -> NDArray[np.generic]:
    """Decode all images into one array (N, C, H, W), or (N, features)."""
    rows = range(len(split))
    pictures = (as_picture(_row(name, split, row)[column], f"{name}: image {row}") for row in rows)
    if size is not None:
        pictures = (_scaled(picture, size, f"{name}: image {row}") for row, picture in enumerate(pictures))
    return stack(pictures, len(split), name)


def _scaled(picture: NDArray[np.generic], size: int, where: str) -> NDArray[np.generic]:
    if picture.ndim != 3 or min(picture.shape[1:]) < size:
        raise DataError(
            f"{where} has shape {picture.shape}, expected a picture of at least {size} x {size} pixels, since they are "
            "only scaled down; choose a smaller data.size"
        )
    scaled: NDArray[np.generic] = shrink(torch.from_numpy(np.array(picture))[None], size)[0].numpy()
    return scaled


def _labels(name: str, split: Split, column: str) -> NDArray[np.generic]:
    try:
        return np.asarray(_column_of(name, split, column))
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{name}: column {column!r} is not a list of labels ({cut(error)}); choose another column"
        ) from error


def _values(name: str, split: Split, column: str | None) -> NDArray[np.str_] | None:
    if column is None:
        return None
    _column(name, split, column, (), "group")
    return np.asarray([str(value) for value in _column_of(name, split, column)])


@register("data")
@dataclass(frozen=True)
class HuggingFace:
    """A Hugging Face data set by name (extra ``datasets``).

    Args:
        dataset: Its name, or a folder that ``save_to_disk`` wrote.
        image: Column of the inputs; None to find it.
        label: Column of the labels; None to find it.
        group: Column with the natural client.
        train: Name of the training split.
        test: Name of the test split; not used with ``test_share``.
        test_share: Share of the training rows that is held out as the test part, for sets without a test split.
        size: Height and width to which pictures of different sizes are scaled down.
    """

    name: ClassVar[str] = "huggingface"
    dataset: str
    image: str | None = None
    label: str | None = None
    group: str | None = None
    train: str = field(default="train", metadata=LEFT_OUT_AT_DEFAULT)
    test: str = field(default="test", metadata=LEFT_OUT_AT_DEFAULT)
    test_share: float | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)
    size: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse([] if self.size is None else whole(self, "size", minimum=1))
        self._parts()

    def load(self) -> Dataset:
        """Load it through the library; see :func:`load`."""
        return load(self.dataset, Columns(self.image, self.label, self.group, self.size), self._parts())

    def _parts(self) -> Parts:
        return Parts(self.train, self.test) if self.test_share is None else Parts(self.train, None, self.test_share)
