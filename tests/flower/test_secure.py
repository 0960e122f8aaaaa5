"""Rounds under secure aggregation: the bits of plain sums, clients that vanish, and what the server sees."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("cryptography", reason="comes with Flower")

import fedlama as fl
from fedlama import ConfigError, FedlamaError, Result
from fedlama.core import wire
from fedlama.core.ledger import LayerPayload
from fedlama.flower import RoundPolicy
from fedlama.flower.client.secrets import secrets_path
from fedlama.flower.client.state import load
from fedlama.flower.protocol import SecureRequest, TrainRequest
from fedlama.flower.secure.agreement import SecureRules
from fedlama.flower.secure.fixed_point import FixedPoint, weighted_change
from fedlama.flower.server.exchange import KEYS
from fedlama.flower.server.known_clients import KnownClients
from fedlama.runs.network_log import read_log
from tests.engines.test_one_shot import ONE_SHOT
from tests.engines.test_personal import FLAYER
from tests.flower.cases import QUICK, deployed, federation, in_process
from tests.flower.pauses import skip_pauses
from tests.flower.test_client_scores import both
from tests.flower.test_same_as_loop import CASES, Masked

EVERYONE: dict[str, Any] = {"sampler": fl.AllClients(), "strategy": fl.FedLAMA(2, 3), "local_steps": 12}
HALF = RoundPolicy(deadline=2.0, join=1.0, poll=0.01, min_replies=0.5)
OTHERS = ("clients by their samples", "power of choice", "fedldf", "fedlp")  # cohorts of two, and others' layers

APART = (
    *("server ", "momentum each round", "adamw", "fedprox", "a frozen group", "fed-ams", "fed-lamb"),
    *("cyclic", "fedpart", "fixed", "fedlama, accelerated", "fedlama, phi 4"),
)
"""First words of the cases whose choice adds nothing to the sum: it acts before or after it, or only chooses layers."""


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_pauses(monkeypatch)


def assert_same_sums(result: Result, plain: Result) -> None:
    """The same models, intervals, discrepancies and scores bit for bit; losses to their rounding."""
    for name, value in plain.model.items():
        assert torch.equal(result.model[name], value), name
    for ours, theirs in zip(result.rounds, plain.rounds, strict=True):
        assert (ours.cohort, ours.score) == (theirs.cohort, theirs.score)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-14)
        for layer, record in theirs.layers.items():
            for field in ("interval", "synchronised", "discrepancy", "unit_discrepancy"):
                assert getattr(ours.layers[layer], field) == getattr(record, field), (layer, field)


def fitting() -> list[str]:
    """The cases of a deployment that go with secure aggregation."""
    fits = {name for name, case in CASES.items() if "codec" not in case and case.get("weighting") != "fednova"}
    return sorted(fits - set(OTHERS))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.thorough] * name.startswith(APART)) for name in fitting()]
)
def test_the_bits_of_plain_sums(name: str, tmp_path: Path) -> None:
    given = federation(**CASES[name])
    secure = deployed(given, in_process(given, tmp_path / "a"), aggregation="secure").to_end([])
    assert_same_sums(secure, deployed(given, in_process(given, tmp_path / "b"), aggregation="sums").to_end([]))


PRIVATE: dict[str, Any] = {
    "weighting": "equal",
    "privacy": fl.Privacy(clip=0.5, noise=0.1, delta=1e-2),
    "strategy": fl.FedAvg(2),
    "model": torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(72, 5)),
}
HEADS = FLAYER | {"codec": fl.Float32(), "aggregator": fl.Mean(), "evaluate_clients": "none", "test_set": None}


@pytest.mark.parametrize(
    "changes",
    [
        PRIVATE,
        {"solver": fl.Scaffold(0.05)},
        {"model": Masked(), "strategy": fl.FedAvg(2)},
        {"local_steps": 40, "strategy": fl.FedLAMA(2, 2)},  # more rounds than one agreement serves
        HEADS,
    ],
    ids=["privacy", "scaffold", "complex numbers and infinities", "many rounds", "personal heads and rates"],
)
def test_the_bits_of_plain_sums_with(changes: dict[str, Any], tmp_path: Path) -> None:
    if "privacy" in changes:
        pytest.importorskip("dp_accounting")
    given = federation(**{**EVERYONE, **changes})
    channel = in_process(given, tmp_path / "a")
    secure = deployed(given, channel, aggregation="secure").to_end([])
    assert_same_sums(secure, deployed(given, in_process(given, tmp_path / "b"), aggregation="sums").to_end([]))
    stages = [request.round_index for request, _ in channel.secured if request.stage == "keys" and request.client == 0]
    assert stages == [*range(0, given.budget.rounds, 8)]


def test_the_sum_is_that_of_what_the_clients_hold(tmp_path: Path) -> None:
    """Restated from the clients' own files: the mean of one round, from their models and weights."""
    given = federation(**EVERYONE | {"strategy": fl.FedAvg(2)})
    channel = in_process(given, tmp_path)
    run = deployed(given, channel, aggregation="secure")
    before = {name: value.clone() for name, value in run.values.items()}
    run.advance()
    states = [load(channel.path(client)) for client in range(5)]
    samples = torch.tensor([run.clients.samples(client) for client in range(5)], dtype=torch.float64)
    for name, value in run.values.items():
        if value.is_floating_point():
            moved = [state.values[name].double() - before[name].double() for state in states if state]
            steps = [(share * each * 2**40).round() for share, each in zip(samples / samples.sum(), moved, strict=True)]
            mean = before[name].double() + sum(steps) / 2**40  # type: ignore[call-overload]
            torch.testing.assert_close(value.double(), mean, rtol=1e-7, atol=1e-12)


