"""Code blocks of a page, in their order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
_BLOCK = re.compile(
    r'(?P<mark><!-- not run: [^>]*-->\n)?^(?P<indent> *)```(?P<kind>\w+)(?: title="(?P<file>[^"]+)")?\n'
    r"(?P<text>.*?)^ *```",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        kind: Its language.
        text: Its lines, without indentation.
        file: The file that the reader saves it as, if any.
        run: False where a comment before it says that it cannot run here.
    """

    kind: str
    text: str
    file: str | None
    run: bool


def blocks(page: Path) -> list[Block]:
    """Return a page's blocks.

    Args:
        page: A Markdown file.
    """
    found = []
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        lines = [line.removeprefix(match["indent"]) for line in match["text"].splitlines()]
        found.append(Block(match["kind"], "\n".join(lines) + "\n", match["file"], match["mark"] is None))
    return found


def pages() -> list[Path]:
    """Return the pages with something to run; those on Flower and on performance have tests of their own."""
    own = {DOCS / "how-to" / "flower.md", DOCS / "performance.md"}
    return [page for page in sorted(DOCS.rglob("*.md")) if page not in own and blocks(page)]
