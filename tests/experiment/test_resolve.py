"""From plain keys to an experiment: every choice can be named, and nothing unknown passes."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from fedlama import ConfigError
from fedlama.core.layers import by_mapping
from fedlama.experiment import names, read, resolve
from fedlama.experiment.sections import SECTIONS, options
from tests.experiment.helpers import experiment, federation

REQUIRED = {
    "path": "somewhere",
    "target": "y",
    "dataset": "someone/something",
    "clients": 3,
    "active": 2,
    "base_interval": 3,
    "increase_factor": 2,
    "recycled_layers": 1,
    "learning_rate": 0.1,
    "parts": [{"name": "top-k"}, {"name": "sign"}],
    "up": {"name": "sign"},
    "down": {"name": "float16"},
}
CHOICES = [(section, name) for section in SECTIONS for name in options(section)]


def table(section: str, name: str) -> dict[str, object]:
    """A choice's name and the least it needs."""
    choice = options(section)[name]
    needed = [f.name for f in fields(choice) if f.default is MISSING and f.default_factory is MISSING]
    extra = {
        "mapping": {"groups": {"all": ["weight"]}},
        "trace": {"absences": [{"client": 0, "first_round": 1, "last_round": 2}]},
    }
    return {"name": name, **{key: REQUIRED[key] for key in needed}, **extra.get(name, {})}


@pytest.mark.parametrize(("section", "name"), CHOICES, ids=[f"{s}.{n}" for s, n in CHOICES])
def test_every_choice_can_be_named(section: str, name: str) -> None:
    own = getattr(resolve({section: table(section, name)}), section)
    assert type(own) is options(section)[name]
    written = resolve({section: table(section, name)}).to_json()[section]
    assert isinstance(written, dict)
    assert written["name"] == name


@pytest.mark.parametrize(("section", "name"), CHOICES, ids=[f"{s}.{n}" for s, n in CHOICES])
def test_every_choice_refuses_unknown_keys(section: str, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown key '{section}\.zzz'; known are: "):
        resolve({section: table(section, name) | {"zzz": 1}})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_section_corrects_names(section: str) -> None:
    name = next(iter(options(section)))
    with pytest.raises(ConfigError, match=rf"{section}\.name is '{name}x'; did you mean "):
        resolve({section: {"name": f"{name}x"}})


def test_every_section_has_a_default() -> None:
    own = resolve({})
    assert all(getattr(own, name) == section.default for name, section in SECTIONS.items())


@pytest.mark.parametrize("name", names())
def test_packaged_experiments_resolve_to_what_they_write(name: str) -> None:
    own = resolve(read(name))
    written = own.to_json()
    assert written["name"] == name
    assert resolve(written) == own


def test_a_section_keeps_what_the_new_name_can_take() -> None:
    raw = read("digits", ["strategy.name=fedluar", "strategy.recycled_layers=1"])
    assert raw["strategy"] == {"name": "fedluar", "base_interval": 6, "recycled_layers": 1}
    assert read("digits", ["model.name=small-cnn"])["model"] == {"name": "small-cnn"}
    assert read("digits", ["solver.name=fedprox"])["solver"] == {
        "name": "fedprox",
        "learning_rate": 0.1,
        "momentum": 0.9,
        "decay_at": [720],
    }


def test_the_same_name_drops_nothing() -> None:
    assert read("digits", ["strategy.name=fedlama"]) == read("digits")


def test_natural_clients_are_all_clients() -> None:
    assert read("digits", ["partition.name=natural"])["partition"] == {"name": "natural"}
    assert read("digits", ["partition.name=iid"])["partition"] == {"name": "iid", "clients": 32}


def test_keys_given_before_the_name_count() -> None:
    assert read("digits", ["model.hidden=5", "model.name=small-cnn"])["model"] == {"name": "small-cnn", "hidden": 5}
    raw = read("digits", ["strategy.recycled_layers=1", "strategy.name=fedluar"])
    assert resolve(raw).strategy.recycled_layers == 1


def test_mistakes_are_not_dropped_with_the_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[solver]\nname = 'sgd'\nlearning_rate = 'fast'\n")
    with pytest.raises(ConfigError, match="learning_rate is 'fast'"):
        resolve(read(str(file), ["solver.name=fedprox"]))


def test_layers_of_the_users_own() -> None:
    groups = "layers.groups={first = ['dense0.weight', 'dense0.bias'], last = ['dense1.weight', 'dense1.bias']}"
    own = federation("layers.name=mapping", groups, "layers.adaptive=['last']")
    assert own.layers == by_mapping(
        own.model,
        {"first": ["dense0.weight", "dense0.bias"], "last": ["dense1.weight", "dense1.bias"]},
        adaptive=["last"],
    )


def test_settings_reach_the_federation() -> None:
    own = federation(
        *(
            "weighting=equal",
            "evaluate=best_client",
            "evaluate_every=6",
            "seed=5",
            "engine=stacked",
            "codec.name=float16",
        ),
        *("server_optimizer.name=momentum", "sampler.name=uniform", "sampler.active=2", "layers.name=module"),
    )
    assert (own.weighting, own.evaluate, own.evaluate_every, own.seed) == ("equal", "best_client", 6, 5)
    assert (own.engine, own.codec.name, own.server_optimizer.name) == ("stacked", "float16", "momentum")
    assert own.layers is not None
    assert [layer.name for layer in own.layers] == ["dense0", "dense1"]


def test_the_seed_decides_partition_and_weights() -> None:
    first, again, other = (federation(f"seed={seed}") for seed in (1, 1, 2))
    weights = [own.model.state_dict()["dense0.weight"] for own in (first, again, other)]
    assert weights[0].equal(weights[1])
    assert not weights[0].equal(weights[2])
    rows = [own.clients.rows[0].tolist() for own in (first, again, other)]
    assert rows[0] == rows[1] != rows[2]


def test_a_table_without_a_name_changes_the_default() -> None:
    own = resolve({"strategy": {"base_interval": 2, "increase_factor": 3}})
    assert own.strategy.name == "fedlama"


def test_a_budget_smaller_than_a_round() -> None:
    with pytest.raises(ConfigError, match="choose 3 or 6"):
        experiment("local_steps=2")