def test_what_reaches_the_server_says_nothing_of_a_client(tmp_path: Path) -> None:
    """No upload holds a client's numbers, no two are alike, bits are half ones, and losses are masked too."""
    given = federation(**EVERYONE)
    channel = in_process(given, tmp_path)
    deployed(given, channel, aggregation="secure").advance()
    layers, seen = given.engine_setup().sent_layers, set[bytes]()
    for client, reply in enumerate(sorted(channel.replies, key=lambda reply: reply.client)):
        state, message = load(channel.path(client)), wire.unpack(reply.payload)
        assert state is not None
        assert (message.loss, dict(message.scalars)) == (0.0, {})
        (request,) = (each for each in channel.requests if each.client == client)
        for index, payload in message.payloads.items():
            plain = weighted_change(layers[index], state.values, state.reference, request.weight)
            masked = FixedPoint.from_bytes(payload)
            assert not (plain.words == masked.words).any()
            seen.add(payload)
        loss = wire.unpack(reply.masked_loss).payloads[0]
        assert state.loss.hex() not in str(reply)
        seen.add(loss)
    bits = sum(sum(byte.bit_count() for byte in payload) for payload in seen) / sum(8 * len(each) for each in seen)
    assert abs(bits - 0.5) < 0.01
    assert len(seen) == 5 * (len(layers) + 1)


def test_the_ledger_has_every_byte(tmp_path: Path) -> None:
    given = federation(**EVERYONE)
    channel = in_process(given, tmp_path)
    result = deployed(given, channel, aggregation="secure", log=tmp_path / "network.jsonl").to_end([])
    up = sum(len(r.payload) + len(r.evaluation) + len(r.masked_loss) for r in channel.replies)
    up += sum(len(reply.payload) for _, reply in channel.secured if reply)
    assert result.ledger.total_bytes("up") + result.ledger.total_bytes("evaluation") == up
    down = sum(len(request.payload) + len(request.shares) for request in channel.requests)
    down += sum(len(request.payload) for request, _ in channel.secured)
    assert result.ledger.total_bytes("down") == down
    assert result.cost == given.run().cost
    log = read_log(tmp_path / "network.jsonl")
    own = [t for t in result.ledger.transfers if t.payloads[0].layer == KEYS]
    for way in ("up", "down"):
        logged = sum(line["secure"][f"bytes_{way}"] for line in log.values())
        assert logged == sum(t.total_bytes for t in own if t.direction == way) > 0
    assert log[0]["secure"] | {"seconds": 0, "bytes_up": 0, "bytes_down": 0} == {
        "members": [0, 1, 2, 3, 4], "threshold": 3, "recovered": [], "attempts": 1, "bytes_up": 0, "bytes_down": 0,
        "seconds": 0,
    }  # fmt: skip
    assert "norms" not in log[0]
    # Five clients, eight rounds: keys 32 + 8 * 64; shares for four others of 8 * 2 * 33 + 16 each.
    assert own[0].payloads == (LayerPayload(KEYS, 0, 0),)
    assert own[1].payloads == (LayerPayload(KEYS, 0, 544),)
    assert own[3].payloads == (LayerPayload(KEYS, 0, 4 * 544),)


