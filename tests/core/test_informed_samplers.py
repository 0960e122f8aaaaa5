"""Samplers that look at the clients' data and losses: draws by hand, in a run, and from a checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import fedlama as fl

SIZES = [4, 8, 12, 16, 40]


def clients() -> list[fl.ClientData]:
    draw = torch.Generator().manual_seed(0)
    return [
        fl.ClientData(torch.randn(size, 3, generator=draw), torch.randint(2, (size,), generator=draw), 4)
        for size in SIZES
    ]


def federation(sampler: fl.Sampler, **changes: object) -> fl.Federation:
    torch.manual_seed(0)
    settings = {"local_steps": 16, "solver": fl.SGD(0.5), "weighting": "equal"} | changes
    return fl.Federation(nn.Linear(3, 2), clients(), fl.FedAvg(2), sampler=sampler, **settings)  # type: ignore[arg-type]


def population(losses: dict[int, float] | None = None) -> fl.Population:
    return fl.Population(len(SIZES), lambda client: SIZES[client], losses or {})


def test_clients_are_drawn_in_proportion_to_their_samples() -> None:
    draws = 4000
    drawn = [fl.WeightedSampler(1).choose(population(), index, seed=3)[0] for index in range(draws)]
    for client, size in enumerate(SIZES):
        share = size / sum(SIZES)
        assert drawn.count(client) / draws == pytest.approx(share, abs=4 * (share * (1 - share) / draws) ** 0.5)


def test_two_of_three_are_drawn_one_after_another() -> None:
    # Without replacement: P({0, 1}) = p0 p1 / (1 - p0) + p1 p0 / (1 - p1) for p = (1/2, 1/4, 1/4).
    three = fl.Population(3, lambda client: [2, 1, 1][client])
    cohorts = [fl.WeightedSampler(2).choose(three, index, seed=1) for index in range(6000)]
    expected = 0.5 * 0.25 / 0.5 + 0.25 * 0.5 / 0.75
    assert cohorts.count((0, 1)) / 6000 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 6000) ** 0.5)


def test_power_of_choice_takes_the_highest_losses_of_its_candidates() -> None:
    everyone = fl.PowerOfChoice(active=2, candidates=5)
    assert everyone.choose(population({0: 1.0, 1: 5.0, 2: 0.5, 3: 4.0, 4: 2.0}), 3, seed=0) == (1, 3)
    # A client that never answered comes first: its loss counts as infinite.
    assert everyone.choose(population({0: 1.0, 1: 5.0, 3: 4.0, 4: 2.0}), 3, seed=0) == (1, 2)
    few = fl.PowerOfChoice(active=1, candidates=2)
    losses = {client: float(client) for client in range(5)}
    for index in range(20):
        (taken,) = few.choose(population(losses), index, seed=0)
        assert taken == max(fl.PowerOfChoice(active=2, candidates=2).choose(population(losses), index, seed=0))


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["loop", "stacked", "workers", "recorded"])
@pytest.mark.parametrize("sampler", [fl.WeightedSampler(2), fl.PowerOfChoice(2, candidates=4)], ids=lambda s: s.name)
def test_a_run_resumes_with_the_same_cohorts(engine: str, sampler: fl.Sampler) -> None:
    whole = federation(sampler, engine=engine).run()
    assert len({record.cohort for record in whole.rounds}) > 1
    first = fl.Run(federation(sampler, engine=engine))
    before: list[fl.RoundRecord] = []
    for _ in range(1, 8):
        before.append(first.advance())
        snapshot = first.state_dict()
        second = fl.Run(federation(sampler, engine=engine))
        second.load_state_dict(replace(snapshot, facts=json.loads(json.dumps(snapshot.facts))), before)
        result = second.to_end([], before)
        assert [record.cohort for record in result.rounds] == [record.cohort for record in whole.rounds]
        assert all(torch.equal(result.model[name], value) for name, value in whole.model.items())


def test_a_run_chooses_by_the_losses_of_the_round_before() -> None:
    result = federation(fl.PowerOfChoice(2, candidates=5)).run()
    seen: dict[int, float] = {}
    run = fl.Run(federation(fl.PowerOfChoice(2, candidates=5)))
    for record in result.rounds:
        known = fl.PowerOfChoice(2, candidates=5).choose(population(seen), record.round_index, seed=0)
        assert record.cohort == known
        run.advance()
        seen = dict(run.planner.losses)
        assert set(record.cohort) <= seen.keys()


def test_others_keep_no_losses() -> None:
    run = fl.Run(federation(fl.UniformSampler(2)))
    run.advance()
    assert run.planner.losses == {}
    assert "losses" not in run.state_dict().facts


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(fl.ConfigError, match=r"candidates is 2, expected active \(3\) or more"):
        fl.PowerOfChoice(3, candidates=2)
    with pytest.raises(fl.ConfigError, match="candidates is 10, but there are only 5 clients"):
        federation(fl.PowerOfChoice(2)).run()
    empty = fl.Population(3, lambda client: [1, 0, 0][client])
    with pytest.raises(fl.DataError, match="draws 2 clients by their numbers of samples, but only 1 clients have any"):
        fl.WeightedSampler(2).choose(empty, 0, seed=0)


def test_a_forged_loss_in_a_checkpoint_is_refused() -> None:
    run = fl.Run(federation(fl.PowerOfChoice(2, candidates=4)))
    records = [run.advance()]
    snapshot = run.state_dict()
    for forged in ({"0": "high"}, {"0": float("nan")}, {"9": 1.0}):
        with pytest.raises(fl.DataError):
            fl.Run(federation(fl.PowerOfChoice(2, candidates=4))).load_state_dict(
                replace(snapshot, facts={**snapshot.facts, "losses": forged}), records
            )


def test_samples_are_not_counted_twice() -> None:
    with pytest.raises(
        fl.ConfigError, match="draws clients in proportion to their samples, so weighting 'samples' would"
    ):
        replace(federation(fl.WeightedSampler(2)), weighting="samples").run()
    replace(federation(fl.WeightedSampler(2)), weighting="equal").run()


def test_candidates_may_be_drawn_uniformly() -> None:
    losses = {client: float(client) for client in range(5)}
    few = fl.PowerOfChoice(active=1, candidates=2, candidates_by="uniform")
    taken = [few.choose(population(losses), index, seed=0)[0] for index in range(4000)]
    # The larger of two of five: client c with probability 2 c / (5 * 4).
    for client in range(5):
        share = 2 * client / 20
        assert taken.count(client) / 4000 == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5)


def test_candidates_by_samples_are_not_counted_twice() -> None:
    with pytest.raises(fl.ConfigError, match=r"would count these twice; set weighting='equal', or sampler.candid"):
        federation(fl.PowerOfChoice(2, candidates=4), weighting="samples").run()
    federation(fl.PowerOfChoice(2, candidates=4, candidates_by="uniform"), weighting="samples").run()
    with pytest.raises(fl.ConfigError, match=r"would count these twice; set weighting='equal'$"):
        federation(fl.WeightedSampler(2), weighting="samples").run()


def test_a_method_named_choose_alone_does_not_make_a_sampler_informed() -> None:
    class Uniform(fl.UniformSampler):
        def choose(self) -> str:
            return "something else"

    assert Uniform(2).is_uniform
    cohorts = [record.cohort for record in federation(Uniform(2)).run().rounds]
    assert cohorts == [record.cohort for record in federation(fl.UniformSampler(2)).run().rounds]
