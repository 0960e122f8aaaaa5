"""Aggregators: literal numbers, properties, the same on every engine, and their worth against an attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fedlama as fl
from fedlama.choices.aggregators import Combined
from fedlama.core.layers import Layer
from fedlama.engines.api import Average, Values
from fedlama.engines.loop import LoopEngine
from fedlama.flower.server.aggregation import from_models
from tests.availability.test_dropout import in_deployment
from tests.engines.cases import assert_same, run
from tests.flower.cases import assert_same_bits, deployed, federation, in_process

(LAYER,) = fl.by_module(nn.Linear(2, 1))
GUARDS = [fl.NormBound(1.5), fl.NormBound(1.5, excess="refuse"), fl.Median(), fl.TrimmedMean(0.34)]


def received(*rows: Sequence[float]) -> dict[str, Tensor]:
    """Clients' values of a layer of two weights and a bias."""
    table = torch.tensor(rows, dtype=torch.float32)
    return {"weight": table[:, :2].unsqueeze(1), "bias": table[:, 2:]}


ORIGIN = {"weight": torch.zeros(1, 2), "bias": torch.zeros(1)}


def flat(values: Mapping[str, Tensor]) -> list[float]:
    return [*values["weight"].flatten().tolist(), *values["bias"].tolist()]


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        ({"weight": 1}, "Strange: combine returned {'weight': 1}, expected a fedlama.Combined; return one"),
        (Combined({}, 0.0), "Strange: combine returned the tensors [] of layer 'dense0.weight', expected"),
        (
            Combined({"dense0.weight": torch.zeros(7)}, 0.0),
            "Strange: combine returned (7,) for 'dense0.weight', expected (8, 6); return one client's shape",
        ),
    ],
)
def test_what_a_users_aggregator_returns_is_checked(made: Any, problem: str) -> None:  # noqa: ANN401
    class Strange(fl.Aggregator):
        def combine(self, *_: object) -> Combined:
            return made  # type: ignore[no-any-return]

    clients = fl.TensorClients(torch.rand(12, 6), torch.arange(12) % 3, [range(6), range(6, 12)], 3)
    model = fl.models.mlp(6, [8], 3)
    with pytest.raises(fl.ConfigError) as error:
        fl.Federation(model, clients, fl.FedAvg(1), local_steps=1, solver=fl.SGD(0.1), aggregator=Strange()).run()
    assert error.value.problems[0].startswith(problem)


def test_median_of_literal_numbers() -> None:
    odd = fl.Median().combine(LAYER, received((1, 5, 0), (2, -100, 0), (4, 6, 0)), [0.9, 0.05, 0.05], ORIGIN)
    assert flat(odd.values) == [2, 5, 0]
    assert odd.discrepancy == 1 + 1 + 0  # medians of (1, 0, 4), (0, 11025, 1), (0, 0, 0)
    even = fl.Median().combine(LAYER, received((1, 0, 0), (3, 0, 0)), [0.5, 0.5], ORIGIN)
    assert flat(even.values) == [2, 0, 0]


def test_trimmed_mean_of_literal_numbers() -> None:
    rows = received((-99, 1, 0), (1, 2, 0), (3, 3, 0), (4, 99, 0))
    trimmed = fl.TrimmedMean(0.25).combine(LAYER, rows, [0.25] * 4, ORIGIN)
    assert flat(trimmed.values) == [2, 2.5, 0]
    assert trimmed.discrepancy == 1 + 0.25


