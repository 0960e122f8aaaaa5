"""One round and one cycle by hand: two numbers, clients whose gradients are known, every value written out.

The model is ``free + held``; client c's gradient in both numbers is its target t_c in every step, so without momentum
each local step moves both by ``-rate * t_c``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fedlama import SGD, FedAvg, Federation, FedLAMA, FedProx, FixedIntervals, RoundRecord, Run, UniformSampler
from tests.core.helpers import Line, play, product, pushed


def line(**changes: object) -> Federation:
    """Two clients pushed to -1 and -3 by rate 1: they walk up by 1 and 3 per step; "held" meets every 3 rounds."""
    federation = Federation(
        Line(10.0),
        pushed(-1.0, -3.0),
        FixedIntervals(base_interval=2, intervals={"held": 3}),
        local_steps=12,
        solver=SGD(learning_rate=1.0),
        objective=product,
        keep_client_models=True,
    )
    return replace(federation, **changes)  # type: ignore[arg-type]


def seen(federation: Federation) -> tuple[Run, list[RoundRecord]]:
    """Run and collect the rounds."""
    records: list[RoundRecord] = []
    return play(federation, lambda _run, record: records.append(record)), records


def on_clients(record: RoundRecord, name: str) -> list[float]:
    """One number's value on every client after a round."""
    return [float(values[name]) for values in record.client_models.values()]


def test_layers_that_are_due_meet_and_the_others_keep_each_clients_own_value() -> None:
    _, rounds = seen(line())
    # Per round clients walk by 2 and 6; the average of "free" by 4.
    assert [on_clients(record, "free") for record in rounds[:3]] == [[14.0, 14.0], [18.0, 18.0], [22.0, 22.0]]
    assert [on_clients(record, "held") for record in rounds[:3]] == [[12.0, 16.0], [14.0, 22.0], [22.0, 22.0]]


def test_discrepancy_is_taken_before_overwriting() -> None:
    _, rounds = seen(line())
    # "free": values 12 and 16 about 14, so (4 + 4) / 2. "held": 16 and 28 about 22, (36 + 36) / 2.
    assert [record.layers["free"].discrepancy for record in rounds[:3]] == [4.0, 4.0, 4.0]
    assert [record.layers["held"].discrepancy for record in rounds[:3]] == [None, None, 36.0]
    # Equation 2: per local step since the last synchronisation, and per parameter.
    assert rounds[0].layers["free"].unit_discrepancy == 4.0 / 2
    assert rounds[2].layers["held"].unit_discrepancy == 36.0 / 6


def test_weighted_average_and_discrepancy() -> None:
    _, rounds = seen(line(clients=pushed(-1.0, -3.0, samples=[3, 1])))
    # p = 3/4, 1/4: values 12 and 16 give 13; discrepancy 3/4 * 1 + 1/4 * 9.
    assert on_clients(rounds[0], "free") == [13.0, 13.0]
    assert rounds[0].layers["free"].discrepancy == 3.0


def test_equal_average_by_name() -> None:
    _, rounds = seen(line(clients=pushed(-1.0, -3.0, samples=[3, 1]), weighting="equal"))
    assert on_clients(rounds[0], "free") == [14.0, 14.0]
    assert rounds[0].layers["free"].discrepancy == 4.0


def test_momentum_is_kept_through_synchronisations_of_its_layer_and_of_others() -> None:
    # Momentum 1/2: steps of 1, 1.5, 1.75, 1.875, ... times the gradient, never averaged, never reset.
    _, rounds = seen(line(solver=SGD(learning_rate=1.0, momentum=0.5)))
    walk = [1.0, 1.5, 1.75, 1.875, 1.9375, 1.96875]
    first, second = sum(walk[:2]), sum(walk[2:4])
    assert on_clients(rounds[0], "held") == [10 + first, 10 + 3 * first]
    assert on_clients(rounds[1], "held") == [10 + first + second, 10 + 3 * (first + second)]
    assert on_clients(rounds[0], "free") == [10 + 2 * first] * 2
    assert on_clients(rounds[1], "free") == [10 + 2 * first + 2 * second] * 2
    # "held" meets after the third round; if momentum were reset or averaged there, the next step would show it.
    third = sum(walk[4:])
    assert rounds[2].layers["held"].discrepancy == (first + second + third) ** 2


def test_momentum_per_round_begins_with_zeros() -> None:
    _, rounds = seen(line(solver=SGD(learning_rate=1.0, momentum=0.5, state_scope="round")))
    assert on_clients(rounds[1], "held") == [15.0, 25.0]


def test_fedprox_pulls_towards_the_last_synchronisation_of_each_layer() -> None:
    _, rounds = seen(line(solver=FedProx(0.5, proximal=0.5)))
    held, free = [10.0, 10.0], 10.0
    for e in range(3):
        walkers = [free, free]
        for client, push in enumerate((1.0, 3.0)):
            for _ in range(2):
                walkers[client] += 0.5 * (push - 0.5 * (walkers[client] - free))
                held[client] += 0.5 * (push - 0.5 * (held[client] - 10.0))  # out of sync since the start
        free = sum(walkers) / 2
        assert on_clients(rounds[e], "free") == [free, free]
        assert on_clients(rounds[e], "held") == (held if e < 2 else [sum(held) / 2] * 2)


def test_the_last_round_brings_everything_into_sync() -> None:
    run, rounds = seen(line(local_steps=8))  # four rounds; "held" would be due after the third and the sixth
    assert [record.layers["held"].synchronised for record in rounds] == [False, False, True, True]
    assert on_clients(rounds[3], "held") == [26.0, 26.0]
    assert {name: float(value) for name, value in run.global_model().items()} == {"free": 26.0, "held": 26.0}


