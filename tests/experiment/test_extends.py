"""`extends` takes another experiment's keys; a section may give a part of its keys; missing data name their key."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedlama.errors import ConfigError
from fedlama.experiment import load_experiment
from tests.cli.call import refused

BASE = """
extends = "digits"
rounds = 4
[strategy]
increase_factor = 2
[codec]
name = "differences"
bits = 2
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.toml"
    file.write_text(BASE, encoding="utf-8")
    return file


def test_keys_that_are_not_set_come_from_the_base(base: Path) -> None:
    packaged, mine = load_experiment("digits"), load_experiment(str(base))
    assert (mine.settings.rounds, mine.settings.local_steps) == (4, None)  # one budget, its own
    assert (mine.strategy.increase_factor, mine.strategy.base_interval) == (2, 6)
    assert mine.solver == packaged.solver
    assert mine.codec.bits == 2  # type: ignore[attr-defined]


def test_a_chain_of_experiments_from_several_folders(base: Path) -> None:
    inner = base.parent / "inner"
    inner.mkdir()
    (inner / "child.toml").write_text(
        'extends = "../base.toml"\nseed = 3\n[codec]\nname = "float16"\n', encoding="utf-8"
    )
    child = load_experiment(str(inner / "child.toml"), ["strategy.increase_factor=4"])
    assert (child.settings.seed, child.settings.rounds, child.strategy.increase_factor) == (3, 4, 4)
    assert child.codec.name == "float16"  # the bits belonged to the other codec
    assert child.digest() == load_experiment("digits", ["rounds=4", "seed=3", "codec=float16"]).digest()


def test_options_of_the_users_own_count_from_the_folder_of_their_file(base: Path) -> None:
    (base.parent / "mine.py").write_text(
        "from dataclasses import dataclass\nfrom fedlama import FedAvg\n@dataclass(frozen=True)\nclass Mine(FedAvg):\n"
        "    pass\n",
        encoding="utf-8",
    )
    base.write_text('[strategy]\nname = "mine.py:Mine"\nbase_interval = 5\n', encoding="utf-8")
    inner = base.parent / "inner"
    inner.mkdir()
    (inner / "child.toml").write_text('extends = "../base.toml"\n', encoding="utf-8")
    assert load_experiment(str(inner / "child.toml")).strategy.base_interval == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('extends = "base.toml"', r"base\.toml extends 'base\.toml', which extends it in turn; remove one of the two"),
        ("extends = 3", r"extends is 3 in .*base\.toml, expected a TOML file or an experiment's name; change it"),
        ('extends = "nothing.toml"', r"nothing\.toml cannot be read .* \(.*base\.toml extends 'nothing\.toml'\)"),
        ('extends = "digts"', r"the experiment is 'digts'; did you mean 'digits'\?.* extends 'digts'\)"),
    ],
)
def test_a_base_that_cannot_be_used(base: Path, text: str, message: str) -> None:
    base.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_experiment(str(base))


def test_two_that_extend_each_other(base: Path) -> None:
    base.write_text('extends = "other.toml"', encoding="utf-8")
    (base.parent / "other.toml").write_text('extends = "base.toml"', encoding="utf-8")
    with pytest.raises(ConfigError, match="in turn"):
        load_experiment(str(base))


def test_a_section_may_give_a_part_of_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "part.toml"
    file.write_text('[strategy]\nname = "fedlama"\ncutoff = "printed"\n[partition]\nalpha = 0.1\n', encoding="utf-8")
    part = load_experiment(str(file))
    assert (part.strategy.base_interval, part.strategy.increase_factor, part.strategy.cutoff) == (6, 4, "printed")
    assert (part.partition.clients, part.partition.alpha) == (32, 0.1)  # type: ignore[attr-defined]
    file.write_text('[strategy]\nname = "fedavg"\n', encoding="utf-8")  # not the default choice
    with pytest.raises(ConfigError, match=r"strategy\.base_interval is missing"):
        load_experiment(str(file))


def test_missing_data_name_the_key() -> None:
    (problem,) = refused("plan", "cifar10-resnet20", "data.path=/nowhere")
    assert problem.endswith("(the experiment has data.path=/nowhere; add data.path=... with your path)")
