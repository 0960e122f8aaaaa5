"""Codecs in the distributed engine: one process gives the results of loop and continues bit for bit.

Two processes are compared in tests/engines/test_distributed.py.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from torch import distributed

import fedlama as fl
from fedlama.engines import Distributed, LoopEngine
from tests.engines.cases import assert_same, run
from tests.resume.test_exact import assert_exact
from tests.resume.test_exact import federation as resumable

EVERYONE = {"sampler": fl.AllClients()}


@pytest.fixture
def one_process() -> Iterator[None]:
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize(
    "codec", [fl.Differences(2), fl.Differences(4, feedback=False), fl.PowerSGD(1), fl.LBGM(0.5)], ids=repr
)
def test_one_process(codec: fl.Codec) -> None:
    ours, theirs = run(Distributed(LoopEngine), codec=codec, **EVERYONE), run("loop", codec=codec, **EVERYONE)
    assert ours.ledger.transfers == theirs.ledger.transfers
    assert_same(ours, theirs, 5e-3)
    assert_exact(resumable("distributed", codec=codec, **EVERYONE))
