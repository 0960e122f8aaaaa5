"""Read single picture files with the Python Imaging Library, within bounds, scaled while they are read."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.data.reduction import shrink
from fedlama.errors import DataError, cut

Mode = Literal["RGB", "L"]
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
_MOST_PIXELS = 50_000_000


def read_picture(path: Path, mode: Mode, size: int | None = None) -> NDArray[np.uint8]:
    """Read a picture.

    Args:
        path: The file.
        mode: ``"RGB"`` for three channels, ``"L"`` for one, grey.
        size: Height and width to which it is scaled down, each pixel the average of its area; None to leave it.

    Returns:
        uint8 (channels, height, width).

    Raises:
        DataError: The file is missing or is not a picture, has too many pixels, or is smaller than `size`.
    """
    from PIL import Image  # most runs read no pictures

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:  # warnings of damaged metadata
            if picture.width * picture.height > _MOST_PIXELS:
                raise DataError(
                    f"{path} has {picture.width} x {picture.height} pixels, more than {_MOST_PIXELS}; scale it down"
                )
            array = np.asarray(picture.convert(mode))
    except DataError:
        raise
    except Exception as error:  # the library raises many kinds for damaged files
        raise DataError(f"{path} cannot be read as a picture ({cut(error)}); remove it, or write it again") from error
    channels = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)  # (channels, height, width)
    if size is None:
        return channels
    height, width = channels.shape[1:]
    if min(height, width) < size:
        raise DataError(
            f"{path} has {height} x {width} pixels, fewer than {size}, and pictures are only scaled down; choose a "
            f"size of {min(height, width)} or less, or leave the picture out"
        )
    scaled: NDArray[np.uint8] = shrink(torch.from_numpy(channels[None].copy()), size)[0].numpy()
    return scaled
