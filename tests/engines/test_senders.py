"""Strategies under which only some clients upload a layer, and one that hears the losses: every engine, as loop."""

from __future__ import annotations

from typing import Any

import pytest

import fedlama as fl
from fedlama.engines import Recorded, Stacked, Workers
from tests.engines.cases import assert_same, run

STRATEGIES = [fl.FedLDF(2, senders=2), fl.FedLP(2, keep=0.4), fl.AdaComm(2, first_interval=2, adapt_every=3)]
ENGINES: list[Any] = [Stacked(), Stacked(chunk=2), Workers(threads=2), Recorded()]


@pytest.mark.selection(together=2)
@pytest.mark.parametrize("engine", ENGINES, ids=["stacked", "stacked-2", "workers", "recorded"])
@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy.name)
@pytest.mark.parametrize("codec", [fl.Float32(), fl.QSGD(bits=4)], ids=["float32", "qsgd"])
def test_every_engine(engine: Any, strategy: Any, codec: Any) -> None:  # noqa: ANN401
    result = run(engine, strategy=strategy, codec=codec)
    expected = run("loop", strategy=strategy, codec=codec)
    assert_same(result, expected, 2e-5 if codec.name == "float32" else 0.05)
    assert result.ledger.transfers == expected.ledger.transfers
