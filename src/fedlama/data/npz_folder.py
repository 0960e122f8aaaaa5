"""Load arrays from a folder with train.npz and test.npz."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.registry import register
from fedlama.data.arrays import Dataset
from fedlama.data.files import Readable, locate, read_header, read_up_to
from fedlama.errors import DataError, cut

_Arrays = dict[str, NDArray[np.generic]]


def load(path: Path | str, classes: int | None = None, *, channels_last: bool = False, limit: int = 8 << 30) -> Dataset:
    """Load arrays that were written with NumPy.

    Args:
        path: Folder with ``train.npz`` and ``test.npz``. Each holds ``x`` (N, ...) of uint8, an integer or a float
            type, ``y`` (N,) or (N, T) of integers, and, if there are natural clients, ``group`` (N,) of integers.
        classes: Number of classes; None for the largest label plus one.
        channels_last: Whether images are (N, H, W, C), to be turned into (N, C, H, W).
        limit: Largest number of bytes of one array, checked before it is read.

    Returns:
        uint8 ``x`` stays uint8 and gets a channel dimension if it is (N, H, W); other integers become int64, floats
        float32.

    Raises:
        DataError: If a file or an array is missing, is not a plain array of numbers, or is larger than ``limit``.

    Write such a file with ``numpy.savez_compressed("train.npz", x=x, y=y, group=group)``.
    """
    train, test = (_read(locate(path, [f"{part}.npz"]), limit) for part in ("train", "test"))
    train_y, test_y = _integers(train, "y", path), _integers(test, "y", path)
    count = classes if classes is not None else int(max(train_y.max(initial=0), test_y.max(initial=0))) + 1
    return Dataset(
        Path(path).name,
        _inputs(train["x"], channels_last),
        torch.from_numpy(train_y),
        _inputs(test["x"], channels_last),
        torch.from_numpy(test_y),
        count,
        torch.from_numpy(_integers(train, "group", path)) if "group" in train else None,
        torch.from_numpy(_integers(test, "group", path)) if "group" in test else None,
    ).check()


def _inputs(x: NDArray[np.generic], channels_last: bool) -> torch.Tensor:
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # values that do not fit become infinite, which `Dataset.check` reports
            x = x.astype(np.float32 if np.issubdtype(x.dtype, np.floating) else np.int64)
    elif x.ndim == 3:
        x = x[:, None]  # (rows, 1, height, width)
    if channels_last and x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x))


def _integers(arrays: _Arrays, key: str, path: Path | str) -> NDArray[np.int64]:
    if not np.issubdtype(arrays[key].dtype, np.integer):
        raise DataError(f"{path}: array {key!r} is {arrays[key].dtype}, expected integers")
    return arrays[key].astype(np.int64)


def _read(file: Path, limit: int) -> _Arrays:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            missing = [key for key in ("x", "y") if f"{key}.npy" not in names]
            if missing:
                raise DataError(
                    f"{file} has no array {' and '.join(missing)}, only {cut(', '.join(names)) or 'nothing'}"
                )
            wanted = [key for key in ("x", "y", "group") if f"{key}.npy" in names]
            return {key: _member(archive, key, file, limit) for key in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read as .npz ({cut(error)}); write it again with numpy.savez_compressed"
        ) from error


def _member(archive: zipfile.ZipFile, key: str, file: Path, limit: int) -> NDArray[np.generic]:
    """Read one array; the sizes in zip and header and the limit are compared before memory is reserved."""
    where = f"{file}, array {key!r}"
    info = archive.getinfo(f"{key}.npy")
    declared = info.file_size
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others can grow without a useful bound
        raise DataError(f"{where} is not compressed as numpy does; write it again with numpy.savez_compressed")
    if declared > limit:
        raise DataError(
            f"{where} unpacks to {declared} bytes, above the limit of {limit}; raise `limit` if that is right"
        )
    with archive.open(f"{key}.npy") as stream:
        shape, fortran, dtype = read_header(cast(Readable, stream), where)
        expected = math.prod(shape) * dtype.itemsize
        if expected > declared:
            raise DataError(
                f"{where} says {dtype} {shape}, {expected} bytes, but unpacks to {declared}; write it again"
            )
        body = read_up_to(stream, expected + 1)
    if len(body) != expected:
        raise DataError(f"{where} says {dtype} {shape}: expected {expected} bytes, found {len(body)}; write it again")
    return np.frombuffer(body, dtype).reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="))


@register("data")
@dataclass(frozen=True)
class Arrays:
    """A folder with ``train.npz`` and ``test.npz``.

    Args:
        path: The folder.
        classes: Number of classes; None for the largest label plus one.
        channels_last: Whether images are (N, H, W, C).
    """

    name: ClassVar[str] = "npz"
    path: Path
    classes: int | None = None
    channels_last: bool = False

    def load(self) -> Dataset:
        """Read the arrays; see :func:`load`."""
        return load(self.path, self.classes, channels_last=self.channels_last)
