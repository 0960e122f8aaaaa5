"""What the pages name exists: files and functions, options, links, asks of the issue trackers."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import typer

from fedlama.analysis.links import PROFILES, show_rate
from fedlama.cli.app import app
from fedlama.engines import ENGINES
from fedlama.experiment.sections import SECTIONS, options
from tests.docs.blocks import DOCS, ROOT

PAPER = (DOCS / "paper-to-code.md").read_text(encoding="utf-8")
NAMED = re.findall(r"((?:`[\w.]+`(?:, | and )?)+) in `([\w/]+\.py)`", PAPER)


def members(tree: ast.Module) -> set[str]:
    """Names of a module: functions, classes, and the members of classes, also those set in constructors."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef):
                    found.add(f"{node.name}.{inner.name}")
                target = inner.target if isinstance(inner, ast.AnnAssign) else None
                if isinstance(target, ast.Name):
                    found.add(f"{node.name}.{target.id}")
                if isinstance(target, ast.Attribute):
                    found.add(f"{node.name}.{target.attr}")
    return found


def test_enough_is_mapped() -> None:
    assert len(NAMED) > 30


@pytest.mark.parametrize(("names", "file"), NAMED)
def test_the_map_names_what_exists(names: str, file: str) -> None:
    known = members(ast.parse((ROOT / "src" / "fedlama" / file).read_text(encoding="utf-8")))
    for name in re.findall(r"`([\w.]+)`", names):
        assert name in known, f"{file} has no {name}"


def test_every_line_of_the_algorithms_is_mapped() -> None:
    first, second = PAPER.split("## Algorithm 1")[1].split("## Algorithm 2")
    lines = [number for cell in re.findall(r"^\| ([\d, ]+) \|", first, re.MULTILINE) for number in cell.split(", ")]
    assert lines == [str(number) for number in range(1, 11)]
    for place in ("1, 2", "3, 4", "6, eq. 3", "7, eq. 4", "9"):
        assert f"| {place} |" in second
    for equation in ("eq. 2", "eq. 3", "eq. 4", "eq. 9"):
        assert equation in PAPER


def test_every_option_is_documented() -> None:
    page = (DOCS / "reference" / "command-line.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in ("compare", "run", "plan", "list", "config", "links", "report", "verify"):
        assert f"`fedlama {name}" in page
        for parameter in commands[name].params:
            for option in [one for one in parameter.opts if one.startswith("--")]:
                assert f"`{option}`" in page, f"{name} {option}"


def test_the_table_of_links_is_right() -> None:
    page = (DOCS / "how-to" / "links.md").read_text(encoding="utf-8")
    for name, link in PROFILES.items():
        assert isinstance(link.up, float)
        assert isinstance(link.down, float)
        assert f"| {name} | {show_rate(link.up)} | {show_rate(link.down)} |" in page


README = (ROOT / "README.md").read_text(encoding="utf-8")


def cells(text: str, header: str) -> list[list[str]]:
    """Return the cells of the table with a header, row by row."""
    table = text.split(header)[1].split("|\n", 2)[2].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]


def test_the_readme_lists_every_option_with_the_default_first() -> None:
    quoted = [[re.findall(r"`([\w-]+)`", cell) for cell in row] for row in cells(README, "| section | ")]
    rows = {names[0]: listed for names, listed in quoted}
    assert list(rows) == list(SECTIONS)
    for section, names in rows.items():
        first = SECTIONS[section].default.name
        assert names == [first, *sorted(set(options(section)) - {first})], section
    (engines,) = re.findall(r"`engine` \((.*?)\)", README, re.DOTALL)
    assert re.findall(r"`(\w+)`", engines) == ["auto", *sorted(set(ENGINES) - {"auto"})]


def test_the_readme_lists_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    listed = [name for row in cells(README, "| extra | ") for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(listed) == sorted(extras)


def test_the_examples_are_listed_in_their_order() -> None:
    scripts = sorted(file.name for file in (ROOT / "examples").glob("*.py"))
    assert re.findall(r"^\| `examples/(\d\d_\w+\.py)` \|", README, re.MULTILINE) == scripts
    gallery = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\*\*`python examples/(\d\d_\w+\.py)`", gallery, re.MULTILINE)) == scripts
    for each in [
        *(ROOT / "examples").glob("*.ipynb"),
        *(file.parent for file in (ROOT / "examples").glob("*/README.md")),
    ]:
        assert f"`examples/{each.name}`" in gallery


def test_the_reference_has_the_module_of_every_option() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE))
    modules = {option.__module__ for section in SECTIONS for option in options(section).values()}
    assert sorted(modules - documented) == []


def test_the_pages_on_codecs_and_solvers_list_every_name() -> None:
    for section, page in (("codec", "codecs"), ("solver", "training"), ("task", "tasks")):
        text = (DOCS / "how-to" / f"{page}.md").read_text(encoding="utf-8")
        assert [name for name in options(section) if f"`{name}`" not in text] == [], page


def test_no_page_names_a_path_of_this_machine() -> None:
    for page in sorted(DOCS.rglob("*.md")):
        assert str(Path.home()) + "/" not in page.read_text(encoding="utf-8"), page


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_between_files_of_the_repository_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (ROOT / target).exists(), target


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/performance.md"])
def test_the_files_and_folders_that_a_page_for_contributors_names_exist(page: str) -> None:
    paths = [*(ROOT / "src").rglob("*"), *(ROOT / "tests").rglob("*"), *ROOT.glob("*"), *(ROOT / "docs").rglob("*")]
    known = [f"/{path.relative_to(ROOT).as_posix()}" for path in [*paths, ROOT / ".ci/run"]]
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`([\w./-]+(?:/|\.py|\.md))`", text) if "NAME" not in name}
    assert named
    assert [name for name in sorted(named) if not any(path.endswith(f"/{name.rstrip('/')}") for path in known)] == []
