"""LBGM: the rule by hand, lengths that depend on values in the ledger, both sides' look-back vectors, and bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fedlama as fl
from fedlama.analysis.forecast import forecast
from fedlama.choices.codecs import codec_of, length_of
from fedlama.choices.codecs.lbgm import LOOK_BACK
from fedlama.core.layers import TensorSpec
from fedlama.engines import Recorded, Stacked, Workers
from fedlama.errors import ConfigError, DataError
from tests.codecs.cases import DTYPES, SHAPES, context, made, spec_of
from tests.codecs.test_deployment import LosesReplies
from tests.engines.cases import assert_same, federation, run
from tests.flower.cases import assert_same_bits, deployed, in_process
from tests.flower.cases import federation as deployable
from tests.resume.test_exact import assert_exact
from tests.resume.test_exact import federation as resumable

EVERYONE: dict[str, Any] = {"sampler": fl.AllClients()}
CODECS = [fl.LBGM(), fl.LBGM(0.6), fl.LBGM(1.0), fl.Directions(fl.LBGM(0.5), fl.Float16())]
ENGINES: list[Any] = [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(share=2), fl.Auto()]


def uploads(codec: fl.Codec, values: list[list[float]], reference: list[float]) -> tuple[list[list[float]], list[int]]:
    """Return what arrives of one client's uploads, one after another, and their bytes."""
    known = context(codec, torch.tensor(reference), (0,)).row(0)
    arrived, lengths = [], []
    for value in values:
        data, state = codec.encode_with(torch.tensor(value, dtype=torch.float32), known)
        spec = spec_of(known.reference)  # type: ignore[arg-type]
        arrived.append(codec.decode_with(data, spec, known).tolist())
        lengths.append(len(data))
        known = replace(known, state=state)
    return arrived, lengths


def test_the_rule_by_hand() -> None:
    """The look-back vector is (3, 4), then rho = 2, a right angle, and rho = -1 of the new h = (4, -3)."""
    arrived, lengths = uploads(fl.LBGM(0.2), [[3, 4], [6, 8], [4, -3], [-4, 3], [0, 0]], [0.0, 0.0])
    assert arrived == [[3, 4], [6, 8], [4, -3], [-4, 3], [0, 0]]
    assert lengths == [9, 5, 9, 5, 5]  # a byte and two float32, or a byte and one


def test_what_is_left_out_is_what_is_not_parallel() -> None:
    """With g = (4, 0) and h = (4, -3): sin^2 = 1 - 16^2 / (16 * 25) = 0.36, and rho = 16 / 25 = 0.64."""
    for threshold, last, length in ((0.35, [4.0, 0.0], 9), (0.37, [2.56, -1.92], 5)):
        arrived, lengths = uploads(fl.LBGM(threshold), [[4, -3], [4, 0]], [0.0, 0.0])
        assert arrived[1] == pytest.approx(last, abs=1e-6)
        assert lengths == [9, length]


def test_changes_count_from_the_reference() -> None:
    arrived, lengths = uploads(fl.LBGM(0.2), [[13, 24], [7, 16]], [10.0, 20.0])  # h = (3, 4), then -(3, 4)
    assert (arrived, lengths) == ([[13, 24], [7, 16]], [9, 5])


