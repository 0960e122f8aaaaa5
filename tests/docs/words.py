"""Words that the style page of CONTRIBUTING.md replaces, and where they still occur in sources and pages.

`python -m tests.docs.words` lists what it finds, room by room; with arguments only in files whose path contains one.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.blocks import DOCS, ROOT

SOURCES = ("src", "examples", "benchmarks")
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md")

BANNED = {
    r"(?<!there )\b(?:is|are) no\b(?! (?:longer|more|less|larger|smaller|fewer|\w+er)\b)": "'is not a valid X'",
    r"\b(?:told|tells?|telling)\b": "'reports', 'shows', 'says which'",
    r"\b(?:lies|lie|lying)\b": "'is', 'is stored'",
    r"\b(?:stands|stand|standing|stood)\b(?! (?:for|alone)\b)": "'is', 'is written'",
    r"\banew\b": "'again'",
    r"\bwho(?:m)?ever\b": "'the caller', 'each client that'",
    r"\bso many\b": "a number, or 'count'",
    r"\b(?:some|no)body\b": "the role: 'the caller', 'no client'",
    r"\bto be had\b": "'available'",
    r"\bmidst\b": "'during'",
    r"\bmeanwhile\b": "'in the meantime'",
    r"\btravel(?:s|led|ling)?\b": "'is sent', 'is synchronised'",
    r"\bshipments?\b": "'transfer'",
    r"\bcargo(?:es)?\b": "'payload'",
    r"\broster\b": "'node registry'",
    r"\bseat(?:s|ed|ing)?\b": "'slot', 'start_cohort'",
    r"\bletters?\b": "'message'",
    r"\bserver steps?\b": "'server optimizer'",
    r"\bguards?\b": "'aggregator'",
}
"""What is not written, and what is written instead."""

ALLOWED = (
    r"lies between -?[\w.']+ (?:%\s)?and",  # a number in an interval
    r"[\"'`](?:guard|server_step|memory_scope)[\"'`]",  # the old keys of configuration files
    r"server_step|guard\.",
    r"\"shipments\"|called a shipment",  # a key of ledger.jsonl
    r"letters, \"?(?:digits)?|``letters``|\"letters\"",  # of the alphabet
)
"""Places where a word has its ordinary meaning, by their context."""

VAGUE_NAMES = frozenset({"one", "place", "found", "own"})
"""Names of local variables that do not say what they hold."""


class Finding(NamedTuple):
    """One banned word.

    Attributes:
        file: Where it is, relative to the repository.
        line: Its line, from 1.
        word: The word.
        remedy: What is written instead.
        text: The line.
    """

    file: Path
    line: int
    word: str
    remedy: str
    text: str


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Return the lines that a person reads: all of a page, comments and strings of a program.

    Args:
        file: A Markdown or Python file.

    Yields:
        Line numbers from 1, and texts.
    """
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".py":
        old = file.name in ("CONTRIBUTING.md", "CHANGELOG.md")  # their tables show the words of before
        lines = enumerate(text.splitlines(), 1)
        yield from ((number, line) for number, line in lines if not (old and line.lstrip().startswith("| ")))
        return
    kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING))
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds:
            yield from enumerate(token.string.splitlines(), token.start[0])


def replaced(text: str) -> list[tuple[str, str]]:
    """Return the words of a line that are not written, each with what is written instead.

    >>> replaced("'x' is no override, but there is no error")
    [('is no', "'is not a valid X'")]
    >>> replaced("C lies between 25 % and 100 %; the file lies there")
    [('lies', "'is', 'is stored'")]
    """
    allowed = [match for pattern in ALLOWED for match in re.finditer(pattern, text, re.IGNORECASE)]
    return [
        (match[0], remedy)
        for pattern, remedy in BANNED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
        if not any(context.start() <= match.start() < context.end() for context in allowed)
    ]


def files() -> list[Path]:
    """Return all sources and pages."""
    pages = [ROOT / name for name in PAGES if (ROOT / name).exists()]
    return [
        *pages,
        *sorted(DOCS.rglob("*.md")),
        *(f for folder in SOURCES for f in sorted((ROOT / folder).rglob("*.py"))),
    ]


def findings(file: Path) -> list[Finding]:
    """Return the banned words of a file."""
    return [
        Finding(file.relative_to(ROOT), number, word, remedy, text.strip())
        for number, text in prose(file)
        for word, remedy in replaced(text)
    ]


def vague_names(file: Path) -> list[Finding]:
    """Return the local variables, arguments included, whose name does not say what they hold."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    bound = [
        (node.lineno, node.id if isinstance(node, ast.Name) else node.arg)
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)) or isinstance(node, ast.arg)
    ]
    return [
        Finding(file.relative_to(ROOT), line, name, "a name that says what it holds", "")
        for line, name in bound
        if name in VAGUE_NAMES
    ]


def main() -> None:
    """Print every finding, room by room; with arguments, only of files whose path contains one of them."""
    listed: dict[str, list[Finding]] = {}
    for file in files():
        if sys.argv[1:] and not any(part in file.as_posix() for part in sys.argv[1:]):
            continue
        parts = file.relative_to(ROOT).parts
        room = "/".join(parts[:3]) if parts[0] == "src" else parts[0]
        names = vague_names(file) if file.suffix == ".py" else []
        listed.setdefault(room, []).extend(sorted([*findings(file), *names]))
    for room, found in listed.items():
        print(f"\n{room}: {len(found)}")
        for item in found:
            print(f"  {item.file}:{item.line}: {item.word} -> {item.remedy}   | {item.text[:110]}")


if __name__ == "__main__":
    main()
