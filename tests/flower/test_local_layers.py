"""A deployment with layers tagged `local`: the same bits as the loop engine, and no byte of them in any message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.core import wire
from fedlama.flower.client.state import load
from tests.engines.cases import clients, network
from tests.flower.cases import assert_same_bits, deployed, federation, in_process

PERSONAL = fl.tagged(fl.by_module(network()), local=["4"])
PERSONAL_NORM = fl.tagged(fl.by_module(network()), local=["1"])


@pytest.mark.selection
@pytest.mark.parametrize("layers", [PERSONAL, PERSONAL_NORM], ids=["dense", "normalisation"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sampler": fl.AllClients()},
        {"solver": fl.Adam(0.01, state_scope="client"), "strategy": fl.FedAvg(2)},
        {"solver": fl.FedRep(0.05, head_steps=2, momentum=0.9), "strategy": fl.FedAvg(3)},
    ],
    ids=["cohorts", "everyone", "client's state", "fedrep"],
)
def test_same_bits_as_loop(layers: fl.Layers, changes: dict[str, Any], tmp_path: Path) -> None:
    given = federation(layers=layers, local_steps=24, **changes)
    channel = in_process(given, tmp_path)
    live = fl.Run(given)
    expected = live.to_end([])
    assert_same_bits(deployed(given, channel).to_end([]), expected)
    for client in live.cohort:  # each node holds what the simulation holds
        state = load(channel.path(client))
        assert state is not None
        own = {spec.name for layer in layers if layer.tag == "local" for spec in layer.tensors}
        values = live.engine.client_values(client)
        assert all(torch.equal(state.values[name], values[name]) for name in own)


def test_no_message_holds_a_byte_of_a_local_layer(tmp_path: Path) -> None:
    given = federation(layers=PERSONAL, local_steps=24)
    channel = in_process(given, tmp_path)
    run = deployed(given, channel)
    personal, shared = [network().state_dict()["4.weight"]], []
    while run.round_index < 12:
        run.advance()
        for client in range(len(clients())):
            if (state := load(channel.path(client))) is not None:
                personal.append(state.values["4.weight"])
                shared.append(state.values["0.weight"])
    requests = [request.payload for request in channel.requests]
    replies = [part for reply in channel.replies for part in (reply.payload, reply.evaluation) if part]
    everything = b"".join(requests + replies)
    assert any(value.numpy().tobytes() in everything for value in shared)  # so the search finds what was sent
    for value in personal:
        rows = value.reshape(-1, 8)  # any eight numbers in a row
        assert not any(row.numpy().tobytes() in everything for row in rows)
    shared_names = [layer.name for layer in PERSONAL if layer.tag == "shared"]
    sent = {index for part in requests + replies for index in wire.unpack(part).payloads}
    assert sent == set(range(len(shared_names)))
