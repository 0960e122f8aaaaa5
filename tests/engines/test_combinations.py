"""Every strategy with every method that has parts of its own: on other engines, resumed and deployed, or refused.

A combination that is not refused gives the results and the ledger of `loop` on two other engines, continues bit for bit
from a checkpoint, and has the same bits in a deployment. The two engines change from one combination to the next, so
that each strategy and each method meets all five. In float64, where rounding does not decide what a codec sends, except
that PowerSGD sends its factors in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import fedlama as fl
from fedlama.engines import Recorded, Stacked, Workers
from tests.engines.cases import assert_same, federation, network
from tests.engines.test_personal import with_sets
from tests.flower.cases import assert_same_bits, deployed, in_process

STRATEGIES: dict[str, Any] = {
    "fedavg": fl.FedAvg(2),
    "fedlama": fl.FedLAMA(2, 2),
    "fedluar": fl.FedLUAR(2, 1),
    "fedluar, frozen": fl.FedLUAR(2, 1, rule="random", match="bytes", fill="freeze", max_age=2),
    "cyclic": fl.Cyclic(2, others="with-weights"),
    "fixed": fl.FixedIntervals(2, {"4*": 2}),
    "budget": fl.Budget(2, share=0.75, levels=2),
    "partial": fl.PartialAveraging(2, parts=2),
    "fedldf": fl.FedLDF(2, senders=2),
    "fedlp": fl.FedLP(2, keep=0.4),
    "adacomm": fl.AdaComm(2, first_interval=2, adapt_every=3),
}
MODEL = network().double()
HEAD = fl.tagged(fl.by_module(MODEL, statistics="local"), head=["4"])
METHODS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "fedrep": {
        "solver": fl.FedRep(0.05, momentum=0.5, weight_decay=0.01),
        "layers": fl.tagged(fl.by_module(MODEL), local=["4"]),
    },
    "fedper": {
        "solver": fl.Adam(0.01, state_scope="client"),
        "layers": fl.tagged(fl.by_tensor(MODEL), local=["4*"]),
    },
    "lbgm": {"codec": fl.LBGM(0.5)},
    "layer-mask": {"codec": fl.LayerMask(), "aggregator": fl.ElementMean()},
    "layer-rates": {"solver": fl.LayerRates(0.05), "layers": fl.by_module(MODEL)},
    "personal": {"personal": fl.Personal(own_share=0.3, head_epochs=0.5), "layers": HEAD, "solver": fl.SGD(0.05)},
    "flayer": {
        "personal": fl.Personal(),
        "layers": HEAD,
        "solver": fl.LayerRates(0.05),
        "codec": fl.LayerMask(),
        "aggregator": fl.ElementMean(),
    },
    "scaffold": {"solver": fl.Scaffold(0.05)},
    "mime-lamb": {"solver": fl.MimeLAMB(0.01, epsilon=1e-3)},
    "8 bits": {"codec": fl.Differences(8)},
    "low rank": {"codec": fl.PowerSGD(1)},
}
ENGINES: list[Any] = [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded(share=2), fl.Auto()]
PAIRS = [(strategy, method) for strategy in STRATEGIES for method in METHODS]
REFUSED: dict[tuple[str, str], str] = {
    **{
        (strategy, method): "synchronises layers over several rounds"
        for strategy in ("fedlama", "fixed", "budget", "partial", "adacomm")
        for method in ("personal", "flayer")
    },
    **{
        (strategy, method): "with a state, which moves on with each upload"
        for strategy in ("fedldf", "fedlp")
        for method in ("lbgm", "8 bits", "low rank")
    },
    **{
        (strategy, method): "aggregator is 'element-mean', which compares all clients"
        for strategy in ("fedldf", "fedlp")
        for method in ("layer-mask", "flayer")
    },
    **{
        (strategy, method): "only 1 layers of the model may be recycled"  # the other one stays on its client
        for strategy in ("fedluar", "fedluar, frozen")
        for method in ("fedrep", "fedper")
    },
    **{("fixed", method): r"'4\*' matches no layer" for method in ("fedrep", "fedper")},
}
"""What cannot work together, and what the refusal says."""


def combined(strategy: str, method: str, engine: Any = "loop") -> fl.Federation:  # noqa: ANN401  (a name or options)
    """Return a federation of five clients with sets of their own, in float64."""
    sets = [
        fl.ClientData(
            client.x.double(),
            client.y,
            4,
            test=(client.test[0].double(), client.test[1]),  # type: ignore[index]
            validation=(client.validation[0].double(), client.validation[1]),  # type: ignore[index]
        )
        for client in with_sets()
    ]
    return federation(
        engine,
        model=MODEL,
        clients=sets,
        strategy=STRATEGIES[strategy],
        local_steps=8,
        sampler=fl.AllClients(),
        keep_client_models=False,
        **({"solver": fl.SGD(0.05, momentum=0.9)} | METHODS[method]),
    )


@pytest.mark.selection
@pytest.mark.parametrize(("strategy", "method"), [pair for pair in PAIRS if pair not in REFUSED])
def test_every_strategy_with_every_method(strategy: str, method: str, tmp_path: Path) -> None:
    given = combined(strategy, method)
    expected = given.run()
    first, second = engines_of(strategy, method)
    for ours in (combined(strategy, method, first).run(), gone_on(combined(strategy, method, second))):
        assert_same(ours, expected, 1e-6 if method == "low rank" else 1e-9)
        assert ours.ledger.transfers == expected.ledger.transfers
    assert_same_bits(deployed(given, in_process(given, tmp_path)).to_end([]), expected)


def engines_of(strategy: str, method: str) -> tuple[Any, Any]:
    """Return two different engines, which move on with the strategy and with the method."""
    number = list(STRATEGIES).index(strategy) + list(METHODS).index(method)
    return ENGINES[number % len(ENGINES)], ENGINES[(number + 2) % len(ENGINES)]


def test_each_strategy_and_each_method_meets_all_engines() -> None:
    for names, position in ((STRATEGIES, 0), (METHODS, 1)):
        for name in names:
            pairs = [pair for pair in PAIRS if pair[position] == name and pair not in REFUSED]
            assert {repr(engine) for pair in pairs for engine in engines_of(*pair)} == set(map(repr, ENGINES))


def gone_on(given: fl.Federation) -> fl.Result:
    """Return the result of a run, after comparing it with a run that goes on from its state after two rounds."""
    first, second = fl.Run(given), fl.Run(given)
    before = [first.advance() for _ in range(2)]
    second.load_state_dict(first.state_dict(), before)
    whole, result = first.to_end([], before), second.to_end([], before)
    assert all(torch.equal(result.model[name], value) for name, value in whole.model.items())
    assert result.ledger.transfers == whole.ledger.transfers
    assert [record.loss for record in result.rounds] == [record.loss for record in whole.rounds]
    return whole


@pytest.mark.parametrize(("strategy", "method"), REFUSED)
def test_what_does_not_go_together_is_refused_with_the_reason(strategy: str, method: str) -> None:
    with pytest.raises(fl.ConfigError, match=REFUSED[strategy, method]) as caught:
        fl.Run(combined(strategy, method))
    assert all("; " in problem for problem in caught.value.problems)
