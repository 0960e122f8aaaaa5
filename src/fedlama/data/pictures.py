"""Pictures and arrays of a data set's rows as one array (rows, channels, height, width), without changing a number.

The Python Imaging Library cuts values at 255 and rounds fractions to 0 when it converts a picture of more than 8 bits
to ``L`` or ``RGB``. So only pictures of 8 bits are converted; all others keep their numbers, as float32.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fedlama.errors import DataError, cut

Picture = NDArray[np.generic]

_TO_GREY = ("1", "LA")
_TO_COLOUR = ("P", "PA", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")
_AS_STORED = ("L", "RGB", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_MOST_CHANNELS = 4


def stack(pictures: Iterable[Picture], rows: int, where: str) -> Picture:
    """Put pictures into one array, one by one, so that only one decoded copy exists.

    Args:
        pictures: As :func:`as_picture` returns them.
        rows: How many there are.
        where: The data set's name for messages.

    Returns:
        Array (rows, ...) of their dtype. Grey pictures among coloured ones become coloured: three equal channels.

    Raises:
        DataError: There are none, or they differ in size or dtype.
    """
    stacked: Picture | None = None
    for row, picture in enumerate(pictures):
        if stacked is None:
            stacked = np.empty((rows, *picture.shape), picture.dtype)  # (rows, channels, height, width)
        if picture.dtype != stacked.dtype:
            raise DataError(
                f"{where}: image {row} is {picture.dtype}, the first {stacked.dtype}, so their numbers have different "
                "scales; convert all of them to one kind with datasets.Dataset.map, and save the result with "
                "save_to_disk"
            )
        if _is_grey(stacked.shape[1:], picture.shape):
            stacked = np.repeat(stacked, 3, axis=1)
        elif _is_grey(picture.shape, stacked.shape[1:]):
            picture = np.repeat(picture, 3, axis=0)
        if picture.shape != stacked.shape[1:]:
            raise DataError(
                f"{where}: image {row} has shape {picture.shape}, the first {stacked.shape[1:]}, expected one shape; "
                "set data.size to scale all of them down to one (in Python, Columns(size=32))"
            )
        stacked[row] = picture
    if stacked is None:
        raise DataError(f"{where}: the split is empty; choose another one")
    return stacked


def same_channels(train: Picture, test: Picture) -> tuple[Picture, Picture]:
    """Return both parts with three channels where only one of them is grey."""
    if _is_grey(train.shape[1:], test.shape[1:]):
        return np.repeat(train, 3, axis=1), test
    return train, np.repeat(test, 3, axis=1) if _is_grey(test.shape[1:], train.shape[1:]) else test


def as_picture(value: object, where: str) -> Picture:
    """Return one row's picture or array.

    Args:
        value: A picture of the Python Imaging Library, a tensor, an array, or nested lists of numbers.
        where: Which row it is, for messages.

    Returns:
        uint8 where the value has 8 bits, else float32. Pictures are (channels, height, width): grey ones have one
        channel, transparency is left out. A list of numbers is (features,).

    Raises:
        DataError: It is not a picture and not an array of numbers.
    """
    mode = getattr(value, "mode", None)
    try:
        if isinstance(mode, str):
            value = _converted(value, mode, where)
        array: Picture = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.dtype != np.uint8:
            with np.errstate(over="ignore"):  # `Dataset.check` reports infinite values
                array = array.astype(np.float32)
    except (ValueError, TypeError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{where} is not an array of numbers ({cut(error)}); choose another column") from error
    if array.ndim == 0:
        raise DataError(f"{where} is a single number, expected a picture or a list of numbers; choose another column")
    if array.ndim == 2:
        return array[None]
    return _channels_first(array, isinstance(value, Tensor))


def _converted(picture: object, mode: str, where: str) -> object:
    """Return a picture in a mode whose numbers can be taken as they are."""
    if mode in _AS_STORED:
        return picture
    if mode not in _TO_GREY + _TO_COLOUR:
        raise DataError(f"{where} has the mode {mode!r}, expected one such as 'L', 'RGB' or 'I;16'; convert it first")
    return picture.convert("L" if mode in _TO_GREY else "RGB")  # type: ignore[attr-defined]


def _channels_first(array: Picture, tensor: bool) -> Picture:
    """Return an array with its channels first, where its last dimension must be the channels."""
    if array.ndim != 3:
        return array
    first, last = array.shape[0] <= _MOST_CHANNELS, array.shape[2] <= _MOST_CHANNELS
    if first and last:  # very small pictures: tensors have channels first by convention, other arrays last
        last = not tensor and array.shape[2] in (1, 3)
    return array.transpose(2, 0, 1) if last else array


def _is_grey(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Return whether a shape is that of a grey picture, and the other that of a coloured one of the same size."""
    return len(shape) == len(other) == 3 and shape[0] == 1 and other == (3, *shape[1:])
