"""Every picture of the pages is made by a command that stands on the page, and pages show no other ones."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import pytest

from tests.docs.blocks import DOCS, ROOT, blocks


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_pictures", DOCS / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_pictures"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_files_are_those_of_the_script(script: ModuleType) -> None:
    assert sorted(file.stem for file in (DOCS / "pictures").iterdir()) == sorted(each.name for each in script.PICTURES)


def test_a_page_that_shows_a_picture_has_its_command(script: ModuleType) -> None:
    for picture in script.PICTURES:
        page = DOCS / picture.page
        text = page.read_text(encoding="utf-8")
        assert f"](pictures/{picture.name}.png)" in text
        commands = [line for block in blocks(page) if block.kind == "sh" for line in block.text.splitlines()]
        assert picture.command in commands or f"`{picture.command}`" in text, picture.name
        command = picture.command.split()
        assert command[0] in ("fedlama", "python") or (ROOT / picture.command).is_file()


def test_every_picture_of_a_page_exists_and_has_words(script: ModuleType) -> None:
    shown = set()
    for page in DOCS.rglob("*.md"):
        for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).is_file(), page
            assert len(words) > 10, f"{page}: {target} needs words for readers who do not see it"
            shown.add((page.parent / target).stem)
    # `methods` comes from forty minutes of benchmarks.methods, by the command on its page.
    assert shown - {"methods"} == {each.name for each in script.PICTURES}
