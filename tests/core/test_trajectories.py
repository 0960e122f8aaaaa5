"""Whole trajectories of the library against the NumPy restatement: every client's weights after every round.

Both get the same batches, cohorts and initial weights; everything else is computed twice. Runs are in float64, so that
two orders of summation leave differences near 1e-15.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fedlama import (
    SGD,
    AllClients,
    FedAvg,
    Federation,
    FedLAMA,
    FedLUAR,
    FixedIntervals,
    ReplayedClients,
    RoundRecord,
    Run,
    UniformSampler,
    by_module,
    by_tensor,
)
from fedlama.choices.strategies import Strategy
from tests import reference
from tests.core.helpers import WIDTHS, as_torch, dense, play, random_batches, variables
from tests.reference import FedLamaRules, MomentumLife, Trace, random_model

CLIENTS, ROUNDS, STEPS = 5, 24, 2
SIZES = [10, 20, 30, 40, 15]
BY_TENSOR, BY_MODULE = [[0], [1], [2], [3], [4], [5]], [[0, 1], [2, 3], [4, 5]]
KERNELS = [True, False] * 3
LIVES: dict[str, MomentumLife] = {"cohort": "cycle", "slot": "slot", "round": "round"}


@dataclass(frozen=True)
class Setting:
    """The input of both sides.

    Attributes:
        solver: The local solver; the rate may change at whole rounds only.
        active: Clients in a cohort; None for all, always.
        equal: Equal weights instead of n_i / n.
        modules: A layer per module instead of per tensor.
        dtype: Precision of the models.
        steps: Local steps in a round.
        rounds: Number of rounds.
    """

    solver: SGD = field(default_factory=lambda: SGD(learning_rate=0.05))
    active: int | None = None
    equal: bool = False
    modules: bool = False
    dtype: type[np.floating] = np.float64
    steps: int = STEPS
    rounds: int = ROUNDS

    def library(self, strategy: Strategy[Any]) -> Federation:
        """The federation; each client is handed the batches of the rounds in which it is active."""
        model = dense(random_model(WIDTHS, 1, self.dtype))
        batches = as_torch(self._batches())
        if self.active is not None:
            cohorts = self.cohorts(strategy.cycle_rounds)
            taken: list[list[Any]] = [[] for _ in range(CLIENTS)]
            for e in range(self.rounds):
                for client in cohorts[e // strategy.cycle_rounds]:
                    taken[client] += batches[client][e * self.steps : (e + 1) * self.steps]
            batches = taken
        return Federation(
            model,
            ReplayedClients(batches, SIZES),
            strategy,
            local_steps=self.rounds * self.steps,
            solver=self.solver,
            sampler=AllClients() if self.active is None else UniformSampler(self.active),
            layers=by_module(model) if self.modules else by_tensor(model),
            weighting="equal" if self.equal else "samples",
            seed=7,
            keep_client_models=True,
        )

    def restated(self, cycle_rounds: int) -> reference.Federation:
        """The same for the restatement."""
        solver = self.solver
        return reference.Federation(
            initial=random_model(WIDTHS, 1, self.dtype),
            batches=self._batches(),
            layers=BY_MODULE if self.modules else BY_TENSOR,
            rounds=self.rounds,
            steps=self.steps,
            learning_rate=[solver.rate(e * self.steps) for e in range(self.rounds)],
            momentum=solver.momentum,
            convention="torch" if solver.velocity == "gradient" else "keras",
            weight_decay=solver.weight_decay,
            sizes=None if self.equal else SIZES,
            cohorts=None if self.active is None else self.cohorts(cycle_rounds),
            momentum_life="client" if self.active is None else LIVES[solver.state_scope],
            dtype=self.dtype,
        )

    def cohorts(self, cycle_rounds: int) -> list[tuple[int, ...]]:
        """The cohort of each cycle."""
        sampler = UniformSampler(self.active or CLIENTS)
        return [sampler.draw(CLIENTS, e, 7) for e in range(0, self.rounds, cycle_rounds)]

    def _batches(self) -> list[list[reference.Batch]]:
        batches = random_batches(CLIENTS, self.steps * self.rounds, seed=3)
        return [[(x.astype(self.dtype), y) for x, y in own] for own in batches]


def assert_same_trajectory(federation: Federation, trace: Trace, atol: float = 1e-12, rtol: float = 1e-9) -> Run:
    """Compare everything that both sides record, in every round."""
    assert federation.layers is not None
    names = [layer.name for layer in federation.layers]

    def compare(run: Run, record: RoundRecord) -> None:
        theirs = trace.rounds[record.round_index]
        assert list(record.cohort) == theirs.cohort
        assert record.loss == pytest.approx(np.mean(theirs.losses), rel=rtol)
        for client, model in zip(record.cohort, theirs.clients, strict=True):
            for ours, exact in zip(variables(record.client_models[client]), model, strict=True):
                np.testing.assert_allclose(ours, exact, rtol=0, atol=atol)
        for ours, exact in zip(variables(run.values), theirs.server, strict=True):
            np.testing.assert_allclose(ours, exact, rtol=0, atol=atol)
        layers = [record.layers[name] for name in names]
        assert [layer.synchronised for layer in layers] == theirs.travelled
        assert [layer.interval for layer in layers] == theirs.in_force
        counts = run.ledger.synchronisations()
        assert [counts.get(name, 0) for name in names] == theirs.counts
        if any(theirs.d):
            d = [layer.unit_discrepancy for layer in layers]
            for ours, exact, travelled in zip(d, theirs.d, theirs.travelled, strict=True):
                assert ours == (pytest.approx(exact, rel=rtol) if travelled else None)
        if isinstance(federation.strategy, FedLAMA):
            assert list(run.state.intervals.values()) == theirs.adjusted
            assert list(run.state.unit_discrepancy.values()) == pytest.approx(theirs.d, rel=rtol)

    run = play(federation, compare)
    assert run.ledger.cost() == trace.cost
    return run


def agree(setting: Setting, strategy: FedLAMA, **rules: object) -> Trace:
    """Run FedLAMA on both sides and compare."""
    cut = FedLamaRules(
        strategy.increase_factor,
        adapt=[True] * 3 if setting.modules else KERNELS,
        cut=strategy.cutoff,
        delta_over=strategy.discrepancy_share,
        adjust_after=strategy.warm_up_rounds - 1,
        accelerate=strategy.accelerate,
    )
    trace = reference.train_fedlama(setting.restated(strategy.cycle_rounds), replace(cut, **rules))
    assert_same_trajectory(setting.library(strategy), trace)
    return trace


def relaxed(trace: Trace) -> set[tuple[int, ...]]:
    """The different tables of intervals that a run went through."""
    return {tuple(record.adjusted) for record in trace.rounds}


MOMENTUM = SGD(learning_rate=0.05, momentum=0.9)


@pytest.mark.parametrize("phi", [1, 2, 3, 4, 8])
def test_fedlama(phi: int) -> None:
    trace = agree(Setting(MOMENTUM), FedLAMA(STEPS, phi))
    assert len(relaxed(trace)) > 1 or phi == 1


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("modules", [False, True])
@pytest.mark.parametrize("share", ["adaptive", "all"])
def test_fedlama_weights_layers_and_shares(equal: bool, modules: bool, share: str) -> None:
    setting = Setting(MOMENTUM, equal=equal, modules=modules)
    agree(setting, FedLAMA(STEPS, 2, discrepancy_share=share))


@pytest.mark.parametrize("velocity", ["gradient", "step"])
def test_fedlama_solvers(velocity: str) -> None:
    solver = SGD(
        0.1, momentum=0.8, weight_decay=0.02, velocity=velocity, decay_at=(5 * STEPS, 11 * STEPS), decay_factor=0.3
    )
    agree(Setting(solver), FedLAMA(STEPS, 4))


def test_the_two_conventions_of_momentum_really_part() -> None:
    solver = SGD(0.1, momentum=0.8, decay_at=(5 * STEPS,))
    ends = [
        Setting(replace(solver, velocity=velocity)).library(FedAvg(STEPS)).run().model
        for velocity in ("gradient", "step")
    ]
    assert float((ends[0]["0.weight"] - ends[1]["0.weight"]).abs().max()) > 1e-3


@pytest.mark.parametrize("scope", ["cohort", "slot", "round"])
@pytest.mark.parametrize("phi", [1, 3])
def test_fedlama_with_partial_participation(scope: str, phi: int) -> None:
    trace = agree(Setting(replace(MOMENTUM, state_scope=scope), active=3), FedLAMA(STEPS, phi))
    assert len({tuple(record.cohort) for record in trace.rounds}) > 3


def test_fedlama_as_printed() -> None:
    trace = agree(Setting(MOMENTUM, modules=True), FedLAMA(STEPS, 4, cutoff="printed"))
    # It is FedAvg with the long interval in all but name: one layer of three stays.
    assert all(sum(interval == 4 for interval in record.adjusted) >= 2 for record in trace.rounds[3:])


def test_fedlama_with_warm_up() -> None:
    trace = agree(Setting(MOMENTUM), FedLAMA(STEPS, 4, warm_up_rounds=6))
    assert [set(record.adjusted) for record in trace.rounds[:7]] == [{1}] * 7
    assert 4 in trace.rounds[7].adjusted


@pytest.mark.parametrize("modules", [False, True])
def test_fedlama_accelerated(modules: bool) -> None:
    setting = Setting(MOMENTUM, modules=modules, steps=1)
    trace = agree(setting, FedLAMA(3, 3, accelerate=True))
    assert {1, 3} == set(trace.rounds[-1].adjusted)


def test_fedlama_in_single_precision() -> None:
    setting = Setting(SGD(learning_rate=0.05), dtype=np.float32)
    trace = reference.train_fedlama(setting.restated(2), FedLamaRules(2, KERNELS, delta_over="adaptive"))
    assert_same_trajectory(setting.library(FedLAMA(STEPS, 2)), trace, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("setting", [Setting(MOMENTUM), Setting(MOMENTUM, active=2, equal=True)], ids=["all", "two"])
def test_fedavg(setting: Setting) -> None:
    assert_same_trajectory(setting.library(FedAvg(STEPS)), reference.train_fedavg(setting.restated(1)))


@pytest.mark.parametrize("setting", [Setting(MOMENTUM), Setting(MOMENTUM, active=3)], ids=["all", "three"])
def test_fixed_table(setting: Setting) -> None:
    strategy = FixedIntervals(STEPS, {"0.weight": 2, "2.*": 6, "4.bias": 3})
    assert strategy.cycle_rounds == 6
    trace = reference.train_fixed(setting.restated(6), [2, 1, 6, 6, 1, 3])
    assert_same_trajectory(setting.library(strategy), trace)


@pytest.mark.selection
@pytest.mark.parametrize("rule", ["score", "random", "round-robin"])
@pytest.mark.parametrize("setting", [Setting(MOMENTUM, modules=True), Setting(active=3)], ids=["all", "three"])
def test_fedluar(rule: str, setting: Setting) -> None:
    federation = setting.library(FedLUAR(STEPS, 1 if setting.modules else 2, rule=rule))
    assert federation.layers is not None
    names = [layer.name for layer in federation.layers]
    recycled: list[set[int]] = [set()]
    scores = []

    def follow(run: Run, record: RoundRecord) -> None:
        recycled.append({names.index(name) for name in run.state.recycle})
        scores.append(dict(run.state.scores))

    play(federation, follow)
    restated = reference.train_fedluar(setting.restated(1), recycled[:-1])
    assert_same_trajectory(setting.library(federation.strategy), restated.training)
    for ours, theirs in zip(scores, restated.scores, strict=True):
        assert list(ours.values()) == pytest.approx([theirs[names.index(name)] for name in ours], rel=1e-9)
    assert len({frozenset(layers) for layers in recycled}) > 2
