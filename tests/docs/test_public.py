"""What `fedlama` exports is documented, and the pages import nothing else: it is what a version promises."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import fedlama
from tests.docs.blocks import DOCS, ROOT, blocks

REFERENCE = DOCS / "reference"
DOCUMENTED = [
    name for page in sorted(REFERENCE.glob("*.md")) for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
]
PYTHON = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if blocks(page))]


def defined(module: str) -> set[str]:
    """Return the names that a module defines itself, which is what its page shows."""
    names = set()
    for node in ast.parse(Path(str(import_module(module).__file__)).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


SHOWN = {name for module in DOCUMENTED for name in defined(module)}


@pytest.mark.parametrize(
    "name", [name for name in fedlama.__all__ if not isinstance(getattr(fedlama, name), ModuleType)]
)
def test_an_exported_name_is_documented(name: str) -> None:
    assert name in SHOWN, f"no page of docs/reference shows the module that defines {name}"


@pytest.mark.parametrize("package", ["data", "models"])
def test_every_module_of_an_exported_package_is_documented(package: str) -> None:
    folder = Path(str(import_module(f"fedlama.{package}").__file__)).parent
    public = set(import_module(f"fedlama.{package}").__all__) & {file.stem for file in folder.glob("*.py")}
    assert [name for name in sorted(public) if f"fedlama.{package}.{name}" not in DOCUMENTED] == []


def test_names_that_are_imported_at_their_first_use_exist() -> None:
    assert set(fedlama._LATER) <= set(fedlama.__all__)
    assert set(fedlama.__all__) <= set(dir(fedlama))
    with pytest.raises(AttributeError, match="no attribute 'FedLarma'"):
        _ = fedlama.FedLarma  # type: ignore[attr-defined]


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = re.compile(rf"[\"']{re.escape(project['version'])}[\"']")
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert [file for file in sources if written.search(file.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_teach_imports_from_fedlama_only(page: Path) -> None:
    """Apps of a deployment are the exception: Flower loads them by their path, so `fedlama.flower` is public too."""
    for block in blocks(page):
        if block.kind != "python":
            continue
        for node in ast.walk(ast.parse(block.text)):
            if isinstance(node, ast.Import):
                assert {alias.name for alias in node.names if alias.name.startswith("fedlama")} <= {"fedlama"}, (
                    block.text
                )
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fedlama":
                assert node.module == "fedlama" or node.module.startswith("fedlama.flower"), block.text
                assert node.module != "fedlama" or {alias.name for alias in node.names} <= set(fedlama.__all__)
