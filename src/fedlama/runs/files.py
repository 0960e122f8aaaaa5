"""The only door to the files of a run folder: regular files, of bounded size, whose text is printable.

A run folder may come from another person. What is opened here is a regular file or a link to one, never a pipe or a
device, which would block or never end. What is read has a limit. Text that reaches a message or a page has its control
characters escaped, so that no file can send codes to the terminal of the person who reads it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedlama.errors import DataError, cut, printable

LARGEST_OBJECT = 1 << 24
"""Bytes of a file that holds one JSON object; the configuration of a model with 1,000 layers has less than 1 MiB."""
LONGEST_LINE = 1 << 26
"""Bytes of a line; one with 1,000 layers and 10,000 clients has less than 1 MiB."""
_NO_LINE = "expected one JSON object with a round in each line"


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading, without waiting for a pipe.

    Args:
        path: The file, or a link to one.

    Raises:
        FileNotFoundError: It does not exist.
        DataError: It is something else than a regular file, or cannot be opened.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{printable(path)} cannot be read ({reason}); give a run folder") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DataError(
            f"{printable(path)} is a pipe, a device or a folder, expected a regular file; train the run again in "
            "another folder"
        )
    return os.fdopen(handle, "rb")


def check_regular(path: Path) -> None:
    """Check a file that a library opens.

    Raises:
        FileNotFoundError: It does not exist.
        DataError: It is something else than a regular file, or cannot be opened.
    """
    open_regular(path).close()


def read_object(path: Path) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Args:
        path: The file.

    Returns:
        The object, with printable text.

    Raises:
        FileNotFoundError: It does not exist.
        DataError: It is not a regular file, too large, or not a JSON object.
    """
    with open_regular(path) as file:
        try:
            content = file.read(LARGEST_OBJECT + 1)
        except OSError as error:
            raise DataError(f"{printable(path)} cannot be read ({error.strerror}); check the disk") from error
    where = printable(path)
    if len(content) > LARGEST_OBJECT:
        raise DataError(f"{where} has more than {LARGEST_OBJECT >> 20} MiB, expected less; train the run again")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({cut(error)}); train the run again") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object; train the run again")
    cleaned: dict[str, Any] = printable_json(value)
    return cleaned


def printable_json(value: Any) -> Any:  # noqa: ANN401  (any JSON type)
    """Return JSON types with all text printable, the keys included.

    Args:
        value: Plain JSON types; stored ones are compared with others only after both went through this function.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(key): printable_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [printable_json(item) for item in value]
    return value


def read_lines(path: Path, lines: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the first lines of a file with one JSON object per line.

    Args:
        path: The file.
        lines: Number of lines.

    Yields:
        The number of each line, from 1, and its object with printable text; fewer than `lines` when the file ends
        before. A last line without its line feed, which a crash cut off, is left out.

    Raises:
        DataError: The file is missing or not regular, or a line is too long or not an object with a round.
    """
    with _open_stream(path) as file:
        for number in range(1, lines + 1):
            line = _line(file, path, number)
            if not line.endswith(b"\n"):
                return
            yield number, _object(line, f"{printable(path)}, line {number}")


def count_lines(path: Path) -> tuple[int, bool]:
    """Count the lines of a file.

    Args:
        path: The file.

    Returns:
        The number of lines with their line feed, and whether something follows them.

    Raises:
        DataError: The file is missing or not regular, or a line is too long.
    """
    with _open_stream(path) as file:
        number = 0
        while (line := _line(file, path, number + 1)).endswith(b"\n"):
            number += 1
        return number, bool(line)


def lines_digest(path: Path, lines: int, *, cut: bool = False) -> hashlib._Hash:
    """Hash the first lines of a file.

    Args:
        path: The file.
        lines: Number of lines.
        cut: Also delete everything after them.

    Returns:
        The SHA-256 of these lines, to which those that follow may be added.

    Raises:
        FileNotFoundError: It does not exist.
        DataError: It is not a regular file.
    """
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        for _ in range(lines):
            line = file.readline(LONGEST_LINE)
            digest.update(line)
            size += len(line)
    if cut:
        os.truncate(path, size)
    return digest


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: It does not exist.
        DataError: It is not a regular file.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open_stream(path: Path) -> io.BufferedReader:
    try:
        return open_regular(path)
    except FileNotFoundError as error:
        raise DataError(f"{printable(path)} cannot be read ({error.strerror}); give a run folder") from error


def _line(file: io.BufferedReader, path: Path, number: int) -> bytes:
    """Read the next line.

    Raises:
        DataError: It is too long, or the disk fails.
    """
    where = f"{printable(path)}, line {number}"
    try:
        line = file.readline(LONGEST_LINE)
    except OSError as error:
        raise DataError(f"{where} cannot be read ({error.strerror}); check the disk") from error
    if len(line) == LONGEST_LINE:
        raise DataError(f"{where} has {LONGEST_LINE >> 20} MiB or more, {_NO_LINE}; train the run again")
    return line


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not valid JSON ({cut(error)}), {_NO_LINE}; train the run again") from error
    if not isinstance(content, dict) or "round" not in content:
        raise DataError(f"{where} is not an object with a round, {_NO_LINE}; train the run again")
    cleaned: dict[str, Any] = printable_json(content)
    return cleaned