def test_the_look_back_vector_is_the_last_change_that_was_sent_whole() -> None:
    codec, known = fl.LBGM(0.5), context(fl.LBGM(), torch.zeros(2), (3, 5))
    for values, kept in (
        ([[3.0, 4.0], [1.0, 0.0]], [[3.0, 4.0], [1.0, 0.0]]),
        ([[4.0, 4.0], [0.0, 2.0]], [[3.0, 4.0], [0.0, 2.0]]),  # close to (3, 4), and at a right angle to (1, 0)
    ):
        _, state = codec.transmit_with(torch.tensor(values), known)
        assert state[LOOK_BACK].tolist() == kept
        known = replace(known, state=state)
    assert codec.measure(torch.tensor([[6.0, 8.0], [5.0, 0.0]]), known) == [5, 9]


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("codec", CODECS, ids=repr)
def test_a_cohort_is_every_client_encoded_and_decoded(codec: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> None:  # noqa: ANN401
    clients = (4, 7, 9)
    known = context(codec, made(shape, dtype, 9), clients)
    received_states = [dict(known.row(row).state) for row in range(3)]
    for turn in range(3):
        values = torch.stack([made(shape, dtype, seed + (3 if turn == 1 else 0)) for seed in range(3)])
        received, state = codec.transmit_with(values, known)
        lengths = getattr(codec, "up", codec).measure(values, known)
        for row, value in enumerate(values):
            data, own = codec.encode_with(value, known.row(row))
            assert len(data) == lengths[row] == length_of(data[:1], spec_of(value), codec)
            server = replace(known.row(row), state=received_states[row])
            decoded = codec.decode_with(data, spec_of(value), server)
            assert torch.equal(decoded, received[row])
            received_states[row] = getattr(codec, "up", codec).decode_state(data, spec_of(value), server)
            for name, kept in own.items():
                assert torch.equal(kept, state[name][row])
                assert torch.equal(kept, received_states[row][name])
        known = replace(known, state=state)


def test_damaged_payloads_are_refused() -> None:
    value, codec = torch.tensor([3.0, 4.0]), fl.LBGM()
    known = context(codec, torch.zeros(2), (0,)).row(0)
    data, state = codec.encode_with(value, known)
    number, _ = codec.encode_with(value, replace(known, state=state))
    for wrong in (data[:-1], data + b"\0", b"", number + b"\0", number[:-1]):
        with pytest.raises(DataError, match=r"tensor 'w' of shape \(2,\) takes \d bytes"):
            codec.decode_with(wrong, spec_of(value), known)
    with pytest.raises(DataError, match="begins with 7, expected 0 or 1"):
        codec.decode_with(b"\7" + data[1:], spec_of(value), known)
    with pytest.raises(DataError, match="multiple of an earlier change, which is not known here"):
        codec.decode_with(number, spec_of(value), replace(known, state={}))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_not_finite_arrives_so(wrong: float) -> None:
    known = context(fl.LBGM(1.0), torch.zeros(2), (0,))
    _, state = fl.LBGM(1.0).transmit_with(torch.tensor([[3.0, 4.0]]), known)
    received, _ = fl.LBGM(1.0).transmit_with(torch.tensor([[3.0, wrong]]), replace(known, state=state))
    assert not torch.isfinite(received).all()


def test_the_ledger_has_the_lengths_that_were_sent() -> None:
    """With a threshold of 1 every client sends its tensors whole once, and then five bytes for each parameter tensor.

    The network has parameters of 72, 4, 4, 720 and 5 numbers. Its statistics of 4 + 4 float32 and an int64 go as they
    are, in 40 bytes.
    """
    result = run("loop", codec=fl.LBGM(1.0), strategy=fl.FedAvg(2), **EVERYONE)
    first, later = 5 * (4 * 805 + 5 + 40), 5 * (5 * 5 + 40)
    assert [sum(t.payload_bytes for t in record.transfers if t.direction == "up") for record in result.rounds] == [
        first,
        *[later] * 5,
    ]
    assert result.ledger.payload_bytes("up") == first + 5 * later


def test_a_threshold_of_zero_is_fedavg_for_one_more_byte() -> None:
    ours, theirs = (
        run("loop", codec=codec, strategy=fl.FedAvg(2), **EVERYONE) for codec in (fl.LBGM(0.0), fl.Float32())
    )
    assert all(torch.equal(ours.model[name], value) for name, value in theirs.model.items())
    assert ours.ledger.payload_bytes("up") == theirs.ledger.payload_bytes("up") + 6 * 5 * 5  # rounds, clients, tensors


def restated(values: list[list[Tensor]], references: list[Tensor], threshold: float) -> list[Tensor]:
    """Return the means of what arrives in each round, of values[round][client], in plain vector algebra."""
    kept: list[Tensor | None] = [None] * len(values[0])
    means = []
    for models, reference in zip(values, references, strict=True):
        arrived = []
        for client, model in enumerate(models):
            change, before = (model - reference).double().flatten(), kept[client]
            cosine = 0.0 if before is None else float(change @ before / (change.norm() * before.norm()))
            if before is not None and 1 - cosine**2 <= threshold:
                arrived.append(reference.double().flatten() + (change @ before) / (before @ before) * before)
            else:
                kept[client] = change
                arrived.append(model.double().flatten())
        means.append(torch.stack(arrived).mean(0).reshape(reference.shape))
    return means


def test_a_run_is_the_rule_restated() -> None:
    """The clients' models before each average, put through the rule by hand, give the global models."""
    given = federation("loop", codec=fl.LBGM(0.3), strategy=fl.FedAvg(2), weighting="equal", local_steps=16, **EVERYONE)
    live, models, references, globals_ = fl.Run(given), [], [], []
    for _ in range(8):
        order = live.next_order()
        references.append(order.values["4.weight"].clone())
        reply = live.engine.run_round(order)
        models.append([live.engine.client_values(client)["4.weight"] for client in range(5)])
        live.close_round(order, reply, 0.0)
        globals_.append(live.values["4.weight"].clone())
    expected = restated(models, references, 0.3)
    for ours, theirs in zip(globals_, expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)
    lengths = {row.payload_bytes for row in live.ledger.rows() if row.layer == "4.weight" and row.direction == "up"}
    assert lengths == {5, 2881}  # both happened


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": fl.FedAvg(2)},
        {"strategy": fl.FedLAMA(2, 3)},
        {"strategy": fl.FedLUAR(2, 1)},
        {"strategy": fl.Cyclic(2)},
        {"aggregator": fl.TrimmedMean(0.2)},
        {"availability": fl.RandomAbsence(away=0.3, dies=0.2, min_replies=0.1)},
    ],
    ids=["fedavg", "fedlama", "fedluar", "cyclic", "aggregator", "absences"],
)
def test_engines_agree(engine: Any, changes: dict[str, Any]) -> None:  # noqa: ANN401
    ours, theirs = (run(each, codec=fl.LBGM(0.5), **(EVERYONE | changes)) for each in (engine, "loop"))
    assert ours.ledger.transfers == theirs.ledger.transfers
    assert_same(ours, theirs, 1e-4)


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["loop", "stacked", "workers", "recorded"])
@pytest.mark.parametrize("strategy", [fl.FedAvg(2), fl.FedLAMA(2, 3)], ids=lambda strategy: strategy.name)
def test_a_resumed_run_goes_on_bit_for_bit(engine: str, strategy: Any) -> None:  # noqa: ANN401
    assert_exact(resumable(engine, codec=fl.LBGM(0.5), strategy=strategy, **EVERYONE))
    assert_exact(
        resumable(engine, codec=fl.LBGM(0.5), availability=fl.RandomAbsence(away=0.3, min_replies=0.1), **EVERYONE)
    )


