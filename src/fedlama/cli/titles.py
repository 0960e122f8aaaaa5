"""The titles of methods in tables of the command line: broken between settings, never inside of a word."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

_PART = re.compile(r".+?(?:\(| |$)")
"""What stays on a line: up to a space, or up to the bracket before an option's settings."""
_LEAST = 12
"""Characters of a column to which it may shrink."""


class Title:
    """A method's title in a cell; Rich itself breaks a word that is longer than the column anywhere.

    Args:
        text: The title; further lines of the cell after line breaks.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")

    def __str__(self) -> str:
        return "\n".join(self._lines)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """Yield the lines."""
        for line in self._lines:
            for part in broken(line, options.max_width):
                yield Text(part, overflow="fold")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the fewest and the most columns."""
        most = max(map(len, self._lines))
        return Measurement(min(_LEAST, most), most)


def broken(line: str, width: int) -> list[str]:
    """Return a title in lines of a width; a setting that is longer has its value on the next line.

    Args:
        line: The title.
        width: Characters of a line.

    >>> broken("FedLAMA(6, 4) + differences(bits=4)", 18)
    ['FedLAMA(6, 4) +', 'differences(', 'bits=4)']
    """
    lines = [""]
    parts = [each for part in _PART.findall(line) for each in ([part] if len(part.rstrip()) <= width else _pair(part))]
    for part in parts:
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return [each.rstrip() for each in lines]


def _pair(part: str) -> list[str]:
    """Return the name and the value of a setting."""
    return re.split("(?<==)", part)
