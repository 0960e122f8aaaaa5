"""The compiled kernels against a run recorded with version 0.1.0, bit for bit: 5x5 convolutions and a long dense layer.

The recorded numbers are those of commit 209be6f in a process that compiles its kernels. In a process that read their
machine code from disk, the same commit gave other bits from the first round on: LLVM had rounded other products
together with sums in one copy of the transform of turned 5x5 filters than in another one, and which copy was called
depended on what the process had compiled or read before. The kernels now say which products these are, so the
recorded bits must come out in every process.

The sums have one order for every length of vectors: code for AVX2 and for AVX-512 gives the same bits. Where a
processor does not round products together with sums, losses are compared with a tolerance.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fedlama as fl
from fedlama.kernels.modes import MODES

ROOT = Path(__file__).parents[2]

DIGEST = "64d313e5018f29cb"
"""The first digits of the SHA-256 of all parameters' bytes after the run."""
LOSSES = [1.6231860195855716, 1.5967683950956495, 1.6110750776198175, 1.576928894116362]
TOLERANCE = 1e-6
"""Largest relative difference of a round's loss; other engines make 7e-8 here, kernels compiled without FMA 1.2e-7."""


def network() -> nn.Module:
    """Return a small relative of the LEAF CNN, whose initial values do not depend on PyTorch's generator."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, 5),
    )  # fmt: skip
    draw = np.random.default_rng(0)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 16
        values = draw.uniform(-1, 1, parameter.shape).astype(np.float32) / np.float32(fan_in) ** np.float32(0.5)
        parameter.data = torch.from_numpy(values)
    return model


def train(engine: str) -> fl.Result:
    """Train for four rounds of two steps; batches of 12, 12 and 6 samples fill no vector."""
    draw = np.random.default_rng(1)
    x = torch.from_numpy(draw.uniform(-1, 1, (90, 1, 16, 16)).astype(np.float32))  # (samples, channels, height, width)
    y = torch.from_numpy(draw.integers(0, 5, 90))
    rows = [np.arange(first, first + 30) for first in (0, 30, 60)]
    return fl.Federation(
        model=network(),
        clients=fl.TensorClients(x, y, rows, 12),
        strategy=fl.FedLAMA(base_interval=2, increase_factor=2),
        local_steps=8,
        solver=fl.SGD(0.05, momentum=0.9, weight_decay=0.01),
        sampler=fl.AllClients(),
        engine=engine,
    ).run()


def digest(result: fl.Result) -> str:
    """Return the first digits of the digest of all parameters."""
    return hashlib.sha256(b"".join(value.numpy().tobytes() for value in result.model.values())).hexdigest()[:16]


def skip_unless_recorded_kernels_run() -> None:
    """Skip where the kernels that were recorded are not used, or the processor rounds otherwise."""
    pytest.importorskip("numba", reason="the extra 'fast' is not installed")
    from numba.core.registry import cpu_target

    if MODES & {"off", "direct"}:
        pytest.skip("FEDLAMA_KERNELS chooses other kernels")
    triple, _, features = cpu_target.target_context.codegen().magic_tuple()
    if not triple.startswith("x86_64") or "+fma" not in features.split(","):
        pytest.skip("recorded on a processor with x86-64 and FMA")


def test_compiled_kernels_give_the_bits_of_version_0_1() -> None:
    skip_unless_recorded_kernels_run()
    result = train("stacked")
    assert [record.loss for record in result.rounds] == LOSSES
    assert digest(result) == DIGEST


@pytest.mark.thorough
def test_kernels_give_these_bits_when_they_are_compiled_and_when_they_are_read_from_disk(tmp_path: Path) -> None:
    skip_unless_recorded_kernels_run()
    code = "from tests.determinism.test_recorded_bits import digest, train; print(digest(train('stacked')))"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    printed = []
    for _ in ("compiles", "reads from disk"):
        run = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        printed.append(run.stdout.strip())
    assert list(tmp_path.rglob("winograd._filters_backward*.nbc")), "nothing was written to this folder"
    assert printed == [DIGEST, DIGEST]


@pytest.mark.parametrize("engine", ["loop", "stacked", "workers"])
def test_losses_are_those_of_version_0_1_on_every_processor(engine: str) -> None:
    losses = [record.loss for record in train(engine).rounds]
    assert losses == pytest.approx(LOSSES, rel=TOLERANCE)
