"""The NumPy restatement on its own: calculus, solvers, and the methods where they must coincide."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.reference import (
    Batch,
    Federation,
    FedLamaRules,
    Model,
    Trace,
    consolidated,
    loss_and_gradient,
    random_model,
    recycling_probabilities,
    train_fedavg,
    train_fedlama,
    train_fedluar,
    train_fixed,
)
from tests.reference.federation import MomentumLife, discrepancy, weighted_mean
from tests.reference.sgd import decay, keras_step, torch_step


def batches_of(clients: int, steps: int, seed: int = 0) -> list[list[Batch]]:
    """Random batches of 5 with 6 features and 3 classes; each client prefers a class."""
    rng = np.random.default_rng(seed)
    return [
        [
            (rng.normal(size=(5, 6)) + client, np.where(rng.random(5) < 0.5, client % 3, rng.integers(3, size=5)))
            for _ in range(steps)
        ]
        for client in range(clients)
    ]


@pytest.fixture
def federation() -> Federation:
    """Four clients, eight rounds of two steps, a layer per dense module."""
    return Federation(
        initial=random_model([6, 8, 7, 3], seed=1),
        batches=batches_of(clients=4, steps=16),
        layers=[[0, 1], [2, 3], [4, 5]],
        rounds=8,
        steps=2,
        learning_rate=0.05,
        momentum=0.9,
        sizes=[10, 20, 30, 40],
    )


def assert_equal_models(first: Model, second: Model) -> None:
    """Bit for bit."""
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_equal_runs(first: Trace, second: Trace) -> None:
    """The same global and local models in every round, bit for bit."""
    for a, b in zip(first.rounds, second.rounds, strict=True):
        assert a.losses == b.losses
        assert_equal_models(a.server, b.server)
        for ours, theirs in zip(a.clients, b.clients, strict=True):
            assert_equal_models(ours, theirs)


# Calculus and solvers


def test_gradient_against_finite_differences() -> None:
    """Central differences in every single parameter."""
    model, batch, h = random_model([6, 8, 7, 3], seed=3), batches_of(1, 1)[0][0], 1e-6
    _, gradient = loss_and_gradient(model, batch)
    for variable, exact in zip(model, gradient, strict=True):
        for position in np.ndindex(variable.shape):
            kept = variable[position]
            variable[position] = kept + h
            above, _ = loss_and_gradient(model, batch)
            variable[position] = kept - h
            below, _ = loss_and_gradient(model, batch)
            variable[position] = kept
            assert exact[position] == pytest.approx((above - below) / (2 * h), rel=1e-5, abs=1e-8)


def test_momentum_conventions_part_when_the_rate_changes() -> None:
    """Gradient 1, momentum 0.5, rates 1 then 0.1: Keras carries the old rate along."""
    one, start = [np.array([1.0])], [np.array([0.0])]
    weights, buffer = torch_step(start, start, one, rate=1.0, momentum=0.5)
    weights, _ = torch_step(weights, buffer, one, rate=0.1, momentum=0.5)
    assert weights[0][0] == pytest.approx(-1.0 - 0.1 * 1.5)
    weights, velocity = keras_step(start, start, one, rate=1.0, momentum=0.5)
    weights, _ = keras_step(weights, velocity, one, rate=0.1, momentum=0.5)
    assert weights[0][0] == pytest.approx(-1.0 - 0.5 - 0.1)


def test_momentum_conventions_agree_at_a_constant_rate(federation: Federation) -> None:
    """Up to rounding."""
    torch_like = train_fedavg(federation).rounds[-1].server
    keras_like = train_fedavg(replace(federation, convention="keras")).rounds[-1].server
    for a, b in zip(torch_like, keras_like, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_weight_decay_applies_where_told() -> None:
    """Variable 0 only."""
    decayed = decay([np.ones(1), np.ones(1)], [np.full(1, 4.0), np.full(1, 4.0)], 0.25, decayed=[0])
    assert [float(g[0]) for g in decayed] == [2.0, 1.0]


def test_discrepancy_by_hand_and_by_the_reference_point_identity() -> None:
    """The sum p ||u - x||^2 is sum p ||x - r||^2 - ||u - r||^2 for any r."""
    p, values, r = [0.25, 0.75], [np.array([0.0, 4.0]), np.array([4.0, 0.0])], np.array([1.0, 7.0])
    mean = weighted_mean(values, p)
    assert mean.tolist() == [3.0, 1.0]
    direct = discrepancy(values, mean, p)
    assert direct == 0.25 * 18 + 0.75 * 2
    assert discrepancy(values, r, p) - float(np.sum((mean - r) ** 2)) == direct


# FedLAMA and its anchors


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phi_one_is_fedavg(federation: Federation, dtype: type[np.floating]) -> None:
    """Bit for bit, with the intervals adjusted from the first round on, and a new cohort every round."""
    drawn = replace(federation, dtype=dtype, cohorts=[[0, 1], [1, 2], [3, 0], [2, 3]] * 2)
    for setting in (replace(federation, dtype=dtype), drawn):
        lama = train_fedlama(setting, FedLamaRules(phi=1))
        assert_equal_runs(lama, train_fedavg(setting))
        assert lama.counts == [8, 8, 8]
        assert lama.rounds[-1].server[0].dtype == dtype


def test_before_the_first_adjustment_it_is_fedavg(federation: Federation) -> None:
    """With the adjustment out of reach."""
    assert_equal_runs(train_fedlama(federation, FedLamaRules(phi=4, adjust_after=99)), train_fedavg(federation))


def test_fixed_table_of_ones_is_fedavg(federation: Federation) -> None:
    """Bit for bit."""
    assert_equal_runs(train_fixed(federation, [1, 1, 1]), train_fedavg(federation))


def test_fixed_table_of_twos_is_fedavg_with_twice_the_steps(federation: Federation) -> None:
    """Every second round, bit for bit."""
    long = train_fedavg(replace(federation, steps=4, rounds=4))
    short = train_fixed(federation, [2, 2, 2])
    for a, b in zip(short.rounds[1::2], long.rounds, strict=True):
        assert_equal_models(a.server, b.server)
        assert a.d == b.d
    assert short.relative_cost(8) == 0.5


def test_fedlama_is_a_fixed_table_between_two_adjustments(federation: Federation) -> None:
    """Start the table where FedLAMA has just adjusted: the same next cycle."""
    lama = train_fedlama(replace(federation, momentum_life="cycle"), FedLamaRules(phi=4))
    adjusted = lama.rounds[3].adjusted
    assert sorted(set(adjusted)) == [1, 4]
    later = replace(
        federation,
        initial=lama.rounds[3].server,
        batches=[batches[8:] for batches in federation.batches],
        rounds=4,
    )
    fixed = train_fixed(later, adjusted)
    for a, b in zip(lama.rounds[4:], fixed.rounds, strict=True):
        assert a.travelled == b.travelled
        assert_equal_models(a.server, b.server)


def test_boundaries_and_cost(federation: Federation) -> None:
    """All layers meet every phi rounds, a layer that is not due keeps each client's own value, cost within bounds."""
    trace = train_fedlama(federation, FedLamaRules(phi=4))
    assert all(all(record.travelled) for record in trace.rounds[3::4])
    apart = trace.rounds[4]
    for layer, variables in enumerate(federation.layers):
        same = np.array_equal(apart.clients[0][variables[0]], apart.clients[1][variables[0]])
        assert same == apart.travelled[layer]
    assert 0.25 <= trace.relative_cost(8) < 1
    assert trace.cost == sum(dim * n for dim, n in zip(federation.dims(), trace.counts, strict=True))


