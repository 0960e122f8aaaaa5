"""Methods on the command line, there and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fedlama import (
    Chain,
    ConfigError,
    Cyclic,
    Differences,
    FedAvg,
    FedLAMA,
    FedLUAR,
    FixedIntervals,
    Float32,
    RunOptions,
    ServerMomentum,
    StudyPlan,
    TopK,
    find_runs,
    load_run,
    run_study,
)
from fedlama.choices.strategies import Strategy
from fedlama.experiment import read, resolve
from fedlama.experiment.methods import parse_methods, split, written
from fedlama.experiment.titles import title
from fedlama.experiment.variants import Variant


@pytest.mark.parametrize(
    "strategy",
    [
        FedAvg(6),
        FedLAMA(6, 4),
        FedLAMA(4, 2, discrepancy_share="all", warm_up_rounds=3),
        FedLUAR(6, 2, rule="round-robin"),
        Cyclic(6),
        FixedIntervals(6, {"*.bias": 2, "dense0.weight": 3}),
    ],
    ids=written,
)
def test_what_is_written_is_read_back(strategy: Strategy[Any]) -> None:
    assert parse_methods([written(strategy)], "digits", []) == [strategy]


def test_settings_of_the_experiment_stay() -> None:
    assert parse_methods(["fedavg  fedlama", "fedlama,cutoff=printed"], "digits", ["strategy.base_interval=3"]) == [
        FedAvg(3),
        FedLAMA(3, 4),
        FedLAMA(3, 4, cutoff="printed"),
    ]


def test_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_methods(["fedlma fedavg,increase_factor=2", "fedlama,base_interval=0"], "digits", [])
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        "method 'fedlma' is not known",
        "method 'fedavg,increase_factor=2': unknown key 'strategy.increase_factor': strategy 'fedavg' has no such key",
        "method 'fedlama,base_interval=0': FedLAMA: base_interval is 0, expected 1 or more",
    ]
    with pytest.raises(ConfigError, match="--methods is empty"):
        parse_methods([" "], "digits", [])


def test_separators_inside_quotes_and_brackets_are_left_alone() -> None:
    assert split('a, b={"x, y" = [1, 2]}, c="d,e"', ",") == ["a", 'b={"x, y" = [1, 2]}', 'c="d,e"']


MANY = Variant(FedLAMA(6, 4), {"codec": Differences(2, down=False), "server_optimizer": ServerMomentum(momentum=0.25)})


NESTED = Variant(FedAvg(6), {"codec": Chain((TopK(0.1), Differences(2)))})


@pytest.mark.parametrize("method", [Variant(FedAvg(6), {"codec": Differences()}), MANY, NESTED], ids=title)
def test_a_method_with_other_choices_is_read_back(method: Variant) -> None:
    assert parse_methods([written(method)], "digits", []) == [method]


def test_a_setting_belongs_to_the_nearest_choice_before_it_that_has_it() -> None:
    texts = ["fedlama,codec=differences,bits=2,increase_factor=2", "fedlama,codec=differences,codec.bits=1"]
    first, second = parse_methods(texts, "digits", [])
    assert first == Variant(FedLAMA(6, 2), {"codec": Differences(2)})
    assert second == Variant(FedLAMA(6, 4), {"codec": Differences(1)})
    assert title(first) == "FedLAMA(6, 2) + differences(bits=2)"


def test_a_method_leaves_settings_of_another_codec_out() -> None:
    given = ["codec.name=differences", "codec.bits=2", "codec.down=false"]
    float16, eight = parse_methods(["fedavg,codec=float32", "fedavg,codec=differences,bits=8"], "digits", given)
    assert float16 == Variant(FedAvg(6), {"codec": Float32()})
    assert eight == Variant(FedAvg(6), {"codec": Differences(8, down=False)})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fedlama,codec=diferences", "codec.name is 'diferences'; did you mean 'differences'?"),
        ("fedlama,codec=differences,bit=4", "unknown key 'strategy.bit'"),
        ("fedlama,codec=differences,bits=5", "Differences: bits is 5, expected 8, 4, 2 or 1"),
        ("fedlama,bits=4", "unknown key 'strategy.bits'"),
        ("fedlama,model=cnn", "unknown key 'strategy.model'"),
    ],
)
def test_what_a_method_cannot_change_is_named(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_methods([text], "digits", [])


def test_methods_with_codecs_are_compared(tmp_path: Path) -> None:
    small = ["local_steps=24", "partition.clients=4", "strategy.base_interval=3", "strategy.increase_factor=2"]
    methods = parse_methods(["fedavg fedlama fedlama,codec=differences,bits=4"], "digits", small)
    study = run_study(resolve(read("digits", small)), StudyPlan(tuple(methods)), RunOptions(tmp_path, track=()))
    assert [row.title for row in study.methods] == ["FedAvg(3)", "FedLAMA(3, 2)", "FedLAMA(3, 2) + differences(bits=4)"]
    exact, coded = (row.megabytes.mean for row in study.methods[1:])
    assert coded < 0.35 * exact  # the first download of so short a run is float32
    assert {load_run(folder).title for folder in find_runs([tmp_path])} == {row.title for row in study.methods}
