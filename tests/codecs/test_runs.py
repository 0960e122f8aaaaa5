"""Runs with codecs: every engine, checkpoints, evaluations, availability, aggregators and the ledger."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.choices.codecs import Codec, codec_of, download_codec, full_codec
from fedlama.core.plan import Plan
from fedlama.engines import Stacked, Workers
from fedlama.engines.api import CohortState, Engine, EngineSetup, RoundOrder
from fedlama.engines.loop import LoopEngine
from fedlama.engines.transfers import payload_bytes
from tests.codecs.cases import CODECS, WITH_FEEDBACK
from tests.engines.cases import assert_same, federation, run
from tests.resume.test_exact import assert_exact
from tests.resume.test_exact import federation as resumable

EVERYONE: dict[str, Any] = {"sampler": fl.AllClients()}
CHOICES: dict[str, dict[str, Any]] = {
    "everyone": EVERYONE,
    "new cohorts": {"strategy": fl.FedLAMA(2, 3)},
    "recycling": {"strategy": fl.FedLUAR(2, 1)} | EVERYONE,
    "frozen": {"strategy": fl.Cyclic(2)} | EVERYONE,
    "absences": {"availability": fl.RandomAbsence(away=0.3, dies=0.2)} | EVERYONE,
    "aggregator": {"aggregator": fl.TrimmedMean(0.2)} | EVERYONE,
    "server optimizer": {"server_optimizer": fl.ServerMomentum(momentum=0.5)} | EVERYONE,
}


def setup(codec: Codec) -> EngineSetup:
    """The fixed parts of a federation of five clients."""
    return federation("loop", codec=codec).engine_setup()


def apart(engine: Engine, parts: EngineSetup) -> Mapping[str, torch.Tensor]:
    """Give five clients models that differ, and return the global values that they differ from."""
    draw = torch.Generator().manual_seed(4)
    values = {n: v.detach().clone() for n, v in parts.model.state_dict().items()}
    engine.start_cohort(range(5), values)
    state = engine.state_dict()
    for value in state.values.values():
        if value.is_floating_point():
            value += 0.1 * torch.randn(value.shape, generator=draw).to(value.device)
    engine.load_state_dict(state)
    return values


def order(plan: Plan, values: Mapping[str, torch.Tensor], evaluation: frozenset[str] = frozenset()) -> RoundOrder:
    return RoundOrder(
        plan=plan,
        steps=1,
        cohort=tuple(range(5)),
        new_cohort=False,
        values=values,
        lacking=frozenset(),
        evaluation=evaluation,
    )


ENGINES = {"loop": LoopEngine, "stacked": Stacked(), "stacked-2": Stacked(chunk=2), "workers": Workers(threads=2)}


@pytest.mark.selection
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "loop"])
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_uploads_and_states_are_those_of_the_loop_engine_bit_for_bit(engine: str, codec: Codec) -> None:
    """With a learning rate of 0 local training changes no parameter, so both engines encode the same numbers."""
    parts = replace(setup(codec), solver=fl.SGD(0.0))
    ours, theirs = ENGINES[engine](parts), LoopEngine(parts)
    due = frozenset(layer.name for layer in parts.layers)
    arrived: list[dict[str, torch.Tensor]] = []
    states: list[CohortState] = []
    for each in (ours, theirs):
        values = apart(each, parts)
        for round_index in range(2):
            each.run_round(order(Plan(round_index, due, {}, cycle_start=False), values))
            received = {name: value for layer in parts.layers for name, value in each.received(layer).items()}
        arrived.append(received)
        states.append(each.state_dict())
    for name in {spec.name for layer in parts.layers for spec in layer.tensors if spec.trainable}:
        assert torch.equal(arrived[0][name], arrived[1][name]), name
    assert states[0].codec_state.keys() == states[1].codec_state.keys()
    for kind, named in states[1].codec_state.items():
        for name, value in named.items():
            assert torch.equal(states[0].codec_state[kind][name], value), name
    if codec in WITH_FEEDBACK:
        assert any(value.any() for value in states[1].codec_state["residual"].values())


@pytest.mark.parametrize("engine", ENGINES)
def test_an_evaluation_changes_no_state(engine: str) -> None:
    parts = setup(fl.Differences(2))
    made = ENGINES[engine](parts)
    values = apart(made, parts)
    layer = parts.layers[0]
    made.run_round(order(Plan(0, frozenset(), {}, cycle_start=False), values, evaluation=frozenset({layer.name})))
    first, again = made.average(layer, [0.2] * 5), made.average(layer, [0.2] * 5)
    assert torch.equal(first.values[layer.tensors[0].name], again.values[layer.tensors[0].name])
    assert not any(value.any() for value in made.state_dict().codec_state["residual"].values())


def test_evaluating_more_often_changes_no_bit_of_a_run() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randint(0, 256, (20, 2, 6, 6), generator=draw, dtype=torch.uint8)
    test_set = fl.TestSet(x, torch.randint(0, 5, (20,), generator=draw), lambda pixels: pixels.float() / 128 - 1)
    choices = {"codec": fl.Differences(2), "strategy": fl.FedLAMA(2, 3), "test_set": test_set} | EVERYONE
    often, seldom = run("loop", evaluate_every=2, **choices), run("loop", evaluate_every=12, **choices)
    assert sum(record.score is not None for record in often.rounds) == 6
    for name, value in seldom.model.items():
        assert torch.equal(often.model[name], value)
    assert often.ledger.payload_bytes("evaluation") > seldom.ledger.payload_bytes("evaluation")


@functools.cache
def of_loop(choices: str, codec: Codec) -> fl.Result:
    """Return the result of the loop engine, computed once for all engines."""
    return run("loop", **(CHOICES[choices] | {"codec": codec}))


@pytest.mark.selection
@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("engine", ["stacked", "workers"])
def test_every_engine_gives_the_results_of_loop(engine: str, choices: str) -> None:
    for codec in (fl.Differences(4), fl.Differences(8, feedback=False)):
        given = CHOICES[choices] | {"codec": codec}
        ours, theirs = run(engine, **given), of_loop(choices, codec)
        assert ours.ledger.transfers == theirs.ledger.transfers
        # A difference in the last bit may move a number across a rounding boundary, by a step of the codec.
        assert_same(ours, theirs, 5e-3)


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("engine", ["loop", "stacked"])
@pytest.mark.parametrize("codec", [fl.Differences(1), fl.Differences(4, feedback=False)], ids=repr)
def test_a_run_continues_bit_for_bit(engine: str, choices: str, codec: Codec) -> None:
    assert_exact(resumable(engine, codec=codec, **CHOICES[choices]))


def test_a_state_of_another_codec_is_refused() -> None:
    first = fl.Run(resumable("loop", codec=fl.Differences(1), **EVERYONE))
    before = [first.advance()]
    snapshot = first.state_dict()
    for group in ("codec", "sent"):
        tensors = {n: v for n, v in snapshot.tensors.items() if not n.startswith(f"{group}/")}
        with pytest.raises(fl.DataError, match="states of the codec"):
            fl.Run(resumable("loop", codec=fl.Differences(1), **EVERYONE)).load_state_dict(
                replace(snapshot, tensors=tensors), before
            )
        wrong = {n: v[..., :1] if n.startswith(f"{group}/") else v for n, v in snapshot.tensors.items()}
        with pytest.raises(fl.DataError, match="expected"):
            fl.Run(resumable("loop", codec=fl.Differences(1), **EVERYONE)).load_state_dict(
                replace(snapshot, tensors=wrong), before
            )


def test_the_global_model_is_what_clients_hold() -> None:
    """After a round with all layers due, the next round starts from one value everywhere, the server's."""
    for codec in CODECS:
        result = run("loop", codec=codec, strategy=fl.FedAvg(2), local_steps=4, **EVERYONE)
        for client, values in result.rounds[-1].client_models.items():
            for name, value in result.model.items():
                assert torch.equal(values[name], value), (codec, client, name)


