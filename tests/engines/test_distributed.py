"""Two processes with gloo give the results of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fedlama.engines import Distributed
from fedlama.errors import ConfigError
from tests.engines.cases import assert_same, run
from tests.engines.two_processes import CASES


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize("inner", ["in turn", pytest.param("both", marks=pytest.mark.thorough)])
def test_two_processes_agree_with_one(inner: str, tmp_path: Path) -> None:
    output, port = tmp_path / "results.pt", str(_free_port())
    rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.engines.two_processes", str(output), inner]
    parts = [subprocess.Popen(command, env=os.environ | rendezvous | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [part.wait(timeout=120) for part in parts] == [0, 0]
    finally:
        for part in parts:
            part.kill()
    results = torch.load(output, weights_only=False)
    assert list(results) == list(CASES)
    for case, changes in CASES.items():
        expected = run("loop", **changes)
        for result in results[case]:  # of each inner engine
            assert_same(result, expected, 5e-3 if "codec" in changes else 2e-5)
            assert result.ledger.transfers == expected.ledger.transfers


def test_without_a_launcher_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        run(Distributed())
