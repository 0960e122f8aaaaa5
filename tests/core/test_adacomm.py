"""AdaComm: intervals by hand, in a run, and within the forecast's bounds."""

from __future__ import annotations

import math

import pytest

import fedlama as fl
from fedlama.choices.strategies.adacomm import AdaCommState
from tests.core.test_senders import random_federation


@pytest.mark.parametrize(
    ("interval", "loss", "first_loss", "expected"),
    [
        (10, 0.25, 1.0, 5),  # sqrt(1/4) 10
        (10, 0.30, 1.0, 6),  # ceil(5.48)
        (5, 0.25, 1.0, 3),  # 5 is not shorter than 5: half of it, ceil(2.5)
        (5, 4.0, 1.0, 3),  # the loss rose
        (2, 0.0, 1.0, 1),
        (1, 1.0, 1.0, 1),
        (8, -1.0, 1.0, 1),
        (8, 1.0, 0.0, 4),
    ],
)
def test_the_next_interval(interval: int, loss: float, first_loss: float, expected: int) -> None:
    assert fl.AdaComm(1, first_interval=10, adapt_every=20).next_interval(interval, loss, first_loss) == expected


def test_a_block_ends_in_sync() -> None:
    adacomm = fl.AdaComm(2, first_interval=3, adapt_every=7)
    state = AdaCommState(("a", "b"), 3)
    plans = [adacomm.plan(state, index) for index in range(14)]
    assert [plan.round_index for plan in plans if plan.upload] == [2, 5, 6, 9, 12, 13]
    assert [plan.round_index for plan in plans if plan.cycle_start] == [0, 7]
    assert [plan.rounds_apart("a") for plan in plans if plan.upload] == [3, 3, 1, 3, 3, 1]


def test_a_run_follows_its_own_losses() -> None:
    adacomm = fl.AdaComm(2, first_interval=4, adapt_every=4)
    records = random_federation(adacomm, local_steps=40, solver=fl.SGD(0.5)).run().rounds
    interval, first = 4, records[0].loss
    for start in range(0, 20, 4):
        assert {record.layers["0.weight"].interval for record in records[start : start + 4]} == {interval}
        chosen = math.ceil(math.sqrt(records[start + 3].loss / first) * 4)
        interval = max(chosen if chosen < interval else math.ceil(interval / 2), 1)


def test_an_interval_of_one_round_is_fedavg() -> None:
    result = random_federation(fl.AdaComm(2, first_interval=1, adapt_every=2), sampler=fl.AllClients()).run()
    fedavg = random_federation(fl.FedAvg(2), sampler=fl.AllClients()).run()
    assert all(value.equal(fedavg.model[name]) for name, value in result.model.items())


def test_it_resumes_with_its_losses() -> None:
    federation = random_federation(fl.AdaComm(2, first_interval=3, adapt_every=4), local_steps=24)
    whole, first = federation.run(), fl.Run(federation)
    before: list[fl.RoundRecord] = []
    for _ in range(1, 12):
        before.append(first.advance())
        second = fl.Run(federation)
        second.load_state_dict(first.state_dict(), before)
        result = second.to_end([], before)
        assert all(value.equal(whole.model[name]) for name, value in result.model.items())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match="adapt_every is 3"):
        fl.AdaComm(2, first_interval=4, adapt_every=3)
    with pytest.raises(fl.ConfigError, match=r"shrink is 1\.5"):
        fl.AdaComm(2, shrink=1.5)
