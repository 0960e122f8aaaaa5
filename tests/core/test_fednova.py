"""FedNova: by hand, as FedAvg where steps are equal, on every engine, and with clients that are away."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.federation.fednova import accumulated_length, normalised
from tests.core.helpers import Line, mlp, product, pushed, skewed_clients

ENGINES = ["loop", "stacked", "workers", "recorded"]


def federation(**changes: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    # A step of client i moves by its push: 1 and 3. The clients have equally many samples.
    settings: dict[str, Any] = {
        "solver": fl.SGD(1.0),
        "objective": product,
        "weighting": "fednova",
        "local_work": fl.LocalWork(limits={1: 2}),
    }
    return fl.Federation(Line(0.0), pushed(-1.0, -3.0), fl.FedAvg(4), **({"local_steps": 4} | settings | changes))


@pytest.mark.parametrize("engine", ENGINES)
def test_by_hand(engine: str) -> None:
    # x = 4 after 4 steps and 6 after 2; a_eff = 3, so u = 3 (1/2 * 4/4 + 1/2 * 6/2) = 6, where FedAvg has 5.
    assert float(federation(engine=engine).run().model["free"]) == pytest.approx(6.0, rel=1e-6)
    assert float(federation(engine=engine, weighting="samples").run().model["free"]) == 5.0


def test_the_length_of_accumulated_steps_is_that_of_momentum() -> None:
    for steps in range(1, 6):
        total, velocity = 0.0, 0.0
        for _ in range(steps):  # a gradient of 1 in every step
            velocity = 0.9 * velocity + 1.0
            total += velocity
        assert accumulated_length(0.9, steps) == pytest.approx(total, rel=1e-12)


def test_weights_and_scale() -> None:
    weights, scale = normalised([0.5, 0.25, 0.25], [0, 1, 2], {0: 4, 1: 2, 2: 1}, fl.SGD(0.1))
    # p / a = 1/8, 1/8, 1/4, whose sum is 1/2; a_eff = 2 + 1/2 + 1/4.
    assert weights == pytest.approx([0.25, 0.25, 0.5])
    assert scale == pytest.approx(2.75 * 0.5)
    away, scale = normalised([0.5, 0.25, 0.25], [0, 1, 2], {0: 4, 2: 1}, fl.SGD(0.1))
    assert away[1] == 0.0  # of the others: p = 2/3, 1/3, and p / a = 1/6, 1/3
    assert (away[0], away[2], scale) == pytest.approx((1 / 3, 2 / 3, 3.0 * 0.5))


@pytest.mark.parametrize("engine", ENGINES)
def test_equal_steps_are_fedavg_to_the_last_bit(engine: str) -> None:
    equal = federation(engine=engine, local_work=fl.LocalWork()).run()
    fedavg = federation(engine=engine, local_work=fl.LocalWork(), weighting="samples").run()
    assert all(torch.equal(equal.model[name], value) for name, value in fedavg.model.items())


def test_clients_that_are_away_do_not_count() -> None:
    trace = fl.RandomAbsence(away=0.4)
    loop, stacked = (
        federation(engine=engine, availability=trace, local_steps=40).run() for engine in ("loop", "stacked")
    )
    torch.testing.assert_close(loop.model["free"], stacked.model["free"])
    assert 1 in {len(record.transfers[-1].clients) for record in loop.rounds if record.transfers}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"solver": fl.AdamW(0.1)}, "knows how far a client's steps reach for SGD alone"),
        ({"solver": fl.SGD(0.1, momentum=0.9)}, "begins with zeros in each round"),
        ({"solver": fl.FedProx(0.1)}, "for SGD alone"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(fl.ConfigError, match=problem):
        federation(**changes).run()


def test_intervals_of_several_rounds_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match="fedlama synchronises layers over several rounds; use 'fedavg'"):
        fl.Federation(
            Line(0.0), pushed(1.0), fl.FedLAMA(1, 2), 2, objective=product, weighting="fednova", solver=fl.SGD(1.0)
        ).run()


def test_momentum_of_a_round_is_allowed() -> None:
    solver = fl.SGD(1.0, momentum=0.5, state_scope="round")
    # Steps 1, 1.5, 1.75, 1.875 of the push: x = 6.125 and 3 * 2.5; a = 6.125 and 2.5, a_eff = 4.3125.
    assert float(federation(solver=solver).run().model["free"]) == pytest.approx(4.3125 * (0.5 + 1.5), rel=1e-6)


def test_other_aggregators_than_the_mean_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match="whose scale belongs to a weighted mean, but aggregator is 'median'"):
        fl.Federation(
            mlp(), skewed_clients(3), fl.FedAvg(2), 4, fl.SGD(0.1, state_scope="round"), weighting="fednova",
            aggregator=fl.Median(),
        ).run()  # fmt: skip
