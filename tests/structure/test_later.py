"""Packages that import their names at the first use list them twice; both lists say the same."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

from tests.structure.source import SRC

PACKAGES = [file.parent for file in sorted(SRC.rglob("__init__.py")) if "imported_later(globals()" in file.read_text()]


def name_of(package: Path) -> str:
    return ".".join(["fedlama", *package.relative_to(SRC).parts])


def for_type_checkers(package: Path) -> set[tuple[str, str]]:
    """Return the (module, name) pairs that a package imports under TYPE_CHECKING."""
    tree = ast.parse((package / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    return {
        (str(node.module), alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_the_packages_are_found() -> None:
    assert {"fedlama", "fedlama.data", "fedlama.experiment", "fedlama.runs"} <= set(map(name_of, PACKAGES))


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_both_lists_agree(package: Path) -> None:
    module = importlib.import_module(name_of(package))
    pairs = {(home, name) for home, names in module._HOMES.items() for name in names.split()}
    pairs |= {(home.rpartition(".")[0], home.rpartition(".")[2]) for home, names in module._HOMES.items() if not names}
    assert pairs == for_type_checkers(package)
    assert {name for _, name in pairs} == set(module.__all__)


@pytest.mark.parametrize("package", PACKAGES, ids=name_of)
def test_every_name_exists_and_is_not_hidden_by_a_module_of_that_name(package: Path) -> None:
    module = importlib.import_module(name_of(package))
    for home, names in module._HOMES.items():
        if home == "fedlama.flower.dropin.strategy" and importlib.util.find_spec("flwr") is None:
            continue
        for name in names.split():
            assert not (package / f"{name}.py").exists(), f"{home}: a module hides {name}"
            assert not (package / name).is_dir(), f"{home}: a package hides {name}"
            assert getattr(module, name) is getattr(importlib.import_module(home), name)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing
