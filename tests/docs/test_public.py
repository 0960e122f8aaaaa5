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
from fedlama import flower
from tests.docs.blocks import DOCS, ROOT, blocks

REFERENCE = DOCS / "reference"
DOCUMENTED = [
    name for page in sorted(REFERENCE.glob("*.md")) for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)
]
PYTHON = [ROOT / "README.md", *(page for page in sorted(DOCS.rglob("*.md")) if blocks(page))]

EXAMPLES = sorted((ROOT / "examples").rglob("*.py"))
APPS = "fedlama.flower.apps"


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


def exported_by_apps() -> set[str]:
    """Return what apps of a deployment may import, without importing Flower."""
    code = ast.parse((ROOT / "src" / Path(*APPS.split(".")).with_suffix(".py")).read_text(encoding="utf-8"))
    (names,) = [
        node.value
        for node in code.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
    ]
    return set(ast.literal_eval(names))


PUBLIC = {"fedlama": set(fedlama.__all__), "fedlama.flower": set(flower.__all__), APPS: exported_by_apps()}


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
    assert set(fedlama.__all__) <= set(dir(fedlama))
    with pytest.raises(AttributeError, match="no attribute 'FedLarma'"):
        _ = fedlama.FedLarma  # type: ignore[attr-defined]


def test_the_version_is_written_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    written = re.compile(rf"[\"']{re.escape(project['version'])}[\"']")
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert [file for file in sources if written.search(file.read_text(encoding="utf-8"))] == []


def teaches(code: str) -> list[str]:
    """Return what code for readers imports of fedlama and is not public.

    Apps of a deployment are public too: Flower loads them by their path.
    """
    wrong = []
    for node in ast.walk(ast.parse(code)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            wrong += [name for name in names if name.startswith("fedlama.")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedlama":
            wrong += [f"{node.module}:{name}" for name in names if name not in PUBLIC.get(str(node.module), ())]
    return wrong


def attributes(code: str) -> list[str]:
    """Return attributes of `fl` or `fedlama` in code for readers that fedlama does not export."""
    named = [
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("fl", "fedlama")
    ]
    return [name for name in named if name not in {*fedlama.__all__, "__version__"}]


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_teach_what_fedlama_exports(page: Path) -> None:
    for block in blocks(page):
        if block.kind == "python":
            assert (teaches(block.text), attributes(block.text)) == ([], []), block.text


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_examples_use_what_fedlama_exports(script: Path) -> None:
    code = script.read_text(encoding="utf-8")
    assert (teaches(code), attributes(code)) == ([], [])
