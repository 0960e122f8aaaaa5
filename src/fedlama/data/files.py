"""Find and read files of a user's data and settings without trusting them: clear messages, bounded memory."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from fedlama.core.paths import expanded
from fedlama.errors import DataError, cut, shown

CHUNK = 1 << 20


class Readable(Protocol):
    """An object with a method ``read``: a plain file, a gzip stream, a member of a zip archive."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes; an empty result means the end."""
        ...


def locate(
    path: Path | str,
    names: Sequence[str],
    folders: Sequence[str] = (),
    remedy: str = "download the data set there first",
) -> Path:
    """Find a file by its usual names, plain or compressed.

    Args:
        path: The folder of the data set, or one that contains a usual sub-folder.
        names: Accepted file names, best first; each is also tried with ``.gz``.
        folders: Usual sub-folders to look into after ``path`` itself.
        remedy: What to do when the folder has no such file.

    Returns:
        The first file found.

    Raises:
        DataError: If the folder or the file does not exist.
    """
    root = expanded(path)
    if not root.is_dir():
        kind = "a file" if root.exists() else "missing"
        counted = "" if root.is_absolute() else f"; relative paths count from the current folder, {Path.cwd()}"
        raise DataError(f"{root} is {kind}, expected the folder that holds {names[0]}; check the path{counted}")
    for folder in ("", *folders):
        for name in names:
            for candidate in (root / folder / name, root / folder / f"{name}.gz"):
                if candidate.is_file():
                    return candidate
    searched = " or ".join(str(root / folder) for folder in ("", *folders))
    raise DataError(f"none of {', '.join(names)} (or the same with .gz) is in {searched}; {remedy}")


@contextmanager
def opened(path: Path) -> Iterator[Readable]:
    """Open a file for reading, through gzip if its name ends in ``.gz``.

    Args:
        path: The file.

    Yields:
        The stream of plain bytes.

    Raises:
        DataError: If the file cannot be read, or its compression is damaged or cut off.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            yield stream
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file ({error}); download it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check the path and its permissions") from error


def read_up_to(stream: Readable, size: int) -> bytes:
    """Read at most ``size`` bytes; see :func:`read_buffer`."""
    return bytes(read_buffer(stream, size))


def read_buffer(stream: Readable, size: int) -> bytearray:
    """Read at most ``size`` bytes, reserving memory only for bytes that are really there.

    A single ``read(size)`` may reserve ``size`` bytes first, and ``size`` often comes from a header that is not
    trusted.

    Args:
        stream: The stream to read from.
        size: Largest number of bytes.

    Returns:
        The bytes; fewer than ``size`` when the stream ended.
    """
    pieces = bytearray()
    while len(pieces) < size:
        piece = stream.read(min(CHUNK, size - len(pieces)))
        if not piece:
            break
        pieces += piece
    return pieces


def read_whole(path: Path, limit: int) -> bytes:
    """Read a whole file of bounded size.

    Args:
        path: The file, plain or ``.gz``.
        limit: Largest number of bytes that it may hold, uncompressed.

    Returns:
        All its bytes, uncompressed.

    Raises:
        DataError: If it holds more than ``limit`` bytes or cannot be read.
    """
    with opened(path) as stream:
        content = read_up_to(stream, limit + 1)
    if len(content) > limit:
        raise DataError(f"{path} holds more than {limit} bytes, the limit; check that it is the right file")
    return content


_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decode_text(content: bytes, where: str) -> str:
    r"""Return the text of a file that a person or another program wrote, in UTF-8 with or without a byte-order mark.

    Args:
        content: The whole file.
        where: Its name for messages.

    Returns:
        The text without the mark that some editors write before it.

    Raises:
        DataError: It is not UTF-8; UTF-16 is named as such.

    >>> decode_text(b"\xef\xbb\xbfseed = 1", "mine.toml")
    'seed = 1'
    """
    if content.startswith(_UTF_16) or b"\0" in content[:CHUNK]:
        raise DataError(
            f"{where} is not UTF-8 text, but UTF-16 or binary; save it again with the encoding UTF-8 in your editor"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 text at byte {error.start}; save it again with the encoding UTF-8 in your editor"
        ) from error


HEADER_LIMIT = 4096
"""Longest header of an array that is read, in bytes."""
_DIMENSIONS, _LONGEST = 8, 1 << 40


Header = tuple[tuple[int, ...], bool, np.dtype[np.generic]]
"""Shape of an array, whether its elements are in Fortran order, and its dtype."""


def read_header(stream: Readable, where: str, *, text: bool = False) -> Header:
    """Read the header of an array of plain numbers.

    Args:
        stream: At the beginning of the array; afterwards at its first element.
        where: Name of the array for messages.
        text: Whether names are accepted too.

    Returns:
        Shape, whether the elements are in Fortran order, and dtype. Compare them with the number of bytes that are
        really there before reserving memory for the array.

    Raises:
        DataError: It is not an .npy array, it holds objects, or its shape is implausible.
    """
    try:
        version = np.lib.format.read_magic(stream)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](stream, max_header_size=HEADER_LIMIT)
    # NumPy parses the header as Python text, so damaged headers raise many kinds of exceptions.
    except Exception as error:
        raise DataError(f"{where} is not a plain .npy array ({cut(error)}); write it again with numpy.savez") from error
    if dtype.hasobject:
        raise DataError(
            f"{where} is {dtype} {shown(shape)}; objects are never read, because they can run code; write it as "
            "numbers, or as text with astype(str)"
        )
    expected = "numbers or text" if text else "integers or floats"
    if dtype.kind not in ("uifbUS" if text else "uifb"):
        raise DataError(f"{where} is {dtype} {shown(shape)}, expected {expected}; write it as {expected}")
    if len(shape) > _DIMENSIONS or not all(type(size) is int and 0 <= size <= _LONGEST for size in shape):
        raise DataError(f"{where} says the shape {shown(shape)}, which no array has; write it again with numpy.savez")
    return shape, fortran, dtype