def test_unit_discrepancy_of_a_closing_round_counts_the_steps_that_were_made() -> None:
    _, rounds = seen(line(local_steps=8))
    # One round of two steps since the meeting after round 2: values 24 and 28 about 26.
    assert rounds[3].layers["held"].discrepancy == 4.0
    assert rounds[3].layers["held"].unit_discrepancy == 4.0 / 2


def test_the_users_model_and_the_initial_weights() -> None:
    model = Line(10.0)
    seen(line(model=model))
    assert {name: float(value) for name, value in model.state_dict().items()} == {"free": 10.0, "held": 10.0}


# Cohorts


def drawn(rounds: int, hold_rounds: int = 1) -> Federation:
    """Two of six clients for each cycle of three rounds."""
    return line(
        clients=pushed(-1.0, -2.0, -3.0, -4.0, -5.0, -6.0),
        sampler=UniformSampler(2, hold_rounds),
        local_steps=2 * rounds,
    )


def test_a_cohort_changes_only_at_the_end_of_a_cycle() -> None:
    _, rounds = seen(drawn(rounds=18))
    cohorts = [record.cohort for record in rounds]
    for start in range(0, 18, 3):
        assert len({*cohorts[start : start + 3]}) == 1
    assert len({*cohorts}) > 2
    assert all(len(set(cohort)) == 2 and list(cohort) == sorted(cohort) for cohort in cohorts)


def test_a_cohort_can_be_held_longer() -> None:
    _, rounds = seen(drawn(rounds=18, hold_rounds=2))
    # Cycles start in rounds 0, 3, 6, ...; only the even ones among them are multiples of 2.
    changes = [e for e in range(1, 18) if rounds[e].cohort != rounds[e - 1].cohort]
    assert changes
    assert set(changes) <= {6, 12}


def test_newcomers_start_from_the_complete_global_model() -> None:
    run = Run(drawn(rounds=18))
    for _ in range(6):
        before = {name: float(value) for name, value in run.global_model().items()}
        record = run.advance()
        walks = [2.0 * (client + 1) for client in record.cohort]
        assert on_clients(record, "held") == [before["held"] + walk for walk in walks]
        assert on_clients(record, "free") == [before["free"] + sum(walks) / 2] * 2
        for _ in range(2):
            run.advance()


def test_weights_are_taken_over_the_cohort() -> None:
    run = Run(
        line(clients=pushed(-1.0, -2.0, -3.0, -4.0, samples=[1, 2, 3, 4]), sampler=UniformSampler(2), local_steps=6)
    )
    run.advance()
    samples = [client + 1 for client in run.cohort]
    assert run.server.weights(run.cohort) == tuple(count / sum(samples) for count in samples)


@pytest.mark.parametrize(("scope", "carried"), [("cohort", 0.0), ("slot", 1.0), ("round", 0.0)])
def test_momentum_at_a_change_of_cohort(scope: str, carried: float) -> None:
    # FedAvg with one step per round, one client of two: its first step after a change is g, plus g_before / 2 in
    # the program's way, where momentum passes to the next client in the slot.
    federation = Federation(
        Line(0.0),
        pushed(-1.0, -3.0),
        FedAvg(1),
        local_steps=12,
        solver=SGD(learning_rate=1.0, momentum=0.5, state_scope=scope),  # type: ignore[arg-type]
        sampler=UniformSampler(1),
        objective=product,
        keep_client_models=True,
    )
    _, rounds = seen(federation)
    places = [float(record.client_models[record.cohort[0]]["free"]) for record in rounds]
    steps = [after - before for before, after in zip([0.0, *places], places, strict=False)]
    velocity, changes = 0.0, 0
    for e, record in enumerate(rounds):
        changes += e > 0 and record.cohort != rounds[e - 1].cohort
        velocity = carried * velocity / 2 + (1.0 if record.cohort == (0,) else 3.0)
        assert steps[e] == velocity
    assert changes > 1


def test_averages_run_in_client_order_and_tolerate_other_types() -> None:
    # 64-bit counters are averaged in float64 and rounded.
    from fedlama.core.averaging import weighted_mean

    counters = [torch.tensor(3), torch.tensor(4), torch.tensor(4)]
    assert weighted_mean(counters, [0.2, 0.4, 0.4]).item() == 4
    assert weighted_mean(counters, [0.2, 0.4, 0.4]).dtype == torch.int64


def test_fedlama_drives_the_same_rounds() -> None:
    # Two equal layers: 1 - lambda = 1/2 < delta at the second layer only, so both are relaxed.
    federation = line(strategy=FedLAMA(2, 2), local_steps=12)
    _, rounds = seen(federation)
    assert [record.layers["held"].interval for record in rounds] == [1, 1, 2, 2, 2, 2]
    assert [on_clients(record, "held") for record in rounds[1:4]] == [[18.0, 18.0], [20.0, 24.0], [26.0, 26.0]]
    assert rounds[3].layers["held"].discrepancy == 16.0
    assert rounds[3].layers["held"].unit_discrepancy == 16.0 / 4


def test_the_learning_rate_follows_the_run_and_not_the_clients_own_steps() -> None:
    # One of two clients in each round of one step; the rate is a tenth from the fourth step of the run on.
    federation = line(
        clients=pushed(-1.0, -1.0),
        strategy=FedAvg(1),
        sampler=UniformSampler(1),
        solver=SGD(learning_rate=1.0, decay_at=(3,)),
        local_steps=6,
    )
    _, rounds = seen(federation)
    places = [on_clients(record, "free")[0] for record in rounds]
    assert places == pytest.approx([11.0, 12.0, 13.0, 13.1, 13.2, 13.3])
    assert len({record.cohort for record in rounds}) == 2
