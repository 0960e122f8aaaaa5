"""A loss that explodes without leaving the finite numbers: one warning, which names likely causes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import fedlama as fl
from fedlama.core.records import RoundRecord, Score
from fedlama.errors import ChanceAccuracyWarning
from fedlama.federation.explosion import ExplodedLossWarning, LossWatch
from tests.cli.call import SMALL, fedlama
from tests.runs.federations import make

FAST = fl.SGD(learning_rate=0.1)


def record(index: int, training: float, test: float | None = None, *, accuracy: float | None = 0.5) -> RoundRecord:
    score = None if test is None else Score.of_accuracy(accuracy, test)
    return RoundRecord(index, index + 1, (0,), training, {}, (), score, 0.0, 0.0)


def warned(records: Sequence[RoundRecord], federation: fl.Federation | None = None) -> list[str]:
    """Return the warnings about some rounds."""
    watch = LossWatch(federation or make(solver=FAST, server_optimizer=fl.Replace(), codec=fl.Float32()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for each in records:
            watch.see(each)
    assert all(issubclass(each.category, ExplodedLossWarning) for each in caught)
    return [str(each.message) for each in caught]


@pytest.mark.parametrize(
    "records",
    [
        [record(0, 2.3, 2.4), record(1, 1.0, 23.0)],  # below ten times the first evaluation
        [record(0, 0.01, 9.0), record(1, 0.02, 9.9)],  # few classes learnt by heart at first
        [record(0, math.nan), record(1, 2.0, 1.9)],  # a void round
        [record(0, 300.0, 1e4, accuracy=None), record(1, 500.0, 9e3, accuracy=None)],  # no scale of its own
        [record(0, -5.0, -4.0, accuracy=None), record(1, -7.0, 3.0, accuracy=None)],  # not positive: no ratio
    ],
)
def test_ordinary_losses(records: list[RoundRecord]) -> None:
    assert warned(records) == []


@pytest.mark.parametrize(
    ("records", "loss"),
    [
        ([record(0, 2.3, 2.4), record(1, 2.0, 25.0), record(2, 3.0, 4.5e6)], "test loss of round 1 is 25"),
        ([record(0, 2.3), record(1, 1.0), record(2, 1.0, 4.5e6)], "test loss of round 2 is 4.5e+06"),
        ([record(0, 2.3), record(1, 300.0)], "mean training loss of round 1 is 300"),
        ([record(0, 1e7, 1e8)], "test loss of round 0 is 1e+08"),
        ([record(0, 3.0, 4.0, accuracy=None), record(1, 41.0, 2.0, accuracy=None)], "training loss of round 1 is 41"),
    ],
)
def test_an_explosion_is_said_once(records: list[RoundRecord], loss: str) -> None:
    (sentence,) = warned([*records, *records])
    assert loss in sentence
    assert "the learning rate (0.1)" in sentence


def test_likely_causes_are_those_of_the_run() -> None:
    records = [record(0, 2.3, 2.3), record(1, 2.3, 1e5)]
    (plain,) = warned(records)
    assert "outer step" not in plain
    assert "codec" not in plain
    outer = fl.ServerMomentum(momentum=0.9)
    (other,) = warned(records, make(solver=FAST, server_optimizer=outer, codec=fl.Differences(bits=1)))
    assert "the outer step (server_optimizer 'momentum', which moves 10 times as far as the average)" in other
    assert "the codec ('differences' in 1 bits)" in other


def test_rounds_before_a_resumption_are_remembered_in_silence() -> None:
    watch = LossWatch(make(solver=FAST))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in [record(0, 2.3, 2.4), record(1, 2.0, 1e4)]:
            watch.see(each, quiet=True)
        watch.see(record(2, 2.0, 1e5))  # said before the interruption


def test_a_run_warns() -> None:
    outer = fl.ServerAdam(learning_rate=10.0, beta1=0.9, beta2=0.99, epsilon=1e-3)
    wild = make(local_steps=40, solver=fl.SGD(learning_rate=0.01), codec=fl.Float32(), server_optimizer=outer)
    with pytest.warns(ExplodedLossWarning, match="outer step") as caught:
        wild.run()
    assert len(caught) == 1


def test_the_command_line_prints_a_note(tmp_path: Path) -> None:
    outer = ("server_optimizer.name=momentum", "server_optimizer.learning_rate=3", "server_optimizer.momentum=0.95")
    called = fedlama("run", *SMALL, "local_steps=96", *outer, "--track", "none", "--out", tmp_path)
    assert called.code == 0
    assert called.err.startswith("note: fedlama with seed 0: the ")
    assert called.err.count("note: ") == 1


def _ended(accuracies: Sequence[float], labels: Sequence[int]) -> list[str]:
    """Return the warnings at the end of a run with these accuracies, on a test set with these labels."""
    watch = LossWatch(make(solver=FAST, test_set=fl.TestSet(torch.zeros(len(labels), 4), torch.tensor(labels))))
    records = [record(index, 1.0, 2.0, accuracy=accuracy) for index, accuracy in enumerate(accuracies)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.end([record(0, 1.0), *records])
    return [str(each.message) for each in caught if issubclass(each.category, ChanceAccuracyWarning)]


def test_an_accuracy_at_chance_at_the_end() -> None:
    labels = [0, 0, 0, 1, 2] * 40  # a constant answer has 0.6
    assert _ended([0.6] * 6, labels[:199]) == []  # too few samples
    assert _ended([0.8, 0.8, 0.6, 0.2, 0.6, 0.6], labels) == []  # one of the last five is above
    assert _ended([0.2, 0.6, 0.6, 0.6], labels) == []  # too few evaluations
    (sentence,) = _ended([0.9, 0.6, 0.2, 0.4, 0.6, 0.6], labels)
    assert (
        "the last 5 evaluations have an accuracy of at most 0.6, but always answering with the most frequent"
        in sentence
    )
    assert "another learning rate than 0.1 or more rounds" in sentence
    assert _ended([0.1] * 6, [*range(10)] * 20)
    assert _ended([0.11] * 6, [*range(10)] * 20) == []
