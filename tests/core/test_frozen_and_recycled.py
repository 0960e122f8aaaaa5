"""Rounds in which a layer is frozen (cyclic schedule) or moved by its previous update (FedLUAR), in whole runs."""

from __future__ import annotations

import pytest
import torch

from fedlama import SGD, Cyclic, Federation, FedLUAR, RoundRecord, Run, UniformSampler, by_mapping
from tests.core.helpers import Normed, assert_same_bits, play, skewed_clients


def follow(federation: Federation) -> list[tuple[RoundRecord, dict[str, torch.Tensor]]]:
    """The rounds and the global model after each, the initial one first."""
    models: list[dict[str, torch.Tensor]] = []
    records: list[RoundRecord] = []

    def note(run: Run, record: RoundRecord) -> None:
        records.append(record)
        models.append(dict(run.global_model()))

    play(federation, note)
    return list(zip(records, models, strict=True))


def cyclic(momentum: float) -> Federation:
    """Two groups take turns, and one of them has BatchNorm's statistics."""
    model = Normed()
    mapping = {
        "body": ["first.weight", "first.bias", "norm.weight", "norm.bias"],
        "head": ["second.weight", "second.bias"],
    }
    return Federation(
        model,
        skewed_clients(),
        Cyclic(2, opening_rounds=1),
        20,
        solver=SGD(0.1, momentum=momentum, weight_decay=0.01),
        sampler=UniformSampler(3),
        layers=by_mapping(model, mapping, adaptive=["body", "head"]),
        keep_client_models=True,
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_frozen_layers_do_not_change_and_everyone_stays_in_sync(momentum: float) -> None:
    rounds = follow(cyclic(momentum))
    for e in range(1, len(rounds)):
        record, model = rounds[e]
        before = rounds[e - 1][1]
        frozen = "second" if e % 2 else ("first", "norm")
        for name, value in model.items():
            assert torch.equal(value, before[name]) == name.startswith(frozen), name
        for values in record.client_models.values():
            assert_same_bits(values, {name: model[name] for name in values})


def test_a_recycled_layer_takes_its_previous_update_again() -> None:
    federation = Federation(
        Normed(), skewed_clients(), FedLUAR(2, 1, rule="round-robin"), 20, solver=SGD(0.1), sampler=UniformSampler(2)
    )
    initial = dict(federation.model.state_dict())
    rounds = follow(federation)
    models = [initial, *[model for _, model in rounds]]
    for e in range(1, len(rounds)):
        recycled = ["first.weight", "second.weight"][(e - 1) % 2]
        for name in ("first.weight", "second.weight"):
            update, previous = models[e + 1][name] - models[e][name], models[e][name] - models[e - 1][name]
            assert torch.allclose(update, previous, rtol=0, atol=1e-6) == (name == recycled)


def test_clients_receive_recycled_layers() -> None:
    federation = Federation(
        Normed(), skewed_clients(), FedLUAR(2, 1, rule="round-robin"), 12, solver=SGD(0.1), keep_client_models=True
    )
    for record, model in follow(federation):
        for values in record.client_models.values():
            assert_same_bits(values, {name: model[name] for name in values})
