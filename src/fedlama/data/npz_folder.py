"""Load arrays that were written with NumPy: a folder with train.npz and test.npz, or one file with both parts.

All headers are read and compared before any array is: a file whose headers contradict each other costs no memory.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.paths import expanded
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole
from fedlama.data.arrays import Dataset
from fedlama.data.files import HEADER_LIMIT, Readable, locate, read_buffer, read_header
from fedlama.data.labels import ClassNumbers, Integers, class_numbers, numbered
from fedlama.errors import DataError, cut

Targets = Literal["classes", "numbers"]
_Array = NDArray[np.generic]
_PARTS = ("train", "test")
_WHOLE_FILES = (
    {"x": "{part}_images", "y": "{part}_labels"},
    {"x": "x_{part}", "y": "y_{part}"},
    {"x": "{part}_x", "y": "{part}_y"},
)
"""Names of the arrays in one file with both parts, as MedMNIST, Keras and others write it."""
_REMEDY = "write train.npz and test.npz there, or give the path of one .npz file with both parts"
_CHANNELS = (1, 3, 4)


class _Member(NamedTuple):
    """One array in a file, known by its header.

    Attributes:
        file: The .npz file.
        key: The array's name in it.
        shape: Its shape.
        fortran: Whether its elements are in Fortran order.
        dtype: Its type.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[np.generic]

    def __str__(self) -> str:
        return f"{self.file}, array {self.key!r}"


def load(
    path: Path | str,
    classes: int | None = None,
    *,
    channels_last: bool = False,
    targets: Targets = "classes",
    limit: int = 8 << 30,
) -> Dataset:
    """Load arrays that were written with NumPy.

    Args:
        path: Folder with ``train.npz`` and ``test.npz``. Each holds ``x`` (N, ...) of uint8, an integer or a float
            type; ``y`` (N,), (N, 1) or one-hot (N, classes), of integers, whole floats or names, or (N, T) where ``x``
            are sequences of T positions; and, if there are natural clients, ``group`` (N,) of integers or names. Or one
            file with ``x_train``, ``y_train``, ``x_test``, ``y_test``, or with ``train_images``, ``train_labels``,
            ``test_images``, ``test_labels``.
        classes: Number of classes; None for the largest label plus one.
        channels_last: Whether images are (N, H, W, C), to be turned into (N, C, H, W).
        targets: ``"numbers"`` takes ``y`` as measurements, float32 (N,) or (N, targets): for regression, or, as 0 and
            1, for several labels of a row.
        limit: Largest number of bytes of one array, as stored or as loaded, checked before it is read.

    Returns:
        uint8 ``x`` stays uint8 and gets a channel dimension if it is (N, H, W); other integers become int64, floats
        float32. Labels are int64; see :func:`fedlama.data.labels.class_numbers`.

    Raises:
        DataError: If a file or an array is missing, is not a plain array of numbers, contradicts another, or is larger
            than ``limit``.

    Write such a file with ``numpy.savez_compressed("train.npz", x=x, y=y, group=group)``.
    """
    path = expanded(path)
    train, test = (_headers(path, part, limit) for part in _PARTS)
    _check_headers(train, test, channels_last)
    x = train["x"]
    per_position = (len(x.shape) > 2 or x.dtype.kind in "ui") and train["y"].shape == x.shape[:2]
    where = f"{path}: labels {train['y'].key!r}"
    if targets == "numbers":
        labels = _measurements(where, _read(train["y"]), _read(test["y"]))
    else:
        labels = class_numbers(where, _read(train["y"]), _read(test["y"]), classes=classes, per_position=per_position)
    groups, test_groups, group_names = _groups(train.get("group"), test.get("group"))
    return Dataset(
        path.name.removesuffix(".npz"),
        _inputs(_read(train["x"]), channels_last),
        torch.from_numpy(labels.train),
        _inputs(_read(test["x"]), channels_last),
        torch.from_numpy(labels.test),
        labels.classes,
        None if groups is None else torch.from_numpy(groups),
        None if test_groups is None else torch.from_numpy(test_groups),
        class_names=labels.names,
        group_names=group_names,
    ).check()