Fault = Callable[[SecureRequest], str | None]


def at(stage: str, clients: set[int], kind: str, round_index: int = 0) -> Fault:
    """A fault of some clients in one stage."""
    return lambda r: kind if (r.stage, r.round_index) == (stage, round_index) and r.client in clients else None


@pytest.mark.selection
@pytest.mark.parametrize("kind", ["lost", "raise", "short"])
@pytest.mark.parametrize(
    ("stage", "in_sum"),
    [("keys", [0, 1, 3, 4]), ("shares", [0, 1, 3, 4]), ("upload", [0, 1, 3, 4]), ("unmask", [0, 1, 2, 3, 4])],
)
def test_a_client_that_vanishes_at_any_stage(stage: str, in_sum: list[int], kind: str, tmp_path: Path) -> None:
    """Client 2 in round 0: before keys, after keys, after shares, or when masks are taken out."""
    given = federation(**EVERYONE)
    channel, twin = in_process(given, tmp_path / "a"), in_process(given, tmp_path / "b")
    channel.secure_fault = at(stage, {2}, kind)
    gone = {2} - set(in_sum)
    channel.fault = lambda r: kind if (stage, r.client, r.round_index) == ("upload", 2, 0) else None
    twin.fault = lambda r: "raise" if r.client in gone and r.round_index == 0 else None
    run = deployed(given, channel, HALF, aggregation="secure", log=tmp_path / "network.jsonl")
    plain = deployed(given, twin, HALF, aggregation="sums")
    run.advance()
    plain.advance()
    assert_same_values(run.values, plain.values)
    line = read_log(tmp_path / "network.jsonl")[0]
    assert line["answered"] == in_sum
    assert line["secure"]["recovered"] == ([2] if stage == "upload" else [])
    assert line["secure"]["attempts"] == 1
    if gone:
        assert any("client 2" in incident for incident in line["incidents"]) or kind == "lost"


