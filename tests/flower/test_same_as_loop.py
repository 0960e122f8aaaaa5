"""A deployment through a channel equals the loop engine bit for bit, with its ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedlama import (
    SGD,
    AdaComm,
    Adam,
    AdamW,
    AllClients,
    Clipping,
    Cyclic,
    Differences,
    FedAMS,
    FedAvg,
    FedDyn,
    FedLAMA,
    FedlamaError,
    FedLAMB,
    FedLDF,
    FedLP,
    FedLUAR,
    FedProx,
    FixedIntervals,
    Float16,
    ParameterGroup,
    PartialAveraging,
    PowerOfChoice,
    Scaffold,
    Schedule,
    ServerAdagrad,
    ServerAdam,
    ServerFedDyn,
    ServerMomentum,
    ServerYogi,
    WeightedSampler,
    by_module,
    by_tensor,
)
from fedlama.core.local_work import LocalWork
from tests.engines.cases import dataset_clients, network
from tests.flower.cases import assert_same_bits, deployed, federation, in_process

CASES: dict[str, dict[str, Any]] = {
    "fedavg": {"strategy": FedAvg(2)},
    "fedldf": {"strategy": FedLDF(2, senders=2)},
    "fedlama": {},
    "fedlama, phi 3, everyone": {"strategy": FedLAMA(2, 3), "sampler": AllClients()},
    "fedlama, phi 4, ends inside a cycle": {"strategy": FedLAMA(2, 4)},
    "fedlama, accelerated": {"strategy": FedLAMA(2, 2, accelerate=True)},
    "fedluar": {"strategy": FedLUAR(2, 1)},
    "fedluar, frozen, as many bytes": {
        "strategy": FedLUAR(2, 1, rule="random", match="bytes", fill="freeze", max_age=2)
    },
    "fixed": {"strategy": FixedIntervals(2, {"0.weight": 3, "*": 1})},
    "cyclic": {"strategy": Cyclic(2)},
    "fedpart": {"strategy": Cyclic(2, rounds_per_turn=2, others="with-weights")},
    "partial": {"strategy": PartialAveraging(2, 2), "sampler": AllClients()},
    "fedlp": {"strategy": FedLP(2, keep=0.4)},
    "fedlp, scaffold, 8 bits": {
        "strategy": FedLP(2, keep=0.4),
        "solver": Scaffold(0.05),
        "codec": Differences(bits=8, feedback=False),
    },
    "adacomm": {"strategy": AdaComm(2, first_interval=2, adapt_every=3)},
    "clients by their samples": {"strategy": FedAvg(2), "sampler": WeightedSampler(2), "weighting": "equal"},
    "power of choice": {"strategy": FedAvg(2), "sampler": PowerOfChoice(2, candidates=3), "weighting": "equal"},
    "fednova": {
        "strategy": FedAvg(2),
        "weighting": "fednova",
        "local_work": LocalWork(epochs=1, straggler_share=0.3),
        "solver": SGD(0.05),
    },
    "fedprox": {"solver": FedProx(learning_rate=0.05, proximal=0.1)},
    "momentum each round": {"solver": federation().solver.__class__(0.05, momentum=0.9, state_scope="round")},
    "adamw, a schedule, clipping": {"solver": AdamW(0.01, schedule=Schedule("cosine"), clipping=Clipping(norm=0.5))},
    "adam, the client's own state": {"strategy": FedAvg(2), "solver": Adam(0.01, state_scope="client")},
    "fed-lamb": {"strategy": FedAvg(2), "solver": FedLAMB(0.01)},
    "fed-lamb under fedlama, 8 bits": {
        "solver": FedLAMB(0.01, interval=2),
        "codec": Differences(bits=8, feedback=False),
    },
    "fed-ams": {"strategy": FedAvg(2), "solver": FedAMS(0.01)},
    "scaffold": {"strategy": FedAvg(2), "solver": Scaffold(0.05)},
    "feddyn": {
        "strategy": FedAvg(2),
        "solver": FedDyn(0.05, alpha=0.1),
        "server_optimizer": ServerFedDyn(alpha=0.1),
    },
    "scaffold under fedlama": {"solver": Scaffold(0.05)},
    "epochs of each client's data": {
        "local_work": LocalWork(epochs=1, limits={2: 1}, straggler_share=0.3),
        "solver": AdamW(0.01, schedule=Schedule("cosine")),
    },
    "a frozen group": {"solver": FedProx(0.05, groups=(ParameterGroup("0.*", frozen=True),))},
    "server momentum": {"server_optimizer": ServerMomentum(momentum=0.5)},
    "server adam": {"server_optimizer": ServerAdam()},
    "server yogi": {"server_optimizer": ServerYogi()},
    "server adagrad": {"server_optimizer": ServerAdagrad()},
    "half precision": {"codec": Float16()},
    "by module": {"layers": by_module(network())},
    "local statistics": {"layers": by_tensor(network(), statistics="local"), "test_set": None},
    "equal weights": {"weighting": "equal"},
    "data sets with random samples": {"clients": dataset_clients(), "local_work": LocalWork(epochs=1)},
}


@pytest.mark.parametrize("name", CASES)
def test_same_bits_as_loop(name: str, tmp_path: Path) -> None:
    given = federation(**CASES[name])
    result = deployed(given, in_process(given, tmp_path)).to_end([])
    assert_same_bits(result, given.run())


def test_sums_alone_give_the_same_run(tmp_path: Path) -> None:
    given = federation(strategy=FedLAMA(2, 3), sampler=AllClients(), local_steps=24)
    result = deployed(given, in_process(given, tmp_path), aggregation="sums").to_end([])
    expected = given.run()
    for ours, theirs in zip(result.rounds, expected.rounds, strict=True):
        for layer, record in theirs.layers.items():
            assert ours.layers[layer].interval == record.interval
            if record.discrepancy is not None:
                assert ours.layers[layer].discrepancy == pytest.approx(record.discrepancy, rel=1e-4, abs=1e-12)
    for name, value in expected.model.items():  # sums are in fixed point, so the last bits of float32 may differ
        torch.testing.assert_close(result.model[name], value, rtol=1e-5, atol=1e-6)
    assert result.ledger.transfers == expected.ledger.transfers


class Masked(nn.Module):
    """A complex filter before a dense layer whose logits a mask with infinities selects; all are sent and averaged."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.filter = nn.Parameter(torch.randn(4, dtype=torch.complex64))
        self.dense = nn.Linear(72, 5)
        self.register_buffer("causal", torch.tensor([0.0, float("-inf"), float("inf")]))
        self.register_buffer("rotary", torch.tensor([1 + 2j, 0.25 - 0.5j]))

    def forward(self, x: Tensor) -> Tensor:
        filtered = torch.fft.irfft(torch.fft.rfft(x.flatten(1).unflatten(1, (12, 6))) * self.filter, n=6)
        logits: Tensor = self.dense(filtered.flatten(1)) + torch.where(self.causal[0] == 0, 0.0, -torch.inf)
        return logits


