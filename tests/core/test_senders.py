"""Different layers from different clients: FedLDF and FedLP by hand, in the ledger, with clients that are away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.choices.strategies.fedldf import Furthest
from fedlama.choices.strategies.fedlp import KeptAtRandom
from fedlama.core.ledger import CHOICE, DISTANCES


def line(strategy: Any, **changes: Any) -> fl.Federation:  # noqa: ANN401
    """A line w x + b from 0 over clients (x, y) = (1, 1), (3, 0.5), (0.5, 4) with 4, 2 and 6 equal samples.

    One step of rate 0.1 on the squared error leads to w = 0.2 x y and b = 0.2 y:
    w = 0.2, 0.3, 0.4 and b = 0.2, 0.1, 0.8.
    """
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    points = [(1.0, 1.0, 4), (3.0, 0.5, 2), (0.5, 4.0, 6)]
    clients = [fl.ClientData(torch.full((n, 1), x), torch.full((n, 1), y), n) for x, y, n in points]
    settings: dict[str, Any] = {"local_steps": 1, "solver": fl.SGD(0.1), "task": fl.Regression()} | changes
    return fl.Federation(model, clients, strategy, **settings)


def random_federation(strategy: Any, **changes: Any) -> fl.Federation:  # noqa: ANN401
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    draw = torch.Generator().manual_seed(1)
    clients = [
        fl.ClientData(torch.randn(n, 4, generator=draw), torch.randint(3, (n,), generator=draw), 4)
        for n in (8, 12, 6, 10, 11)
    ]
    settings: dict[str, Any] = {"local_steps": 12, "solver": fl.SGD(0.1, momentum=0.5)} | changes
    return fl.Federation(model, clients, strategy, **settings)


def test_fedldf_by_hand() -> None:
    result = line(fl.FedLDF(1, senders=2)).run()
    # w from the clients 1 and 2 with 2 and 6 samples, b from 0 and 2 with 4 and 6.
    assert float(result.model["weight"]) == pytest.approx((2 * 0.3 + 6 * 0.4) / 8, abs=1e-7)
    assert float(result.model["bias"]) == pytest.approx((4 * 0.2 + 6 * 0.8) / 10, abs=1e-7)


def test_the_ledger_of_fedldf() -> None:
    ledger = line(fl.FedLDF(1, senders=2)).run().ledger
    moved = [(t.direction, t.clients, {p.layer: p.payload_bytes for p in t.payloads}) for t in ledger.transfers]
    assert moved == [
        ("down", (0, 1, 2), {"weight": 4, "bias": 4}),
        ("up", (0, 1, 2), {DISTANCES: 16}),  # a float64 for each of two layers
        ("down", (0, 1, 2), {CHOICE: 1}),  # two bits
        ("up", (0,), {"bias": 4}),
        ("up", (1,), {"weight": 4}),
        ("up", (2,), {"weight": 4, "bias": 4}),
    ]
    assert ledger.payload_bytes("up") == 3 * 16 + 16
    assert ledger.synchronisations() == {"weight": 1, "bias": 1}
    assert ledger.cost() == 1  # 2 (2/3), rounded


def test_as_many_senders_as_clients_are_fedavg_but_for_the_reports() -> None:
    for strategy in (fl.FedLDF(2, senders=5), fl.FedLP(2, keep=1.0)):
        result, fedavg = random_federation(strategy).run(), random_federation(fl.FedAvg(2)).run()
        assert all(torch.equal(result.model[name], value) for name, value in fedavg.model.items())
        assert result.cost_percent == fedavg.cost_percent == 100.0
    assert result.ledger.transfers == fedavg.ledger.transfers  # FedLP's


def test_fedlp_draws_each_layer_of_each_client_by_itself() -> None:
    names = tuple(f"l{i}" for i in range(8))
    kept: list[bool] = []
    pairs = 0
    for index in range(200):
        chosen = KeptAtRandom(0.3, 7, index, names).choose(names, [0, 2, 5], {})
        table = [[client in chosen[name] for name in names] for client in (0, 2, 5)]
        kept += [flag for row in table for flag in row]
        pairs += sum(table[0][i] and table[1][i] for i in range(8))
    assert sum(kept) / len(kept) == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / len(kept)) ** 0.5)
    assert pairs / 1600 == pytest.approx(0.09, abs=4 * (0.09 * 0.91 / 1600) ** 0.5)
    # A client's draws do not depend on who else takes part.
    alone = KeptAtRandom(0.3, 7, 5, names).choose(names, [2], {})
    among = KeptAtRandom(0.3, 7, 5, names).choose(names, [0, 2, 5], {})
    assert {name for name in names if 2 in alone[name]} == {name for name in names if 2 in among[name]}


def test_fedlp_averages_a_layer_over_those_who_kept_it() -> None:
    for seed in range(12):
        result = line(fl.FedLP(1, keep=0.5), seed=seed).run()
        chosen = KeptAtRandom(0.5, seed, 0, ("weight", "bias")).choose(("weight", "bias"), [0, 1, 2], {})
        for name, values in {"weight": (0.2, 0.3, 0.4), "bias": (0.2, 0.1, 0.8)}.items():
            total = sum((4, 2, 6)[client] for client in chosen[name])
            expected = sum((4, 2, 6)[c] * values[c] for c in chosen[name]) / total if total else 0.0
            assert float(result.model[name]) == pytest.approx(expected, abs=1e-7)


def test_a_layer_that_nobody_sends_keeps_its_value_and_its_momentum() -> None:
    federation = random_federation(fl.FedLP(2, keep=1e-9), server_optimizer=fl.ServerMomentum(), engine="loop")
    run = fl.Run(federation)
    before = run.global_model()
    record = run.advance()
    assert all(torch.equal(run.global_model()[name], value) for name, value in before.items())
    assert record.layers["0.weight"].bytes_up == 0
    assert record.layers["0.weight"].discrepancy is None
    # The clients train again from the global model.
    assert all(torch.equal(run.engine.client_values(1)[name], run.values[name]) for name in run.values)


AWAY = {"availability": fl.RandomAbsence(away=0.3, dies=0.2, min_replies=0.2)}


@pytest.mark.selection
@pytest.mark.parametrize("strategy", [fl.FedLDF(2, senders=2), fl.FedLP(2, keep=0.4)], ids=lambda s: s.name)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        AWAY,
        {"sampler": fl.UniformSampler(3), "server_optimizer": fl.ServerAdam()},
        {"codec": fl.Differences(bits=4, feedback=False)},
        {"solver": fl.Scaffold(0.05)},
    ],
    ids=["all", "away", "adam", "4 bits", "scaffold"],
)
def test_a_run_resumes_bit_for_bit(strategy: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401
    federation = random_federation(strategy, **changes)
    whole = federation.run()
    first = fl.Run(federation)
    before = [first.advance() for _ in range(3)]
    second = fl.Run(federation)
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    assert all(torch.equal(result.model[name], value) for name, value in whole.model.items())
    assert result.ledger.transfers == whole.ledger.transfers


def test_only_clients_that_answered_are_asked() -> None:
    result = random_federation(fl.FedLDF(2, senders=2), **AWAY).run()
    for record in result.rounds:
        reported = [t.clients for t in record.transfers if [p.layer for p in t.payloads] == [DISTANCES]]
        layers = {"0.weight", "1.bias"}
        for name in layers if reported else ():
            senders = [
                c
                for t in record.transfers
                if t.direction == "up"
                for c in t.clients
                for p in t.payloads
                if p.layer == name
            ]
            assert set(senders) <= set(reported[0])
            assert len(senders) == min(2, len(reported[0]))


def test_equal_distances_go_by_number_and_layers_without_parameters_come_from_all() -> None:
    chosen = Furthest(2).choose(["a", "statistics"], [1, 4, 6], {"a": [1.0, 1.0, 1.0]})
    assert chosen == {"a": frozenset({1, 4})}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aggregator": fl.Median()}, "aggregator is 'median', which compares all clients"),
        ({"weighting": "fednova", "solver": fl.SGD(0.1)}, "weighting is 'fednova', whose scale"),
        ({"codec": fl.Differences(bits=4)}, "codec is 'differences' with a state"),
        ({"privacy": fl.Privacy(clip=1.0, noise=1.0), "weighting": "equal"}, "privacy is set, whose noise"),
        ({"solver": fl.FedDyn(0.1), "server_optimizer": fl.ServerFedDyn()}, "solver is 'feddyn'"),
    ],
    ids=["median", "fednova", "feedback", "privacy", "feddyn"],
)
def test_what_needs_all_clients_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(fl.ConfigError, match=message):
        fl.Run(random_federation(fl.FedLP(2), **changes))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(fl.ConfigError, match="keep is 0"):
        fl.FedLP(2, keep=0)
    with pytest.raises(fl.ConfigError, match="senders is 0"):
        fl.FedLDF(2, senders=0)


class OwnSenders:
    """A user's rule: odd clients send the first layer."""

    needs_distances = False

    def choose(self, layers: Any, clients: Any, distances: Any) -> dict[str, frozenset[int]]:  # noqa: ANN401
        return {layers[0]: frozenset({1, 3, 99})}


def test_a_rule_of_the_users_own() -> None:
    class Own(fl.FedAvg):
        chooses_senders = True

        def plan(self, state: tuple[str, ...], round_index: int) -> fl.Plan:
            return replace(super().plan(state, round_index), senders=OwnSenders())

    record = random_federation(Own(2)).run().rounds[0]
    sizes = {t.clients: len(t.payloads) for t in record.transfers if t.direction == "up"}
    assert sorted(sizes) == [(0, 2, 4), (1, 3)]
    assert sizes[(0, 2, 4)] == sizes[(1, 3)] - 1