def _headers(path: Path, part: str, limit: int) -> dict[str, _Member]:
    """Read the headers of a part's arrays, by what they hold: ``x``, ``y`` and perhaps ``group``."""
    file = path if path.is_file() and path.suffix == ".npz" else locate(path, [f"{part}.npz"], remedy=_REMEDY)
    with _opened(file) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        keys: Mapping[str, str] = {"x": "x", "y": "y", "group": "group"}
        if file == path:
            layouts = [{what: key.format(part=part) for what, key in layout.items()} for layout in _WHOLE_FILES]
            keys = next((layout for layout in layouts if set(layout.values()) <= set(names)), {})
            if not keys:
                raise DataError(
                    f"{file} holds {cut(', '.join(names)) or 'nothing'}, expected x_train, y_train, x_test and y_test; "
                    "write it so, or as a folder with train.npz and test.npz"
                )
        missing = [key for what, key in keys.items() if key not in names and what != "group"]
        if missing:
            raise DataError(
                f"{file} has no array {' and '.join(missing)}, only {cut(', '.join(archive.namelist())) or 'nothing'}; "
                "write it again with numpy.savez_compressed(file, x=x, y=y)"
            )
        return {what: _header(archive, file, key, what, limit) for what, key in keys.items() if key in names}


def _header(archive: zipfile.ZipFile, file: Path, key: str, what: str, limit: int) -> _Member:
    """Read one header; the sizes in zip and header, and the limit, are compared before memory is reserved."""
    where = f"{file}, array {key!r}"
    info = archive.getinfo(f"{key}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others can grow without a useful bound
        raise DataError(f"{where} is not compressed as numpy does; write it again with numpy.savez_compressed")
    _check_limit(where, info.file_size, limit + HEADER_LIMIT)
    with archive.open(info) as stream:
        shape, fortran, dtype = read_header(cast(Readable, stream), where, text=what != "x")
        stored = info.file_size - stream.tell()
    expected = math.prod(shape) * dtype.itemsize
    if expected != stored:
        raise DataError(
            f"{where} says {dtype} {shape}, {expected} bytes, but unpacks to {stored}; write it again with "
            "numpy.savez_compressed"
        )
    _check_limit(where, math.prod(shape) * max(dtype.itemsize, _loaded_size(dtype)), limit)
    return _Member(file, key, shape, fortran, dtype)


def _loaded_size(dtype: np.dtype[np.generic]) -> int:
    """Return the bytes of one element once it is loaded; see :func:`_inputs`."""
    if dtype == np.uint8:
        return 1
    return 4 if dtype.kind == "f" else 8


def _check_limit(where: str, size: int, limit: int) -> None:
    if size > limit:
        raise DataError(
            f"{where} takes {size} bytes, above the limit of {limit}; store less, or load it in Python with "
            f"fedlama.data.npz_folder.load(path, limit={size})"
        )


def _check_headers(train: Mapping[str, _Member], test: Mapping[str, _Member], channels_last: bool) -> None:
    """Refuse arrays that contradict each other."""
    for part in (train, test):
        rows = {what: member.shape[0] if member.shape else 0 for what, member in part.items()}
        for what, name in (("y", "labels"), ("group", "groups")):
            if what in rows and rows[what] != rows["x"]:
                raise DataError(
                    f"{part[what]}: {rows['x']} inputs but {rows[what]} {name}; write one for each row of "
                    f"{part['x'].key!r}"
                )
        if not rows["x"]:
            raise DataError(f"{part['x']} has shape {part['x'].shape}: there are no rows; write the samples into it")
    x, other = train["x"], test["x"]
    if x.shape[1:] != other.shape[1:] or (x.dtype == np.uint8) != (other.dtype == np.uint8):
        raise DataError(
            f"{x} is {x.dtype} {x.shape}, but {other} is {other.dtype} {other.shape}; write both parts in the same form"
        )
    if x.dtype != np.uint8 or len(x.shape) != 4:
        return
    first, last = x.shape[1] in _CHANNELS, x.shape[3] in _CHANNELS
    if first != last and last != channels_last:
        order = "(height, width, channels)" if last else "(channels, height, width)"
        raise DataError(
            f"{x} holds images of shape {x.shape[1:]}, which looks like {order}; set channels_last to "
            f"{str(last).lower()}"
        )


def _groups(train: _Member | None, test: _Member | None) -> tuple[Integers | None, Integers | None, tuple[str, ...]]:
    """Read the natural clients; names are numbered in sorted order over both parts."""
    if train is None:
        return None, None if test is None else _integers(test), ()
    if train.dtype.kind not in "US":
        return _integers(train), None if test is None else _integers(test), ()
    try:
        return numbered(_read(train), None if test is None else _read(test))
    except ValueError as error:
        raise DataError(f"{train} holds text that cannot be decoded; write UTF-8 text or integers") from error


def _integers(member: _Member) -> Integers:
    if member.dtype.kind not in "ui" or len(member.shape) != 1:
        raise DataError(f"{member} is {member.dtype} {member.shape}, expected integers or names, one for each row")
    return _read(member).astype(np.int64)


def _measurements(where: str, train: _Array, test: _Array) -> ClassNumbers:
    """Return targets that are not classes, float32; a column of shape (N, 1) becomes (N,)."""
    parts = []
    for labels in (train, test):
        if labels.dtype.kind not in "biuf":
            raise DataError(f"{where} are {labels.dtype}, but measurements are numbers; set data.targets to 'classes'")
        values = labels.astype(np.float32)
        parts.append(values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values)
    return ClassNumbers(parts[0], parts[1], 0)


def _inputs(x: _Array, channels_last: bool) -> torch.Tensor:
    if x.dtype != np.uint8:
        with np.errstate(over="ignore"):  # values that do not fit become infinite, which `Dataset.check` reports
            x = x.astype(np.float32 if np.issubdtype(x.dtype, np.floating) else np.int64)
    elif x.ndim == 3:
        x = x[:, None]  # (rows, 1, height, width)
    if channels_last and x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(x))


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file} cannot be read as .npz ({cut(error)}); write it again with numpy.savez_compressed"
        ) from error