@pytest.mark.selection
@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("strategy", [fl.FedAvg(2), fl.FedLAMA(2, 3), fl.FedLUAR(2, 1)], ids=lambda s: s.name)
def test_a_deployment_sends_the_same_bits_and_bytes(codec: fl.Codec, strategy: Any, tmp_path: Path) -> None:  # noqa: ANN401
    given = deployable(codec=codec, strategy=strategy, local_steps=24, **EVERYONE)
    channel = in_process(given, tmp_path)
    result, expected = deployed(given, channel).to_end([]), given.run()
    assert_same_bits(result, expected)
    assert result.ledger.transfers == expected.ledger.transfers
    up = sum(transfer.total_bytes for transfer in result.ledger.transfers if transfer.direction != "down")
    assert up == sum(len(reply.payload) + len(reply.evaluation) for reply in channel.replies)


def test_replies_that_are_lost_move_no_look_back_vector(tmp_path: Path) -> None:
    given = deployable(codec=fl.LBGM(0.5), strategy=fl.FedAvg(2), local_steps=24, **EVERYONE)
    channel = LosesReplies(given.engine_setup, 5, tmp_path)
    channel.lost = set()
    result, expected = deployed(given, channel).to_end([]), given.run()
    assert len(channel.lost) > 5
    assert all(torch.equal(result.model[name], value) for name, value in expected.model.items())