def test_norm_bound_of_literal_numbers() -> None:
    rows = received((3, 4, 0), (0, 0, 5), (30, 0, 40))  # norms 5, 5 and 50
    clipped = fl.NormBound(2.0).combine(LAYER, rows, [0.25, 0.25, 0.5], ORIGIN)
    assert flat(clipped.values) == pytest.approx([0.25 * 3 + 0.5 * 6, 0.25 * 4, 0.25 * 5 + 0.5 * 8])
    assert clipped.refused == ()
    refused = fl.NormBound(2.0, excess="refuse").combine(LAYER, rows, [0.25, 0.25, 0.5], ORIGIN)
    assert flat(refused.values) == [1.5, 2, 2.5]
    assert refused.refused == (2,)
    assert refused.discrepancy == pytest.approx(1.5**2 + 2**2 + 2.5**2)


def test_the_bound_is_measured_from_where_the_clients_started() -> None:
    start = {"weight": torch.tensor([[100.0, 0.0]]), "bias": torch.zeros(1)}
    rows = received((101, 0, 0), (102, 0, 0), (110, 0, 0))
    clipped = fl.NormBound(1.0).combine(LAYER, rows, [1 / 3] * 3, start)
    assert flat(clipped.values) == pytest.approx([100 + (1 + 2 + 2) / 3, 0, 0])


@pytest.mark.parametrize("aggregator", GUARDS, ids=str)
def test_clients_that_agree_are_left_alone(aggregator: Any) -> None:  # noqa: ANN401
    same = aggregator.combine(LAYER, received(*[(1.5, -2.25, 3)] * 4), [0.1, 0.2, 0.3, 0.4], ORIGIN)
    assert flat(same.values) == [1.5, -2.25, 3]
    assert (same.discrepancy, same.refused) == (0, ())


@pytest.mark.parametrize("aggregator", GUARDS, ids=str)
def test_one_attacker_among_five_moves_no_value_far(aggregator: Any) -> None:  # noqa: ANN401
    draw = np.random.default_rng(0)
    for size in (1e1, 1e4, 1e12):
        honest = draw.normal(size=(4, 3))
        rows = received(*honest.tolist(), (size, -size, size))
        combined = aggregator.combine(LAYER, rows, [0.2] * 5, ORIGIN)
        assert np.abs(flat(combined.values)).max() < 4 * np.abs(honest).max()
        assert combined.discrepancy < 100 * honest.var(0).sum()


@pytest.mark.parametrize("engine", ["stacked", "workers"])
@pytest.mark.parametrize("aggregator", GUARDS, ids=str)
def test_engines_agree(engine: str, aggregator: Any) -> None:  # noqa: ANN401
    changes = {
        "aggregator": aggregator,
        "availability": fl.RandomAbsence(away=0.2),
        "local_steps": 8,
        "sampler": fl.AllClients(),
    }
    assert_same(run(engine, **changes), run("loop", **changes), tolerance=1e-4)


def test_without_an_attack_a_mean_that_trims_nothing_is_the_mean() -> None:
    plain = run("loop", weighting="equal", local_steps=4)
    trimmed = run("loop", weighting="equal", local_steps=4, aggregator=fl.TrimmedMean(0.0))
    assert_same(trimmed, plain, tolerance=1e-5)


class FirstClient(fl.Mean):
    """A user's aggregator that changes the mean: the first client's values count alone."""

    def combine(
        self, layer: Layer, received: Mapping[str, Tensor], weights: Sequence[float], reference: Mapping[str, Tensor]
    ) -> Combined:
        return super().combine(layer, received, [1.0, *[0.0] * (len(weights) - 1)], reference)


class FirstOfThem:
    """The same in a class that does not inherit."""

    name, is_plain_mean = "first-of-them", False
    combine = FirstClient.combine.__get__(FirstClient())


@pytest.mark.parametrize("aggregator", [FirstClient(), FirstOfThem()], ids=["subclass", "own class"])
@pytest.mark.parametrize("engine", ["loop", "stacked"])
def test_a_users_aggregator_is_asked(engine: str, aggregator: Any) -> None:  # noqa: ANN401
    """Also where it inherits from the mean, which engines compute by themselves."""
    result = run(engine, local_steps=2, aggregator=aggregator, sampler=fl.AllClients(), keep_client_models=True)
    plain = run(engine, local_steps=2, sampler=fl.AllClients(), keep_client_models=True)
    assert not any(layer.discrepancy for layer in result.rounds[0].layers.values())
    assert any(not torch.equal(result.model[name], value) for name, value in plain.model.items())