def test_the_ledger_counts_the_bytes_that_are_encoded() -> None:
    for codec in CODECS:
        given = federation("loop", codec=codec, strategy=fl.FedAvg(2), local_steps=6, **EVERYONE)
        made, records = fl.Run(given), []
        for _ in range(3):
            records.append(made.advance())
            for layer in made.layers:
                lengths = {
                    direction: sum(len(codec_of(spec, each).encode(made.values[spec.name])) for spec in layer.tensors)
                    for direction, each in (
                        ("up", codec),
                        ("change", download_codec(codec)),
                        ("full", full_codec(codec)),
                    )
                }
                record = records[-1].layers[layer.name]
                assert record.bytes_up == 5 * lengths["up"]
                assert record.bytes_down == 5 * lengths["full" if len(records) == 1 else "change"]
                if download_codec(codec).needs_context:
                    assert len(made.server.downloads.coded[layer.name]) == lengths["change"]


def test_a_client_that_missed_a_round_gets_values_and_the_others_changes() -> None:
    codec, absences = fl.Differences(4), fl.RandomAbsence(away=0.4)
    result = run("loop", codec=codec, strategy=fl.FedAvg(2), availability=absences, **EVERYONE)
    layers = setup(codec).layers
    values, changes = (sum(payload_bytes(layer, each) for layer in layers) for each in (fl.Float32(), codec))
    answered: dict[int, int] = {}
    sizes: set[int] = set()
    for record in result.rounds:
        for transfer in record.transfers:
            for client in transfer.clients if transfer.direction == "down" else ():
                in_sync = answered.get(client) == record.round_index - 1
                size = transfer.payload_bytes // len(transfer.clients)
                assert size == (changes if in_sync else values)
                sizes.add(size)
        answered |= {c: t.round_index for t in record.transfers if t.direction == "up" for c in t.clients}
    assert sizes == {changes, values}


