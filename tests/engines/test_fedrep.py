"""FedRep on every engine: the results of `loop`, and the same bits after an interruption."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.engines import Recorded, Stacked, Workers
from tests.core.test_fedrep import ends
from tests.core.test_fedrep import federation as two_numbers
from tests.engines.cases import assert_same, federation, network, run

ENGINES: list[Any] = [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(share=2), fl.Auto()]
FEDREP: dict[str, Any] = {
    "layers": fl.tagged(fl.by_module(network()), local=["4"]),
    "strategy": fl.FedAvg(3),
    "solver": fl.FedRep(0.05, head_steps=2, momentum=0.9, weight_decay=0.01),
}
CHOICES: dict[str, dict[str, Any]] = {
    "cohorts": {},
    "all clients": {"sampler": fl.AllClients()},
    "without momentum": {"solver": fl.FedRep(0.05)},
    "epochs": {"local_work": fl.LocalWork(epochs=1.5)},
    "stragglers": {"local_work": fl.LocalWork(straggler_share=0.5)},
    "absences": {"availability": fl.RandomAbsence(away=0.15)},
    "fedlama": {"strategy": fl.FedLAMA(3, 2)},
    "cyclic": {"strategy": fl.Cyclic(3)},
    "fedluar": {"strategy": fl.FedLUAR(3, 1), "layers": fl.tagged(fl.by_tensor(network()), local=["1.weight"])},
    "groups": {"solver": fl.FedRep(0.05, groups=(fl.ParameterGroup("*.bias", rate_factor=0.5, weight_decay=0.1),))},
    "clipping": {"solver": fl.FedRep(0.05, clipping=fl.Clipping(norm=0.3), schedule=fl.Schedule("cosine"))},
    "codec": {"codec": fl.Differences(bits=8, feedback=False)},
    "micro-batches": {"micro_batch_size": 2},
}


@pytest.mark.selection
@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("choice", CHOICES)
def test_engines_agree(engine: Any, choice: str) -> None:  # noqa: ANN401
    # Numbers that differ in the last bit of float32 may land one step of a codec apart.
    tolerance = 2e-2 if choice == "codec" else 2e-5
    assert_same(*(run(each, **(FEDREP | CHOICES[choice])) for each in (engine, "loop")), tolerance)


@pytest.mark.selection
@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
@pytest.mark.parametrize("choice", ["cohorts", "epochs", "absences"])
def test_a_resumed_run_goes_on_bit_for_bit(engine: Any, choice: str) -> None:  # noqa: ANN401
    given = federation(engine, **(FEDREP | CHOICES[choice]))
    whole = given.run()
    first = fl.Run(given)
    before = [first.advance() for _ in range(2)]
    second = fl.Run(given)
    second.load_state_dict(first.state_dict(), before)
    result = second.to_end([], before)
    assert [record.loss for record in result.rounds] == [record.loss for record in whole.rounds]
    for client, values in whole.rounds[-1].client_models.items():
        assert all(torch.equal(result.rounds[-1].client_models[client][n], value) for n, value in values.items())


@pytest.mark.parametrize("engine", ["loop", *ENGINES], ids=str)
def test_every_engine_has_the_numbers_by_hand(engine: Any) -> None:  # noqa: ANN401
    """5 - 2 and 5 - 20 for the heads; client 1 is too slow for the body, so that its average is that of -1 and 0."""
    given = two_numbers(engine=engine, local_work=fl.LocalWork(limits={1: 2}))
    assert ends(given) == (-0.5, [3.0, -15.0])
