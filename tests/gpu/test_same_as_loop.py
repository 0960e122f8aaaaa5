"""On a GPU every engine gives what the loop engine gives on the CPU, for every choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.choices.codecs import Codec
from fedlama.data.transforms import PadCropFlip
from tests.core.helpers import mlp, skewed_clients
from tests.engines.cases import assert_same, clients, dataset_clients, federation, network
from tests.engines.test_same_as_loop import SERVER_STEPS, SOLVERS, STRATEGIES
from tests.gpu.device import ENGINES, ON_DEVICE, Case, no_fallback, on_cpu, on_device, pairs
from tests.gpu.models import IMAGES, TEXT, hugging_face, seeded, texts

pytestmark = ON_DEVICE

BY_MODULE = fl.by_module(network())
DOUBLE: dict[str, Any] = {
    "model": network().double(),
    "clients": clients(prepare=lambda pixels: pixels.double() / 128 - 1),
}
SHORT: dict[str, Any] = {"clients": clients((1, 9, 3, 12, 5), 4, short_clients=True), "sampler": fl.AllClients()}
"""A client of one sample, whose batches are all short, and last batches of 1 and 3."""
DENSE: dict[str, Any] = {"model": mlp().float(), "clients": skewed_clients(5), "strategy": fl.FedAvg(2)}
CODED = {"sampler": fl.AllClients(), "strategy": fl.FedAvg(2)}
ROUNDING: tuple[Codec, ...] = (fl.Differences(4), fl.QSGD(8), fl.TopK(0.3), fl.PowerSGD(1), fl.Float16(), fl.BFloat16())
"""Codecs of runs. A difference in the last bit may move a number by a step of the codec, or choose another number."""


def case(tolerance: float = 1e-4, **changes: Any) -> Case:  # noqa: ANN401
    """Return a case with these settings."""
    return Case(partial(dict, **changes), tolerance)


CHOICES: dict[str, Mapping[str, Any]] = {
    "unequal batches": SHORT | {"model": seeded(IMAGES["dense"])},
    "batch sizes of their own": {"clients": clients(batch=(4, 3, 5, 2, 7)), "sampler": fl.AllClients()},  # type: ignore[arg-type]
    "dropped last batches": {"clients": clients(drop_last=True)},
    "epochs and limits": {"local_work": fl.LocalWork(epochs=1.0, limits={2: 1}), "sampler": fl.AllClients()},
    "stragglers": {"local_work": fl.LocalWork(straggler_share=0.6)},
    "absences": {"availability": fl.RandomAbsence(away=0.3, dies=0.2), "sampler": fl.AllClients()},
    "trimmed mean": {"aggregator": fl.TrimmedMean(0.2), "sampler": fl.AllClients()},
    "median": {"aggregator": fl.Median(), "sampler": fl.AllClients()},
    "norm bound": {"aggregator": fl.NormBound(1.0), "sampler": fl.AllClients()},
    "frozen layer": {"layers": fl.tagged(BY_MODULE, frozen=["0"])},
    "local layer": {"layers": fl.tagged(BY_MODULE, local=["4"])},
    "local normalisation": {"layers": fl.tagged(BY_MODULE, local=["1"])},
    "local statistics": {"layers": fl.by_module(network(), statistics="local"), "sampler": fl.UniformSampler(2)},
    "micro-batches": DENSE | {"micro_batch_size": 2},
    "augmentation": {"clients": clients(augment=PadCropFlip(1))},
    "samples read one by one": {"clients": dataset_clients()},
    "equal weights": {"weighting": "equal"},
    "nothing remembered": {"strategy": fl.Budget(2, share=0.7)},
}
CASES: dict[str, Case] = {
    **{f"strategy {strategy}": case(strategy=strategy) for strategy in STRATEGIES},
    **{f"solver {number} {solver.name}": case(solver=solver) for number, solver in enumerate(SOLVERS)},
    **{
        # Adam divides by a root of squared updates, which magnifies rounding where an update is almost 0.
        f"server {server.name}": case(5e-3 if server.name == "adam" else 1e-4, server_optimizer=server)
        for server in [*SERVER_STEPS, fl.ServerNesterov()]
    },
    **{name: case(**changes) for name, changes in CHOICES.items()},
    "float64": case(1e-10, **DOUBLE),
    "float64, Adam of clients": case(1e-9, **DOUBLE, solver=fl.Adam(0.01, epsilon=1e-3, state_scope="client")),
    "float64, FedLUAR": case(1e-10, **DOUBLE, strategy=fl.FedLUAR(2, recycled_layers=1)),
    **{f"codec {codec!r}": case(2e-2, **CODED, codec=codec) for codec in ROUNDING},
    **{f"model {name}": case(1e-3, model=seeded(make)) for name, make in IMAGES.items()},
    "model transformer": case(1e-3, model=seeded(TEXT["transformer"]), clients=texts()),
    # vmap does not take an LSTM, so the stacked engine would warn.
    "model lstm": replace(
        case(1e-3, model=seeded(TEXT["lstm"]), clients=texts()),
        engines=tuple(engine for engine in ENGINES if engine not in ("stacked", "auto")),
    ),
    "model of transformers": Case(hugging_face, 1e-3, ("recorded", "recorded, 2 lanes, share of 2")),
}


@cache
def expected(name: str) -> fl.Result:
    """Run a case in the loop engine on the CPU, once for all engines."""
    return federation("loop", **CASES[name].changes()).run()


@pytest.mark.parametrize(("name", "engine"), pairs(CASES))
def test_every_choice(name: str, engine: str) -> None:
    theirs = expected(name)
    given = on_device(federation("loop", **CASES[name].changes()), ENGINES[engine])
    with no_fallback():
        ours = on_cpu(given.run())
    assert_same(ours, theirs, CASES[name].tolerance)
    assert ours.ledger.transfers == theirs.ledger.transfers


@pytest.mark.parametrize("name", ["model lstm", "model of transformers"])
def test_auto_trains_what_vmap_does_not_take(name: str) -> None:
    """It may choose an engine that warns, but not one that is wrong."""
    given = on_device(federation("loop", **CASES[name].changes()), fl.Auto())
    assert_same(on_cpu(given.run()), expected(name), CASES[name].tolerance)


def test_the_cases_train() -> None:
    """Each case must change its model, or it would compare nothing."""
    for name in ("unequal batches", "model lstm", "micro-batches"):
        start = CASES[name].changes()["model"].state_dict()
        assert any(not torch.equal(value, start[key]) for key, value in expected(name).model.items()), name