def test_a_restarted_server_knows_the_look_back_vectors(tmp_path: Path) -> None:
    given = deployable(codec=fl.LBGM(0.5), strategy=fl.FedAvg(2), local_steps=24, **EVERYONE)
    channel = in_process(given, tmp_path)
    first = deployed(given, channel)
    before = [first.advance() for _ in range(3)]
    snapshot = first.state_dict()
    assert any(value.any() for name, value in snapshot.tensors.items() if name.startswith(f"codec/{LOOK_BACK}/"))
    first.advance()  # lost with the server: its clients have trained this round, and send it again
    second = deployed(given, channel)
    second.load_state_dict(snapshot, before)
    assert_same_bits(second.to_end([], before), given.run())


def test_a_client_that_lost_its_state_sends_whole_tensors(tmp_path: Path) -> None:
    given = deployable(codec=fl.LBGM(1.0), strategy=fl.FedAvg(2), **EVERYONE)
    channel = in_process(given, tmp_path)
    live = deployed(given, channel)
    live.advance()
    channel.path(1).unlink()
    record = live.advance()
    lengths = {
        client: t.payload_bytes // len(t.clients)
        for t in record.transfers
        if t.direction == "up"
        for client in t.clients
    }
    assert lengths[1] == 4 * 805 + 5 + 40
    assert {lengths[client] for client in (0, 2, 3, 4)} == {5 * 5 + 40}
    live.advance()


def test_sums_of_a_deployment(tmp_path: Path) -> None:
    given = deployable(codec=fl.LBGM(0.5), **EVERYONE)
    result = deployed(given, in_process(given, tmp_path), aggregation="sums").to_end([])
    for ours, theirs in zip(result.rounds, given.run().rounds, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)


def test_a_forecast_has_both_limits() -> None:
    """Two rounds of three clients, up: a message's 40 + 16 bytes for the layer, and 1 + 4 to 1 + 400 bytes."""
    layers = (fl.Layer("w", (TensorSpec("w", (100,), torch.float32, trainable=True),), adaptive=False),)
    known = forecast(
        fl.FedAvg(1), layers, codec=fl.LBGM(), sampler=fl.AllClients(), population=3, local_steps=2, base_interval=1
    )
    assert (known.low.bytes_up, known.high.bytes_up) == (6 * 61, 6 * 457)
    assert known.low.bytes_down == known.high.bytes_down == 6 * 456
    assert known.certainty == "depends on training: within bounds"


def test_every_run_is_within_its_forecast() -> None:
    given = federation("loop", codec=fl.LBGM(0.5), strategy=fl.FedAvg(2), **EVERYONE)
    known = forecast(
        given.strategy, given.labelling(), codec=given.codec, sampler=given.sampler, population=5,
        local_steps=12, base_interval=2,
    )  # fmt: skip
    up = given.run().ledger.total_bytes("up")
    assert known.low.bytes_up < up < known.high.bytes_up


def test_statistics_go_as_they_are() -> None:
    statistics = TensorSpec("running_var", (8,), torch.float32, trainable=False)
    assert codec_of(statistics, fl.LBGM()) == fl.Float32()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": fl.FedAvg(2)}, "draws a new cohort in every round; keep the cohort"),
        (
            {"availability": fl.RandomAbsence(away=0.3, min_replies=0.5), **EVERYONE},
            "compares an upload with earlier ones of the same client",
        ),
        ({"strategy": fl.FedLP(2), **EVERYONE}, "with a state, which moves on with each upload"),
        (
            {"privacy": fl.Privacy(clip=1.0, noise=1.0), "weighting": "equal", **EVERYONE},
            "codec is 'lbgm', which could",
        ),
    ],
    ids=["new cohorts", "void rounds", "senders", "privacy"],
)
def test_what_cannot_work_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fl.Run(federation("loop", codec=fl.LBGM(), **changes))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"threshold is 1\.5, expected 0 to 1"):
        fl.LBGM(1.5)
    with pytest.raises(ConfigError, match="threshold is -1"):
        fl.LBGM(-1)
    with pytest.raises(ConfigError, match="down is 'lbgm', whose receiver keeps a state"):
        fl.Directions(fl.Float32(), fl.LBGM())