def assert_same_values(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name


def test_a_client_that_vanished_comes_back(tmp_path: Path) -> None:
    """Away for the upload of rounds 1 and 2, inside a cycle: its keys of later rounds still serve."""
    given = federation(**EVERYONE | {"local_steps": 24})
    runs = {}
    for kind in ("secure", "sums"):
        channel = in_process(given, tmp_path / kind)
        channel.fault = lambda r: "raise" if r.client == 3 and r.round_index in (1, 2) else None
        runs[kind] = deployed(given, channel, HALF, aggregation=kind, log=tmp_path / f"{kind}.jsonl").to_end([])
    assert_same_sums(runs["secure"], runs["sums"])
    log = read_log(tmp_path / "secure.jsonl")
    assert [log[r]["secure"]["recovered"] for r in range(4)] == [[], [3], [3], []]
    assert all(line["answered"] == [0, 1, 2, 3, 4] for number, line in log.items() if number not in (1, 2))


def test_too_few_helpers_are_an_incident_and_the_round_is_repeated(tmp_path: Path) -> None:
    """Two of five help to take the masks out of round 1, three are needed; with new keys all five do."""
    given = federation(**EVERYONE)
    channel, tries = in_process(given, tmp_path / "a"), list[str]()

    def fault(request: SecureRequest) -> str | None:
        if (request.stage, request.round_index) != ("unmask", 1):
            return None
        tries.append(request.agreement)
        return "lost" if request.agreement == tries[0] and request.client > 1 else None

    channel.secure_fault = fault
    run = deployed(given, channel, HALF, aggregation="secure", log=tmp_path / "network.jsonl")
    result = run.to_end([])
    assert_same_sums(result, deployed(given, in_process(given, tmp_path / "b"), aggregation="sums").to_end([]))
    line = read_log(tmp_path / "network.jsonl")[1]
    assert line["secure"]["attempts"] == 2
    assert "2 of 5 clients helped to take the masks out, 3 are needed" in " ".join(line["incidents"])
    assert "the round is repeated with new keys" in " ".join(line["incidents"])
    assert line["replayed"] == [0, 1, 2, 3, 4]
    up = sum(len(r.payload) + len(r.masked_loss) for r in channel.replies if r.round_index == 1)
    sent = [t for t in result.ledger.transfers if t.round_index == 1 and t.direction == "up"]
    up += sum(len(p.payload) for request, p in channel.secured if p and request.round_index == 1)
    first = next(r.agreement for r, _ in channel.secured)
    assert sum(t.total_bytes for t in sent) == up
    assert {r.agreement for r, _ in channel.secured if r.stage == "keys"} == {first, tries[-1]}


@pytest.mark.parametrize("stage", ["keys", "shares", "unmask"])
def test_a_round_that_fails_again_and_again_ends_the_run_with_a_sentence(stage: str, tmp_path: Path) -> None:
    given = federation(**EVERYONE)
    channel = in_process(given, tmp_path)
    channel.secure_fault = at(stage, {0, 1, 2}, "raise")
    run = deployed(given, channel, HALF, aggregation="secure")
    with pytest.raises(FedlamaError, match=r"failed 3 times, at last because 2 of 5 clients .*, 3 are needed; nothing"):
        run.advance()
    channel.secure_fault = lambda _: None
    result = deployed(given, channel, HALF, aggregation="secure").to_end([])
    plain = deployed(given, in_process(given, tmp_path / "b"), HALF, aggregation="sums").to_end([])
    assert_same_sums(result, plain)


def test_uploads_of_too_few_are_never_unmasked(tmp_path: Path) -> None:
    given = federation(**EVERYONE)
    channel = in_process(given, tmp_path)
    channel.fault = lambda r: "raise" if r.client in (0, 1, 2) else None
    policy = replace(HALF, min_replies=0.1)
    with pytest.raises(FedlamaError, match="2 of 5 clients answered, 3 are needed"):
        deployed(given, channel, policy, aggregation="secure").advance()
    assert not [request for request, _ in channel.secured if request.stage == "unmask"]


def test_a_wrong_share_is_noticed(tmp_path: Path) -> None:
    """Client 4 sends a damaged share of client 4's secret; the sum would be noise. New keys, then it behaves."""
    given = federation(**EVERYONE)
    channel, count = in_process(given, tmp_path / "a"), [0]

    def fault(request: SecureRequest) -> str | None:
        count[0] += request.stage == "unmask"
        return "wrong" if request.stage == "unmask" and request.client == 1 and count[0] <= 5 else None

    channel.secure_fault = fault
    run = deployed(
        given, channel, QUICK, aggregation="secure", log=tmp_path / "network.jsonl", secure=SecureRules(threshold=1.0)
    )
    run.advance()
    plain = deployed(given, in_process(given, tmp_path / "b"), aggregation="sums")
    plain.advance()
    assert_same_values(run.values, plain.values)
    incidents = " ".join(read_log(tmp_path / "network.jsonl")[0]["incidents"])
    assert "secret do not fit together: a client sent a wrong one" in incidents or "not of one secret" in incidents


def test_a_client_without_its_keys_is_out_until_the_next_agreement(tmp_path: Path) -> None:
    given = federation(**EVERYONE | {"local_steps": 24})
    channel = in_process(given, tmp_path)

    def fault(request: TrainRequest) -> str | None:
        if (request.client, request.round_index) == (4, 1):
            secrets_path(channel.path(4)).unlink()
        return None

    channel.fault = fault
    run = deployed(given, channel, HALF, aggregation="secure", log=tmp_path / "network.jsonl")
    run.to_end([])
    log = read_log(tmp_path / "network.jsonl")
    assert [line["answered"] for line in log.values()][:4] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [0, 1, 2, 3, 4],
    ]
    assert "client 4 cannot train: this client has no keys of the agreement" in " ".join(log[1]["incidents"])


@pytest.mark.parametrize("killed", [1, 4])
def test_a_server_killed_in_a_round_goes_on(killed: int, tmp_path: Path) -> None:
    """It dies after the masks were taken out and before it saved; new keys mask the same uploads."""
    given = federation(**EVERYONE)
    channel = in_process(given, tmp_path / "a")
    run = deployed(given, channel, aggregation="secure")
    records = [run.advance() for _ in range(killed)]
    snapshot = run.state_dict()
    run.advance()  # lost with the server
    snapshot = replace(snapshot, facts=json.loads(json.dumps(snapshot.facts)))
    again = deployed(given, channel, aggregation="secure")
    again.load_state_dict(snapshot, records)
    result = again.to_end([], records)
    assert {reply.round_index for reply in channel.replies if reply.replayed} == {killed}
    assert_same_sums(result, deployed(given, in_process(given, tmp_path / "b"), aggregation="sums").to_end([]))


