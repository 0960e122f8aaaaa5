"""A snapshot is loaded by a run of the same federation only: every choice is described and compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import fedlama as fl
from fedlama import DataError
from fedlama.choices.strategies import FedAvg
from fedlama.core.layers import by_mapping, by_module


@dataclass(frozen=True)
class Rates:
    """Settings inside a strategy."""

    first: float = 0.5


@dataclass(frozen=True)
class OwnStrategy(FedAvg):
    """A user's strategy with a nested dataclass, a table and a tensor."""

    name: ClassVar[str] = "own"
    rates: Rates = Rates()
    table: tuple[tuple[str, int], ...] = ()
    weights: Tensor | None = None


def smooth(output: Tensor, target: Tensor) -> Tensor:
    return functional.cross_entropy(output, target, label_smoothing=0.1)


def federation(**given: Any) -> fl.Federation:  # noqa: ANN401  (any field)
    changes = dict(given)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))
        x, y = torch.randn(40, 4), torch.randint(3, (40,))
    batch_size = changes.pop("batch_size", 5)
    clients = [fl.ClientData(x[i::4], y[i::4], batch_size, test=(x[:2], y[:2])) for i in range(4)]
    base = fl.Federation(net, clients, fl.FedLAMA(2, 2), local_steps=12, solver=fl.SGD(0.1, momentum=0.5))
    return replace(base, **changes)


MODEL = federation().model
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"seed": 1}, "seed was 0, and is 1 now"),
    ({"local_steps": 16}, "local_steps was 12, and is 16 now"),
    ({"micro_batch_size": 2}, "micro_batch_size was null, and is 2 now"),
    ({"local_work": fl.LocalWork(epochs=1)}, "local_work.epochs was null, and is 1 now"),
    ({"strategy": fl.FedAvg(2)}, "strategy was 'fedlama', and is 'fedavg' now"),
    ({"strategy": fl.FedLAMA(2, 2, warm_up_rounds=1)}, "strategy.warm_up_rounds was 0, and is 1 now"),
    ({"solver": fl.SGD(0.1, momentum=0.5, decay_at=(3,))}, r"solver.decay_at was \[\], and is \[3\] now"),
    ({"solver": fl.SGD(0.2, momentum=0.5)}, "solver.learning_rate was 0.1, and is 0.2 now"),
    ({"sampler": fl.UniformSampler(4)}, "sampler was 'all', and is 'uniform' now"),
    ({"availability": fl.RandomAbsence(away=0.1)}, "availability was 'always', and is 'random' now"),
    ({"codec": fl.Float16()}, "codec was 'float32', and is 'float16' now"),
    ({"server_optimizer": fl.ServerMomentum()}, "server_optimizer was 'replace', and is 'momentum' now"),
    ({"aggregator": fl.Median()}, "aggregator was 'mean', and is 'median' now"),
    ({"weighting": "equal"}, "weighting was 'samples', and is 'equal' now"),
    ({"evaluate": "best_client"}, "evaluate was 'global', and is 'best_client' now"),
    ({"evaluate_every": 2}, "evaluate_every was null, and is 2 now"),
    ({"objective": smooth}, "task was 'classification', and is 'tests.resume.test_description:smooth' now"),
    ({"objective": nn.CrossEntropyLoss()}, "and is 'torch.nn.modules.loss:CrossEntropyLoss' now"),
    ({"task": fl.Classification(label_smoothing=0.1)}, "task.label_smoothing was 0.0, and is 0.1 now"),
    ({"layers": by_module(MODEL)}, "layers.0.weight was .*, and is not set now"),
    (
        {"layers": by_mapping(MODEL, lambda name: "a" if name < "3" else "b")},
        "layers.0.weight was .*, and is not set now",
    ),
    ({"test_set": fl.TestSet(torch.ones(2, 4), torch.ones(2).long())}, "test_set was null, and is"),
    ({"validation_set": fl.TestSet(torch.ones(2, 4), torch.ones(2).long())}, "validation_set was null, and is"),
    (
        {"early_stopping": fl.EarlyStopping(3), "validation_set": fl.TestSet(torch.ones(2, 4), torch.ones(2).long())},
        "early_stopping was null, and is ",
    ),
    ({"evaluate_clients": "own"}, "evaluate_clients was 'none', and is 'own' now"),
    ({"batch_size": 2}, "clients.batch_size was 5, and is 2 now"),
    ({"engine": fl.Stacked(precision="bfloat16")}, "precision was 'float32', and is 'bfloat16' now"),
]


