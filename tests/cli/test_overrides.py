"""Overrides: the value is TOML, or text; sections, dashes and quoted keys."""

from __future__ import annotations

import pytest

import fedlama as fl
from fedlama.errors import ConfigError
from fedlama.experiment import load_experiment
from tests.cli.call import SMALL, fedlama, refused


def test_the_experiment_may_be_left_out() -> None:
    seen = fedlama("plan", *SMALL, "--json").json
    assert seen == fedlama("plan", "digits", *SMALL, "--json").json
    assert seen["clients"] == 4


def test_options_may_stand_between() -> None:
    assert fedlama("plan", "--json", "digits", *SMALL).json["active"] == 4


def test_the_later_one_wins() -> None:
    assert fedlama("plan", *SMALL, "partition.clients=5", "--json").json["clients"] == 5


def test_a_new_strategy_keeps_what_fits() -> None:
    methods = fedlama("plan", "strategy.name=fedavg", "--json").json["methods"]
    assert [one["method"] for one in methods] == ["FedAvg(6)"]


def test_what_was_asked_for_is_never_dropped_in_silence() -> None:
    (problem,) = refused("plan", "strategy.increase_factor=2", "strategy.name=fedavg")
    assert "strategy 'fedavg' has no such key" in problem


def test_a_new_model_drops_sizes_of_another_kind() -> None:
    assert fedlama("plan", *SMALL, "model.name=small-cnn", "--json").json["model"] == "small-cnn"


def test_layers_can_be_named_by_quoted_patterns() -> None:
    own = ('strategy.intervals."*.bias"=2', "strategy.intervals.'dense0.weight'=4")
    seen = fedlama("plan", "strategy.name=fixed", *own, "--json").json
    (forecast,) = (one for one in seen["methods"] if one["method"].startswith("FixedIntervals"))
    assert forecast["low"]["cost_percent"] == 100 * (8192 / 4 + 138 / 2 + 1280) / 9610


def test_dashes_stand_for_underscores() -> None:
    assert fedlama("plan", *SMALL, "batch-size=8", "strategy.warm-up-rounds=2", "--json").code == 0


def test_a_section_set_to_a_name_chooses_an_option() -> None:
    assert load_experiment("digits", ["model=small-cnn"]) == load_experiment("digits", ["model.name=small-cnn"])
    changed = load_experiment("digits", ["server_optimizer.learning_rate=0.5", "server-optimizer=nesterov"])
    assert changed.server_optimizer == fl.ServerNesterov(learning_rate=0.5)
    with pytest.raises(ConfigError, match=r"^model\.name is 'resnet21'; did you mean 'resnet20'\?$"):
        load_experiment("digits", ["model=resnet21"])
