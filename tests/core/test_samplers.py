"""Who takes part."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from fedlama import SGD, AllClients, ConfigError, FedAvg, Federation, UniformSampler
from fedlama.choices.samplers import Sampler
from fedlama.choices.solvers.base import StateScope
from tests.core.helpers import mlp, skewed_clients


def test_everyone() -> None:
    sampler = AllClients()
    assert sampler.draw(4, 7, seed=1) == (0, 1, 2, 3)
    assert sampler.cohort_size(4) == 4
    assert not any(sampler.redraws(e) for e in range(5))


def test_cohorts_are_sorted_draws_without_replacement() -> None:
    sampler = UniformSampler(3)
    for e in range(50):
        cohort = sampler.draw(8, e, seed=1)
        assert list(cohort) == sorted(set(cohort))
        assert len(cohort) == 3
        assert set(cohort) <= set(range(8))


def test_every_client_and_every_pair_is_equally_likely() -> None:
    draws = 6000
    cohorts = [UniformSampler(2).draw(4, e, seed=5) for e in range(draws)]
    pairs = Counter(cohorts)
    assert len(pairs) == 6
    for count in pairs.values():
        assert count / draws == pytest.approx(1 / 6, abs=4 * (5 / 36 / draws) ** 0.5)


def test_a_draw_depends_on_seed_and_round_alone() -> None:
    assert UniformSampler(4).draw(20, 3, 1) == UniformSampler(4, hold_rounds=3).draw(20, 3, 1)
    draws = {UniformSampler(4).draw(20, e, seed) for e in range(10) for seed in range(10)}
    assert len(draws) > 90


def test_a_smaller_cohort_is_part_of_a_larger_one() -> None:
    # The permutation belongs to the round, so runs that differ in the active ratio share clients.
    assert set(UniformSampler(2).draw(9, 4, 0)) < set(UniformSampler(5).draw(9, 4, 0))


def test_holding() -> None:
    redraws = [UniformSampler(2, hold_rounds=3).redraws(e) for e in range(7)]
    assert redraws == [True, False, False, True, False, False, True]


@dataclass(frozen=True)
class Turns(Sampler):
    """The shortest sampler: pairs of clients take turns."""

    name: ClassVar[str] = "turns"

    def cohort_size(self, population: int) -> int:
        return 2

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        first = 2 * round_index % (population - 1)
        return first, first + 1


@dataclass(frozen=True)
class Returns(Turns):
    """Returns what it is given."""

    drawn: Any = None

    def draw(self, population: int, round_index: int, seed: int) -> Any:  # noqa: ANN401
        return self.drawn


@pytest.mark.parametrize(
    "drawn",
    [
        *((0, 0), (0, 1, 2), (1,), (), (2, 1), (0, 4), (-1, 2), (0, 1.5), (0, "1"), (0, None), ((0,), (1, 2))),
        *(None, 3, "01", {0, 1}, np.array([0.0, 1.0]), np.zeros((2, 2), dtype=np.int64)),
    ],
    ids=repr,
)
def test_a_cohort_that_breaks_the_contract_is_refused(drawn: object) -> None:
    federation = Federation(mlp().float(), skewed_clients(4), FedAvg(1), 3, sampler=Returns(drawn))
    with pytest.raises(ConfigError) as error:
        federation.run()
    assert str(error.value) == (
        f"the cohort of the sampler Returns is {drawn!r}, expected 2 different client numbers from 0 to 3 in ascending "
        "order; return these, such as tuple(sorted(...)), or correct its cohort_size"
    )


@pytest.mark.parametrize("drawn", [[1, 3], np.array([1, 3]), (np.int32(1), np.int32(3))], ids=repr)
def test_a_cohort_may_be_any_sequence_of_integers(drawn: object) -> None:
    federation = Federation(mlp().float(), skewed_clients(4), FedAvg(1), 1, sampler=Returns(drawn))
    (record,) = federation.run().rounds
    assert repr(record.cohort) == "(1, 3)"


def test_a_new_sampler_redraws_in_every_cycle() -> None:
    federation = Federation(mlp().float(), skewed_clients(4), FedAvg(1), 3, sampler=Turns())
    assert [record.cohort for record in federation.run().rounds] == [(0, 1), (2, 3), (1, 2)]


@pytest.mark.parametrize(
    ("scope", "momentum", "same"),
    [("cohort", 0.9, False), ("cohort", 0.0, True), ("slot", 0.9, True)],
)
def test_drawing_all_clients_restarts_momentum(scope: StateScope, momentum: float, same: bool) -> None:
    def weights(sampler: Sampler) -> list[torch.Tensor]:
        solver = SGD(learning_rate=0.1, momentum=momentum, state_scope=scope)
        federation = Federation(mlp().float(), skewed_clients(), FedAvg(2), 8, solver=solver, sampler=sampler)
        return list(federation.run().model.values())

    drawn, kept = weights(UniformSampler(len(skewed_clients()))), weights(AllClients())
    assert all(map(torch.equal, drawn, kept)) is same


def test_numbers_of_numpy_become_plain_ones() -> None:
    assert repr(UniformSampler(np.int64(3), np.int32(2))) == repr(UniformSampler(3, 2))  # type: ignore[arg-type]


def test_bad_settings() -> None:
    with pytest.raises(
        ConfigError, match=r"UniformSampler: active is 2\.5, expected an integer; use an integer such as 2"
    ):
        UniformSampler(2.5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="active is 0"):
        UniformSampler(0)
    with pytest.raises(ConfigError, match="hold_rounds is 0"):
        UniformSampler(1, 0)
    with pytest.raises(ConfigError, match="active is 5, but there are only 4 clients; choose 4 or fewer"):
        UniformSampler(5).cohort_size(4)