@pytest.fixture(scope="module")
def taken() -> tuple[Any, list[fl.RoundRecord]]:
    run = fl.Run(federation())
    records = [run.advance(), run.advance()]
    return run.state_dict(), records


@pytest.mark.parametrize(("changes", "clause"), CHANGES, ids=[str(next(iter(c))) for c, _ in CHANGES])
def test_another_federation_is_refused_with_what_differs(
    changes: dict[str, Any], clause: str, taken: tuple[Any, list[fl.RoundRecord]]
) -> None:
    run = fl.Run(federation(**changes))
    with pytest.raises(DataError, match=f"it is of another federation: .*{clause}"):
        run.load_state_dict(*taken)
    assert run.round_index == 0
    assert run.ledger.transfers == []


def test_every_field_of_a_federation_is_described() -> None:
    later = {"local_work": fl.LocalWork(epochs=1), "micro_batch_size": 2, "privacy": fl.Privacy()}
    later["personal"] = fl.Personal()
    described = federation(**later).describe()
    names = {field.name for field in fields(fl.Federation)}
    names -= {"rounds", "epochs"}  # a budget is described by its local steps
    assert described.keys() == (names - {"keep_client_models", "objective"}) | {"version", "precision"}
    assert json.loads(json.dumps(described, allow_nan=False)) == described
    for name in names - {
        "model",
        "test_set",
        "engine",
        "device",
        "keep_client_models",
        "objective",
        "privacy",
        "personal",
    }:
        assert any(name in change or name == "clients" for change, _ in CHANGES), f"no test changes {name}"


def test_a_snapshot_may_move_to_another_place(taken: tuple[Any, list[fl.RoundRecord]]) -> None:
    for engine in ("stacked", "workers", fl.Stacked(chunk=2), fl.Workers(threads=1)):
        run = fl.Run(federation(engine=engine, keep_client_models=True))
        run.load_state_dict(*taken)
        assert run.round_index == 2


def test_an_engine_is_described_alike_by_name_and_by_options() -> None:
    assert federation(engine="stacked").describe() == federation(engine=fl.Stacked()).describe()
    assert federation(engine=fl.Stacked(chunk=3)).describe()["engine"]["chunk"] == 3


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"rates": Rates(0.25)}, "strategy.rates.first was 0.5, and is 0.25 now"),
        ({"table": (("a", 2),)}, r'strategy.table was \[\["a", 1\]\], and is \[\["a", 2\]\] now'),
        ({"weights": torch.zeros(2)}, "strategy.weights.digest was "),
    ],
)
def test_a_users_own_choice_is_compared_field_by_field(change: dict[str, Any], clause: str) -> None:
    own = OwnStrategy(2, table=(("a", 1),), weights=torch.ones(2))
    run = fl.Run(federation(strategy=own))
    records = [run.advance()]
    again = fl.Run(federation(strategy=replace(own)))
    again.load_state_dict(run.state_dict(), records)
    assert again.round_index == 1
    with pytest.raises(DataError, match=clause):
        fl.Run(federation(strategy=replace(own, **change))).load_state_dict(run.state_dict(), records)


def test_a_choice_that_cannot_be_described_trains_and_is_refused_where_it_would_be_written() -> None:
    @dataclass(frozen=True)
    class WithGenerator(FedAvg):
        name: ClassVar[str] = "with-generator"
        numbers: Any = None

    own = federation(strategy=WithGenerator(2, numbers=(number for number in range(3))))
    run = fl.Run(own)
    run.advance()
    for describe in (own.describe, run.state_dict):
        with pytest.raises(fl.ConfigError, match=r"strategy\.numbers is a generator, which cannot be described"):
            describe()


def test_a_setting_that_an_older_description_lacks_counts_as_its_default(
    taken: tuple[Any, list[fl.RoundRecord]],
) -> None:
    snapshot, records = taken
    older = json.loads(json.dumps(snapshot.facts["federation"]))
    del older["solver"]["decay_at"], older["task"], older["precision"]
    older = replace(snapshot, facts={**snapshot.facts, "federation": older})
    fl.Run(federation()).load_state_dict(older, records)
    with pytest.raises(DataError, match=r"solver\.decay_at was \[\], and is \[3\] now"):
        fl.Run(federation(solver=fl.SGD(0.1, momentum=0.5, decay_at=(3,)))).load_state_dict(older, records)
    with pytest.raises(DataError, match="task was "):
        fl.Run(federation(objective=smooth)).load_state_dict(older, records)


def test_privacy_is_described() -> None:
    changed = federation(privacy=fl.Privacy(0.5)).differences(federation().describe())
    assert [clause for clause in changed if "privacy was null, and is " in clause] == changed
    assert len(changed) == 1
