"""Every command and every piece of code on the pages runs, one after another, as a reader would do it.

Only seeds and steps are fewer, two seeds where a page takes three or more, and 96 local steps in a comparison whose
length is that of the experiment: no table of a page is compared here.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.call import fedlama
from tests.docs.blocks import DOCS, blocks, pages


def call(line: str) -> None:
    """Run one line of a shell block; other programs than `fedlama` must be marked."""
    words = shlex.split(re.sub(r"--seeds [3-9]\b(?!,)", "--seeds 2", line), comments=True)
    if not words:
        return
    assert words[0] == "fedlama", f"mark the block as not run, or let it run: {line}"
    if words[1:2] == ["compare"] and not re.search(r"local_steps|rounds=|\.toml", line):
        words.append("local_steps=96")
    called = fedlama(*words[1:])
    assert (called.code, called.err) == (0, ""), line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all pages, so that what one page has trained another takes."""
    return tmp_path_factory.mktemp("reader")


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_runs_from_top_to_bottom(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    torch.set_num_threads(1)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.file and Path(block.file).is_absolute():
            continue  # a file of the system, which a test leaves alone
        if block.file:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.run and block.kind == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                call(line)
        elif block.run and block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block.text, str(page), "exec", dont_inherit=True), names)
        else:
            assert not block.run or block.kind in ("toml", "text", "csv", "rooms"), (
                f"{page}: a {block.kind} block cannot be run"
            )


def test_there_is_something_to_run() -> None:
    found = [page.name for page in pages()]
    assert {"tutorial.md", "strategy.md", "codec.md", "model-and-data.md", "links.md", "compare.md"} <= set(found)