def test_the_forecast_is_exact() -> None:
    for codec in (fl.Differences(4), fl.Differences(2, down=False), fl.Differences(8, feedback=False)):
        for strategy in (fl.FedAvg(2), fl.Cyclic(2)):
            for availability in (fl.Always(), fl.RandomAbsence(away=0.3, dies=0.2)):
                given = federation(
                    "loop", codec=codec, strategy=strategy, availability=availability, local_steps=24, **EVERYONE
                )
                expected = fl.forecast(
                    strategy,
                    given.labelling(),
                    codec=codec,
                    sampler=fl.AllClients(),
                    population=5,
                    local_steps=24,
                    base_interval=2,
                    availability=availability,
                )
                ledger = given.run().ledger
                assert expected.certainty == "exact"
                assert expected.low.bytes_up == ledger.total_bytes("up")
                assert expected.low.bytes_down == ledger.total_bytes("down")


def test_feedback_is_refused_where_no_client_stays() -> None:
    with pytest.raises(fl.ConfigError, match=r"draws a new cohort in every round; set codec.feedback=false"):
        run("loop", codec=fl.Differences(4), strategy=fl.FedAvg(2))
    run("loop", codec=fl.Differences(4, feedback=False), strategy=fl.FedAvg(2), local_steps=4)
    run(
        "loop",
        codec=fl.Differences(4),
        strategy=fl.FedAvg(2),
        sampler=fl.UniformSampler(3, hold_rounds=2),
        local_steps=4,
    )


def test_feedback_pays() -> None:
    """One bit with feedback ends near float32; without it on the clients' side it would not."""
    exact = run("loop", strategy=fl.FedAvg(2), local_steps=40, **EVERYONE)
    coarse = run("loop", strategy=fl.FedAvg(2), local_steps=40, codec=fl.Differences(1), **EVERYONE)
    assert coarse.ledger.total_bytes("up") < 0.25 * exact.ledger.total_bytes("up")
    assert coarse.rounds[-1].loss < exact.rounds[0].loss
    assert abs(coarse.rounds[-1].loss - exact.rounds[-1].loss) < 0.25 * abs(
        exact.rounds[0].loss - exact.rounds[-1].loss
    )