@pytest.mark.parametrize("aggregation", ["models", "sums"])
def test_masks_with_infinities_and_complex_numbers_are_deployed(tmp_path: Path, aggregation: str) -> None:
    given = federation(model=Masked(), strategy=FedAvg(2))
    result = deployed(given, in_process(given, tmp_path), aggregation=aggregation).to_end([])
    expected = given.run()
    assert torch.equal(result.model["causal"], torch.tensor([0.0, float("-inf"), float("inf")]))
    if aggregation == "models":
        assert_same_bits(result, expected)
    for name, value in expected.model.items():
        torch.testing.assert_close(result.model[name], value, rtol=1e-5, atol=1e-6)


def test_an_infinity_that_the_server_did_not_send_is_refused(tmp_path: Path) -> None:
    class Overflows(Masked):
        def forward(self, x: Tensor) -> Tensor:
            self.causal[0] = torch.inf
            return super().forward(x).nan_to_num()

    given = federation(model=Overflows(), strategy=FedAvg(2))
    with pytest.raises(FedlamaError, match="layer 'filter' holds NaN, infinity or values beyond"):
        deployed(given, in_process(given, tmp_path)).to_end([])


def test_a_client_that_would_share_what_its_model_remembers_cannot_train(tmp_path: Path) -> None:
    class Counts(Masked):
        steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.steps += 1
            return super().forward(x) * self.steps

    given = federation(model=Counts(), strategy=FedAvg(2))
    with pytest.raises(FedlamaError, match="the attribute 'steps' of the model Counts changes"):
        deployed(given, in_process(given, tmp_path)).to_end([])
