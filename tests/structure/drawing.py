"""The picture of the rooms in docs/architecture.md, drawn from the list that the import test reads.

`python -m tests.structure.drawing` writes the picture into the page.
"""

from __future__ import annotations

import re

from tests.docs.blocks import DOCS
from tests.structure.source import floors

PAGE = DOCS / "architecture.md"
INNER = 60  # characters between the outer walls
_BLOCK = re.compile(r"(?<=<!-- picture of the rooms -->\n```text\n).*?(?=```)", re.DOTALL)


def picture(rooms: list[list[str]]) -> str:
    """Draw the floors, the highest one first.

    Args:
        rooms: The rooms, floor by floor, the lowest first.

    Returns:
        Lines of equal length.

    >>> print(picture([["errors"], ["models", "data"]]), end="")
    ┌──────────────────────────────┬─────────────────────────────┐
    │            models            │             data            │
    ├──────────────────────────────┴─────────────────────────────┤
    │                           errors                           │
    └────────────────────────────────────────────────────────────┘
    """
    lines, above = [], set[int]()
    for floor in reversed(rooms):
        widths = _widths(len(floor))
        walls = {sum(widths[: number + 1]) + number for number in range(len(widths) - 1)}
        lines.append(_beam(above, walls, first=not lines))
        lines.append("│" + "│".join(room.center(width) for room, width in zip(floor, widths, strict=True)) + "│")
        above = walls
    return "\n".join([*lines, "└" + "".join("┴" if at in above else "─" for at in range(INNER)) + "┘"]) + "\n"


def _widths(count: int) -> list[int]:
    """Share the inner width between the rooms of a floor, walls between them left out."""
    room, rest = divmod(INNER - (count - 1), count)
    return [room + (number < rest) for number in range(count)]


def _beam(above: set[int], below: set[int], *, first: bool) -> str:
    """Draw the line between two floors, which meets the walls of both."""
    joints = {(True, True): "┼", (True, False): "┴", (False, True): "┬", (False, False): "─"}
    beam = "".join(joints[at in above, at in below] for at in range(INNER))
    return f"┌{beam}┐" if first else f"├{beam}┤"


def drawn(page: str) -> str:
    """Return the page with the picture that its list of rooms asks for."""
    return _BLOCK.sub(lambda _: picture(floors()), page)


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