def _read(member: _Member) -> _Array:
    """Read an array whose header was checked."""
    with _opened(member.file) as archive, archive.open(f"{member.key}.npy") as stream:
        read_header(cast(Readable, stream), str(member), text=True)
        expected = math.prod(member.shape) * member.dtype.itemsize
        body = read_buffer(stream, expected + 1)
    if len(body) != expected:
        raise DataError(f"{member}: expected {expected} bytes, found {len(body)}; write it again")
    array = np.frombuffer(body, member.dtype).reshape(member.shape, order="F" if member.fortran else "C")
    return array.astype(member.dtype.newbyteorder("="), copy=False)


@register("data")
@dataclass(frozen=True)
class Arrays:
    """Arrays that NumPy wrote: a folder with ``train.npz`` and ``test.npz``, or one file with both parts.

    Args:
        path: The folder or the file; see :func:`load`.
        classes: Number of classes; None for the largest label plus one.
        channels_last: Whether images are (N, H, W, C).
        targets: ``"numbers"`` takes ``y`` as measurements, or as several labels of 0 and 1.
    """

    name: ClassVar[str] = "npz"
    path: Path
    classes: int | None = None
    channels_last: bool = False
    targets: Targets = field(default="classes", metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(one_of(self, "targets", ("classes", "numbers")))
        refuse(whole(self, "classes", minimum=1) if self.classes is not None else [])

    def load(self) -> Dataset:
        """Read the arrays; see :func:`load`."""
        return load(self.path, self.classes, channels_last=self.channels_last, targets=self.targets)
