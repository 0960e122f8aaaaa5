"""Codecs in the distributed engine: one process gives the results of loop and continues bit for bit; so do two."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import distributed

import fedlama as fl
from fedlama.engines import Distributed, LoopEngine, Stacked
from tests.codecs.cases import CODECS
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


@pytest.mark.thorough
def test_two_processes_agree_with_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    output = tmp_path / "results.pt"
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.codecs.test_distributed", str(output)]
    parts = [subprocess.Popen(command, env=os.environ | rendezvous | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [part.wait(timeout=200) for part in parts] == [0, 0]
    finally:
        for part in parts:
            part.kill()
    for codec, results in zip(_codecs(), torch.load(output, weights_only=False), strict=True):
        expected = run("loop", codec=codec, **EVERYONE)
        for result in results:
            assert result.ledger.transfers == expected.ledger.transfers
            assert_same(result, expected, 5e-3)


def _codecs() -> list[fl.Codec]:
    return [*(codec for codec in CODECS if codec.name in ("differences", "top-k", "directions")), fl.LBGM(0.5)]


def main(output: str) -> None:
    """Run one process of two; started under torchrun's variables."""
    torch.set_num_threads(1)
    results = [
        [run(Distributed(inner), codec=codec, **EVERYONE) for inner in (Stacked(), LoopEngine)] for codec in _codecs()
    ]
    if os.environ["RANK"] == "0":
        torch.save(results, output)
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