def test_discrepancy_is_per_step_and_parameter(federation: Federation) -> None:
    """Equation 2 recomputed from a run whose last synchronisation is undone."""
    trace = train_fixed(federation, [2, 2, 2])
    undone = train_fixed(replace(federation, rounds=2), [3, 3, 3])
    p, layer = federation.proportions([0, 1, 2, 3]), federation.layers[1]
    squares = 0.0
    for variable in layer:
        values = [client[variable] for client in undone.rounds[1].clients]
        squares += discrepancy(values, consolidated(undone.rounds[1].clients, p)[variable], p)
    assert trace.rounds[1].d[1] == pytest.approx(squares / (2 * 2 * federation.dims()[1]), rel=1e-12)


def test_accelerating_variant(federation: Federation) -> None:
    """It starts at tau' = phi rounds, adjusts after the first cycle, and costs no less than FedAvg(tau')."""
    trace = train_fedlama(federation, FedLamaRules(phi=4, accelerate=True))
    assert trace.rounds[0].in_force == [4, 4, 4]
    assert [any(record.travelled) for record in trace.rounds[:4]] == [False, False, False, True]
    assert set(trace.rounds[3].adjusted) <= {1, 4}
    assert 1 in trace.rounds[3].adjusted
    assert all(all(record.travelled) for record in trace.rounds[3::4])
    assert 1 < trace.relative_cost(8 // 4) <= 4


# Participation


def test_new_cohorts_start_from_the_global_model(federation: Federation) -> None:
    """A newcomer's first round is one client's training from the global model with zero momentum."""
    setting = replace(federation, cohorts=[[0, 1], [2, 1]], rounds=4)
    trace = train_fedlama(setting, FedLamaRules(phi=2))
    assert [record.cohort for record in trace.rounds] == [[0, 1], [0, 1], [2, 1], [2, 1]]
    alone = replace(
        federation,
        initial=trace.rounds[1].server,
        batches=[batches[4:] for batches in federation.batches],
        cohorts=[[2]],
        rounds=1,
    )
    assert trace.rounds[2].losses[0] == train_fedavg(alone).rounds[0].losses[0]


def test_momentum_lives_differ(federation: Federation) -> None:
    """Four rules, four results, when one client leaves and one stays in another slot."""
    lives: list[MomentumLife] = ["client", "slot", "cycle", "round"]
    ends = []
    for life in lives:
        setting = replace(federation, cohorts=[[0, 1], [1, 2]], rounds=4, momentum_life=life)
        ends.append(float(train_fedlama(setting, FedLamaRules(phi=2)).rounds[-1].server[0].sum()))
    assert len(set(ends)) == 4


def test_proportions_are_over_the_cohort(federation: Federation) -> None:
    """p_i = n_i / n, or equal."""
    assert federation.proportions([0, 2]) == [0.25, 0.75]
    assert replace(federation, sizes=None).proportions([0, 2]) == [0.5, 0.5]


# FedLUAR


def test_fedluar_without_recycling_is_fedavg(federation: Federation) -> None:
    """Up to rounding: one averages updates, the other models."""
    luar = train_fedluar(federation, [set()] * 8).training
    for a, b in zip(luar.rounds, train_fedavg(federation).rounds, strict=True):
        for ours, theirs in zip(a.server, b.server, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)


def test_fedluar_repeats_the_last_update_of_a_recycled_layer(federation: Federation) -> None:
    """Layer 1 is recycled in rounds 1 and 2: same update three times, same score, and only its count stays the same."""
    luar = train_fedluar(federation, [set(), {1}, {1}, *[set()] * 5])
    for variable in federation.layers[1]:
        np.testing.assert_array_equal(luar.updates[0][variable], luar.updates[1][variable])
        np.testing.assert_array_equal(luar.updates[0][variable], luar.updates[2][variable])
        assert not np.array_equal(luar.updates[2][variable], luar.updates[3][variable])
    assert luar.scores[0][1] == luar.scores[1][1] == luar.scores[2][1] != luar.scores[3][1]
    assert luar.training.counts == [8, 6, 8]
    assert [sum(p) for p in luar.probabilities] == pytest.approx([1.0] * 8)


def test_recycling_probabilities_by_hand() -> None:
    """Inverse scores 1, 2 and 4."""
    assert recycling_probabilities([1.0, 0.5, 0.25]) == pytest.approx([1 / 7, 2 / 7, 4 / 7])


# Refusals


def test_refusals(federation: Federation) -> None:
    """Layers that do not form a partition, tables of the wrong length, an undefined variant, recycling nothing."""
    with pytest.raises(ValueError, match="every variable"):
        replace(federation, layers=[[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="one interval per layer"):
        train_fixed(federation, [1])
    with pytest.raises(ValueError, match="accelerating"):
        FedLamaRules(phi=2, cut="printed", accelerate=True)
    with pytest.raises(ValueError, match="first round"):
        train_fedluar(federation, [{0}])
