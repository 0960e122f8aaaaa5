"""`fedlama list` shows what can be named, with every setting; `fedlama config` prints what is in force, to be saved."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from fedlama.experiment import load_experiment, names
from fedlama.experiment.listing import kinds, list_options, option_of, shared_option
from fedlama.experiment.sections import SECTIONS, options
from fedlama.experiment.settings import Settings
from tests.cli.call import fedlama, refused


def test_without_a_kind_every_name_is_listed() -> None:
    listed = fedlama("list", "--json").json
    assert listed["experiments"] == names()
    for section in SECTIONS:
        assert listed[section] == sorted(options(section))
    shown = fedlama("list").out
    assert all(name in shown for name in ("fedluar", "npz", "workers", "tinyshakespeare"))


@pytest.mark.parametrize("section", list(SECTIONS))
def test_each_setting_has_a_type_a_default_and_a_sentence(section: str) -> None:
    for option in [*list_options(section), *filter(None, [shared_option(section)])]:
        assert option.meaning.endswith((".", ":")), option
        for setting in option.settings:
            assert setting.type
            assert len(setting.meaning) > 8, f"{section} {option.name}: no sentence about {setting.name}"
            assert "see " not in setting.meaning[-30:] or "`" not in setting.meaning


def test_each_key_outside_of_the_sections_has_a_sentence() -> None:
    settings = option_of("", Settings).settings
    assert {"seed", "local_work", "patience"} <= {setting.name for setting in settings}
    assert all(len(setting.meaning) > 8 for setting in settings)


def test_a_kind_is_named_in_the_singular_or_plural() -> None:
    one, many = fedlama("list", "server_optimizer", "--json").json, fedlama("list", "server-optimizers", "--json").json
    assert one == many
    nesterov = next(option for option in one["options"] if option["name"] == "nesterov")
    assert nesterov["settings"][0] == {
        "name": "learning_rate",
        "type": "float",
        "default": "0.7",
        "meaning": nesterov["settings"][0]["meaning"],
    }
    assert all(fedlama("list", kind).code == 0 for kind in kinds())


def test_one_option_and_a_needed_setting() -> None:
    shown = fedlama("list", "strategies", "fedlama").out
    assert "fedluar" not in shown
    assert "(needed)" in shown
    assert "fedlama (the default)" in shown


def test_one_experiment() -> None:
    assert fedlama("list", "experiments", "digits").out == (
        "digits: Handwritten digits (embedded), non-IID over 32 clients: runs anywhere in under a minute.\n"
    )
    assert fedlama("list", "experiments", "digits", "--json").json == {"experiments": ["digits"]}
    assert refused("list", "experiments", "digit") == ["experiments 'digit' is not known; did you mean 'digits'?"]


def test_one_key_outside_of_the_sections() -> None:
    (option,) = fedlama("list", "settings", "seed", "--json").json["options"]
    assert [setting["name"] for setting in option["settings"]] == ["seed"]
    assert refused("list", "settings", "seeds") == ["settings 'seeds' is not known; did you mean 'seed'?"]


def test_tables_inside_of_a_setting_are_opened() -> None:
    named = {setting.name: setting for setting in option_of("sgd", options("solver")["sgd"]).settings}
    assert named["schedule.decay"].type.startswith('"constant"')
    assert named["groups[].rate_factor"].type == "float"
    assert "privacy.clip" in {setting.name for setting in option_of("", Settings).settings}
    assert [name for name, setting in named.items() if not setting.meaning] == []


def test_what_cannot_be_listed_is_refused() -> None:
    assert refused("list", "stratgies") == ["'stratgies' cannot be listed; did you mean 'strategies'?"]
    assert refused("list", "strategies", "fedlma") == ["strategies 'fedlma' is not known; did you mean 'fedlama'?"]


CHANGES = [
    ["digits"],
    ["digits", "seed=3", "strategy.name=fixed", 'strategy.intervals={"*.bias"=2}', "strategy.base_interval=6"],
    ["digits", "codec.name=chain", "codec.parts=[{name='top-k',share=0.01},{name='differences',bits=4}]"],
    [
        "digits",
        "rounds=12",
        "patience=3",
        "solver.decay_at=[]",
        "validation_share=0.1",
        "solver.schedule.decay=cosine",
        "local_work.epochs=1",
    ],
    ["cifar10-resnet20", 'data.path=some where/\u00fc "x"'],
]


@pytest.mark.parametrize("words", CHANGES, ids=lambda words: words[-1][:20])
def test_a_saved_configuration_is_the_same_experiment(words: list[str], tmp_path: Path) -> None:
    expected = load_experiment(words[0], words[1:])
    printed = fedlama("config", *words)
    assert (printed.code, printed.err) == (0, "")
    (tmp_path / "saved.toml").write_text(printed.out, encoding="utf-8")
    again = load_experiment(str(tmp_path / "saved.toml"))
    assert again == expected
    assert again.digest() == expected.digest()
    assert fedlama("config", tmp_path / "saved.toml").out == printed.out
    assert fedlama("config", *words, "--json").json == expected.to_json()


def test_sections_come_behind_the_other_keys() -> None:
    content = tomllib.loads(fedlama("config", "digits").out)
    assert list(content)[-len(SECTIONS) :] == list(SECTIONS)


@pytest.mark.parametrize("command", ["compare", "run", "plan", "config"])
def test_help_names_the_sections(command: str) -> None:
    shown = " ".join(fedlama(command, "--help").out.split())
    assert "Sections of an experiment: data, partition, model" in shown
    assert "fedlama list" in shown