def test_sampled_cohorts_agree_among_themselves(tmp_path: Path) -> None:
    given = federation(sampler=fl.UniformSampler(3), strategy=fl.FedAvg(2))
    channel = in_process(given, tmp_path)
    result = deployed(given, channel, aggregation="secure").to_end([])
    shared = [
        (r.round_index, r.members) for r, _ in channel.secured if r.stage == "shares" and r.client == r.members[0]
    ]
    assert shared == [(record.round_index, record.cohort) for record in result.rounds]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"codec": fl.Float16()}, "codec is 'float16', but masked numbers take 8 bytes each"),
        ({"sampler": fl.UniformSampler(2)}, "2 clients, expected 3 or more"),
        ({"strategy": fl.FedLP(2, keep=0.5)}, "asks different layers of different clients"),
        (CASES["power of choice"], "sampler is 'power-of-choice', which chooses by losses of single clients"),
        (CASES["fednova"] | {"sampler": fl.AllClients()}, "weights depend on which clients answer"),
        (FLAYER | {"test_set": None}, "codec is 'layer-mask', but masked numbers(.|\n)*scores of single clients"),
        (ONE_SHOT, "aggregator is 'fedlpa', but FlowerEngine does not show single clients' models; set aggregation="),
    ],
)
def test_a_federation_that_does_not_fit_is_refused(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    given = federation(**EVERYONE | changes)
    with pytest.raises(ConfigError, match=says):
        deployed(given, in_process(given, tmp_path), aggregation="secure").to_end([])


@pytest.mark.parametrize("models", ["own", "global"])
def test_scores_of_single_clients_are_refused(models: str, tmp_path: Path) -> None:
    given = both(evaluate_clients=models)
    with pytest.raises(
        ConfigError, match="evaluate_clients shows scores of single clients, but aggregation is 'secure'"
    ):
        deployed(given, in_process(given, tmp_path), aggregation="secure").to_end([])


def test_bans_leave_three_clients_or_more(tmp_path: Path) -> None:
    given = federation(**EVERYONE)
    with pytest.raises(ConfigError, match="2 clients, expected 3 or more"):
        deployed(
            given, in_process(given, tmp_path), aggregation="secure", known=KnownClients(banned=frozenset({0, 1, 2}))
        )


FEDLPA = ["rounds=1", "strategy.name=fedavg", "aggregator.name=fedlpa", "layers.name=module"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["aggregator.name=median"], "aggregator.name is 'median', but aggregation is 'secure'"),
        (["aggregator.name=trimmed-mean"], "aggregator.name is 'trimmed-mean'"),
        (["aggregator.name=norm-bound"], "aggregator.name is 'norm-bound'"),
        (["aggregator.name=element-mean"], "aggregator.name is 'element-mean'"),
        (FEDLPA, "aggregator.name is 'fedlpa', but aggregation is 'secure'"),
        (["evaluate_clients=own", "client_test_share=0.2"], "evaluate_clients shows scores of single"),
        (["weighting=fednova"], "weighting is 'fednova'"),
        (["strategy.name=fedlp"], "asks different layers of different clients"),
        (["sampler.name=power-of-choice", "sampler.active=3", "sampler.candidates=4"], "losses of single clients"),
        (["codec.name=differences"], "codec is 'differences', but masked"),
        (["partition.clients=2"], "a cohort has 2 clients, expected 3 or more"),
        (["sampler.name=uniform", "sampler.active=2"], "a cohort has 2 clients"),
    ],
)
def test_what_shows_single_clients_is_refused_at_submission(overrides: list[str], says: str) -> None:
    from fedlama.experiment import read, resolve
    from fedlama.flower.deploy.submit import run_config

    given = resolve(read("digits", ["partition.clients=4", *overrides]))
    run_config(given, {})
    with pytest.raises(ConfigError, match=says):
        run_config(given, {"aggregation": "secure"})
