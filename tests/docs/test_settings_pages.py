"""The pages on settings are filled from the options when the site is built: every name, setting, type and default."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from fedlama.experiment import load_experiment
from fedlama.experiment.listing import list_options
from fedlama.experiment.sections import SECTIONS, options
from tests.docs.blocks import DOCS, ROOT

FOLDER = DOCS / "reference" / "settings"
PAGES = sorted(FOLDER.glob("*.md"))


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("settings_hook", DOCS / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def filled(hook: ModuleType, section: str) -> str:
    page = FOLDER / f"{section.replace('_', '-')}.md"
    text: str = hook.on_page_markdown(page.read_text(encoding="utf-8"))
    return text


@pytest.mark.parametrize("section", [*SECTIONS, "engine"])
def test_a_page_has_every_name_with_the_default_first(section: str, hook: ModuleType) -> None:
    text = filled(hook, section)
    headed = re.findall(r"^## `([\w-]+)`( \(the default\))?", text, re.MULTILINE)
    listed = list_options(section if section in SECTIONS else "engines")
    assert sorted(name for name, _ in headed) == [option.name for option in listed]
    assert [bool(mark) for _, mark in headed] == [True] + [False] * (len(headed) - 1)
    for option in listed:
        entry = text.partition(f"## `{option.name}`")[2].partition("\n## ")[0]
        for setting in option.settings:
            assert f"| `{setting.name}` | {setting.meaning} | {setting.type} |" in entry, option.name


def test_a_setting_has_its_type_default_and_meaning(hook: ModuleType) -> None:
    strategy, keys = filled(hook, "strategy"), filled(hook, "keys")
    assert "| `base_interval` | tau', the base interval in local steps; 1 or more. | int | needed |" in strategy
    assert "In Python: [`fedlama.FedLAMA`][fedlama.choices.strategies.fedlama.FedLAMA]." in strategy
    assert "| `seed` | Decides every random draw, initial weights and partition included. | int | `0` |" in keys
    privacy = keys.partition("## `privacy`")[2]
    assert re.search(r"\| `privacy.clip` \| [^|]+ \| float \| `1.0` \|", privacy)
    assert "privacy.clip" not in keys.partition("## `")[0]
    assert "## With every name" in filled(hook, "data")


def test_a_link_leads_to_a_class_that_the_reference_shows(hook: ModuleType) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    documented = set(re.findall(r"^::: ([\w.]+)", pages, re.MULTILINE))
    for section in SECTIONS:
        targets = re.findall(r"\]\[(fedlama\.[\w.]+)\]", filled(hook, section))
        assert len(targets) == len(options(section))
        assert [target for target in targets if target.rpartition(".")[0] not in documented] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_example_of_a_page_is_an_experiment(page: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    file = tmp_path / "example.toml"
    file.write_text(f'extends = "digits"\nname = "example"\n{example}', encoding="utf-8")
    resolved = load_experiment(str(file)).to_json()
    for key, value in tomllib.loads(example).items():
        in_force = resolved[key]
        assert value.items() <= in_force.items() if isinstance(value, dict) else value == in_force  # type: ignore[attr-defined]


def test_every_page_is_in_the_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in PAGES if f": reference/settings/{page.name}" not in menu] == []
