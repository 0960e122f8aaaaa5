"""Sources and pages use the words of the style page in CONTRIBUTING.md, and local names say what they hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.docs.words import files, findings, vague_names


def room(file: Path) -> str:
    """Return the part of the project that a file belongs to."""
    parts = file.relative_to(ROOT).parts
    return "/".join(parts[:3] if parts[0] == "src" else parts[:1])


ROOMS = sorted({room(file) for file in files()})


@pytest.mark.parametrize("name", ROOMS)
def test_prose_uses_the_words_of_the_style_page(name: str) -> None:
    found = [finding for file in files() if room(file) == name for finding in findings(file)]
    assert not found, "\n".join(f"{f.file}:{f.line}: {f.word!r}: write {f.remedy}: {f.text}" for f in found)


NAMED = [name for name in ROOMS if name.startswith(("src/", "examples", "benchmarks"))]
"""Rooms whose local names are checked."""


@pytest.mark.parametrize("name", NAMED)
def test_local_names_say_what_they_hold(name: str) -> None:
    named = [item for file in files() if room(file) == name and file.suffix == ".py" for item in vague_names(file)]
    assert not named, "\n".join(f"{f.file}:{f.line}: {f.word!r} is {f.remedy}" for f in named)