class Poisoned(LoopEngine):
    """Clients 0 and 3 hand over something else than what they trained."""

    poison = staticmethod(lambda value: value * float("nan"))

    def client_values(self, client: int) -> Values:
        values = super().client_values(client)
        if client not in (0, 3):
            return values
        return {name: self.poison(v) if v.is_floating_point() else v for name, v in values.items()}

    def received(self, layer: Layer) -> Values:
        models = [self.client_values(slot.client) for slot in self._slots]
        return {spec.name: torch.stack([model[spec.name] for model in models]) for spec in layer.tensors}

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        return from_models(layer, [self.client_values(slot.client) for slot in self._slots], weights)


@pytest.mark.parametrize("aggregator", GUARDS, ids=str)
def test_values_that_are_not_finite_are_refused_and_told(aggregator: Any) -> None:  # noqa: ANN401
    result = federation(engine=Poisoned, aggregator=aggregator, sampler=fl.AllClients()).run()
    assert all(torch.isfinite(value).all() for value in result.model.values())
    for record in result.rounds:
        synchronised = [layer for layer in record.layers.values() if layer.synchronised]
        assert all({0, 3} <= set(layer.refused) for layer in synchronised)
        assert all(not layer.refused for layer in record.layers.values() if not layer.synchronised)


def test_without_a_guard_they_stop_the_run() -> None:
    with pytest.raises(fl.DivergenceError, match="client 0 diverged"):
        federation(engine=Poisoned, sampler=fl.AllClients()).run()


def test_when_nothing_finite_is_left_the_run_stops() -> None:
    trace = fl.Trace(absences=tuple(fl.Absence(client, 0, 9) for client in (1, 2, 4)))
    with pytest.raises(fl.DivergenceError, match="client 0 diverged"):
        federation(engine=Poisoned, aggregator=fl.Median(), sampler=fl.AllClients(), availability=trace).run()


@pytest.mark.parametrize("aggregator", GUARDS, ids=str)
def test_a_deployment_has_the_bits_of_a_simulation(aggregator: Any, tmp_path: Path) -> None:  # noqa: ANN401
    given = federation(aggregator=aggregator)
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), given.run())


@pytest.mark.parametrize("aggregator", GUARDS, ids=str)
def test_a_deployment_combines_the_clients_that_answered(aggregator: Any, tmp_path: Path) -> None:  # noqa: ANN401
    trace = fl.Trace(absences=(fl.Absence(2, 1, 1), fl.Absence(0, 3, 4)), min_replies=0.5)
    given = federation(aggregator=aggregator, sampler=fl.AllClients(), availability=trace)
    result = given.run()
    assert any(record.missing for record in result.rounds)
    assert_same_bits(result, in_deployment(given, trace, tmp_path))


def test_a_deployment_with_sums_refuses_a_guard(tmp_path: Path) -> None:
    given = federation(aggregator=fl.Median())
    says = "FlowerEngine does not show single clients' models; set aggregation='models', or leave it out"
    with pytest.raises(fl.ConfigError, match=says):
        deployed(given, in_process(given, tmp_path), aggregation="sums")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: fl.NormBound(0.5), "factor is 0.5, expected 1 or more"),
        (lambda: fl.NormBound(excess="cut"), "excess is 'cut'"),  # type: ignore[arg-type]
        (lambda: fl.TrimmedMean(0.5), r"share is 0.5, expected a number in \[0, 0.5\)"),
    ],
)
def test_nonsense_is_refused(make: Any, says: str) -> None:  # noqa: ANN401
    with pytest.raises(fl.ConfigError, match=says):
        make()
