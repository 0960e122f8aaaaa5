"""Load an image classification data set of the Hugging Face hub by its name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.data.arrays import Dataset
from fedlama.errors import ConfigError, DataError, MissingExtraError, cut, did_you_mean

IMAGE_COLUMNS = ("image", "img", "x", "pixel_values")
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
    """

    image: str | None = None
    label: str | None = None
    group: str | None = None


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
        if not 0 < self.test_share < 1:
            raise ConfigError(f"test_share is {self.test_share}, expected a share between 0 and 1")


_COLUMNS, _PARTS = Columns(), Parts()


def load(name: str, columns: Columns = _COLUMNS, parts: Parts = _PARTS) -> Dataset:
    """Load a data set by name, or from a folder written by ``save_to_disk``.

    Args:
        name: Name on the hub, such as ``"uoft-cs/cifar10"``, or a folder.
        columns: Which columns hold images, labels and clients.
        parts: Which splits to take.

    Returns:
        Images uint8 (N, C, H, W) or float32; labels int64 (N,); groups int64 (N,), numbered in the order of their
        sorted names.

    Raises:
        MissingExtraError: If the library ``datasets`` is not installed.
        DataError: If a split or a column is missing, or images differ in shape.

    Code that a data set on the hub may bring along is never run.
    """
    splits = _open(name)
    for wanted in [parts.train] if parts.test is None else [parts.train, parts.test]:
        if wanted not in splits:
            raise DataError(
                f"{name} has no split {wanted!r}{did_you_mean(wanted, splits)}; name it, "
                "or hold out rows with test=None"
            )
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
    image = _column(name, train, columns.image, IMAGE_COLUMNS, "image")
    label = _column(name, train, columns.label, LABEL_COLUMNS, "label")
    group = columns.group
    x, y, of = _images(name, train, image), _labels(name, train, label), _values(name, train, group)
    if test is None:
        order = permutation(parts.seed, "held out rows", len(y))
        held = max(1, round(len(y) * parts.test_share))
        rows, test_rows = np.sort(order[held:]), np.sort(order[:held])
        x, test_x, y, test_y = x[rows], x[test_rows], y[rows], y[test_rows]
        of, test_of = (of[rows], of[test_rows]) if of is not None else (None, None)
    else:
        for column, what in ((image, "image"), (label, "label")):
            _column(name, test, column, (), what)
        test_x, test_y = _images(name, test, image), _labels(name, test, label)
        test_of = _values(name, test, group) if group is not None and group in test.features else None
    class_names = tuple(getattr(train.features[label], "names", None) or ())
    classes = len(class_names) or int(max(y.max(initial=0), test_y.max(initial=0))) + 1
    groups, test_groups, group_names = _number(of, test_of)
    train_x, train_y, test_x_, test_y_ = (torch.from_numpy(array) for array in (x, y, test_x, test_y))
    return Dataset(
        name, train_x, train_y, test_x_, test_y_, classes, groups, test_groups, class_names, group_names
    ).check()


def _open(name: str) -> Mapping[str, Split]:
    try:
        library = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingExtraError("datasets", "datasets") from error
    try:
        splits = library.load_from_disk(name) if Path(name).is_dir() else library.load_dataset(name)
    # The library raises many kinds of errors (network, hub, format); all mean that the data cannot be loaded.
    except Exception as error:
        raise DataError(f"{name} cannot be loaded ({cut(error)}); check the name and the connection") from error
    if not isinstance(splits, Mapping):
        raise DataError(f"{name} is a single split; pass it to from_splits, with None for the missing test split")
    return cast("Mapping[str, Split]", splits)


def _column(name: str, split: Split, given: str | None, usual: Sequence[str], what: str) -> str:
    for column in [given] if given is not None else usual:
        if column in split.features:
            return column
    sought = repr(given) if given is not None else f"any of {', '.join(usual)}"
    raise DataError(
        f'{name} has no {what} column {sought}; it has {", ".join(split.features)}: pass {what}="..." with one of them'
    )


def _images(name: str, split: Split, column: str) -> NDArray[np.generic]:
    """Decode all images into one array (N, C, H, W), row by row so that only one decoded copy exists."""
    images: NDArray[np.generic] | None = None
    for row in range(len(split)):
        picture = _picture(cast("Mapping[str, object]", split[row])[column], f"{name}: image {row}")
        if images is None:
            images = np.empty((len(split), *picture.shape), picture.dtype)  # (rows, channels, height, width)
        if picture.shape != images.shape[1:]:
            raise DataError(
                f"{name}: image {row} has shape {picture.shape}, the first {images.shape[1:]} (C, H, W); "
                "images must be alike: resize them with datasets.Dataset.map first"
            )
        images[row] = picture
    if images is None:
        raise DataError(f"{name}: the split is empty")
    return images


def _picture(value: object, where: str) -> NDArray[np.generic]:
    mode = getattr(value, "mode", None)
    if mode is not None and mode not in ("L", "RGB"):
        value = value.convert("L" if mode in ("1", "I;16", "LA") else "RGB")  # type: ignore[attr-defined]
    try:
        array: NDArray[np.generic] = np.asarray(value)
        if array.dtype != np.uint8:
            with np.errstate(over="ignore"):  # `Dataset.check` reports infinite values
                array = array.astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where} is not an array of numbers ({cut(error)}); choose another column") from error
    if array.ndim == 2:
        return array[None]
    # Pictures are (H, W, C); arrays that already have channels first stay as they are.
    return array.transpose(2, 0, 1) if array.ndim == 3 and array.shape[2] in (1, 3) else array


def _labels(name: str, split: Split, column: str) -> NDArray[np.int64]:
    try:
        labels = np.asarray(list(cast("Sequence[object]", split[column])))
    except (ValueError, OverflowError) as error:
        raise DataError(
            f"{name}: column {column!r} is not a list of integers ({cut(error)}); choose another column"
        ) from error
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{name}: column {column!r} holds {labels.dtype}, expected integers; use class_encode_column first"
        )
    return labels.astype(np.int64)


def _values(name: str, split: Split, column: str | None) -> NDArray[np.str_] | None:
    if column is None:
        return None
    _column(name, split, column, (), "group")
    return np.asarray([str(value) for value in cast("Sequence[object]", split[column])])


def _number(
    of: NDArray[np.str_] | None, test_of: NDArray[np.str_] | None
) -> tuple[torch.Tensor | None, torch.Tensor | None, tuple[str, ...]]:
    if of is None:
        return None, None, ()
    both = of if test_of is None else np.concatenate([of, test_of])
    names, index = np.unique(both, return_inverse=True)
    numbers = torch.from_numpy(index.astype(np.int64))
    test = numbers[len(of) :] if test_of is not None else None
    return numbers[: len(of)], test, tuple(str(name) for name in names)


@register("data")
@dataclass(frozen=True)
class HuggingFace:
    """A Hugging Face data set by name (extra ``datasets``).

    Args:
        dataset: Its name, or a folder that ``save_to_disk`` wrote.
        image: Column of the inputs; None to find it.
        label: Column of the labels; None to find it.
        group: Column with the natural client.
    """

    name: ClassVar[str] = "huggingface"
    dataset: str
    image: str | None = None
    label: str | None = None
    group: str | None = None

    def load(self) -> Dataset:
        """Load it through the library; see :func:`load`."""
        return load(self.dataset, Columns(self.image, self.label, self.group))
