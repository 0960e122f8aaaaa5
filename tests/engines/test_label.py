"""What an engine says of itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.tasks import Classification
from fedlama.core.layers import by_tensor
from fedlama.engines import EngineSetup, Stacked, Workers
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.stacked import label_of
from fedlama.engines.trainers.fitting import FittingTrainer
from fedlama.engines.trainers.vmapped import VmapTrainer
from tests.engines.cases import clients


def _setup(device: str = "cpu") -> EngineSetup:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.Tanh(), nn.Linear(8, 5)).to(device)
    return EngineSetup(net, by_tensor(net), clients(), SGD(0.1), Float32(), Classification(), 0, torch.device(device))


@pytest.mark.parametrize(
    ("engine", "label"),
    [
        (
            Stacked(trace_steps=False),
            "VmapTrainer x 1, vectorised over clients by torch.func, at most 64 clients at a time",
        ),
        (
            Stacked(chunk=8, threads=2, precision="bfloat16"),
            "VmapTrainer x 2, vectorised over clients by torch.func, bfloat16, steps traced where the model allows it, "
            "at most 8 clients at a time",
        ),
        (
            Workers(threads=3),
            "SerialTrainer x 3, ordinary kernels of PyTorch, steps traced where the model allows it, one client at a "
            "time",
        ),
        (
            Workers(threads=3, trace_steps=False),
            "SerialTrainer x 3, ordinary kernels of PyTorch, one client at a time",
        ),
    ],
)
def test_labels_on_a_cpu(engine: Stacked | Workers, label: str) -> None:
    assert engine(_setup()).label == label


def test_torch_compiled_steps_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlama.engines.options.check_compiler", lambda _: None)
    assert "steps torch-compiled where the model allows it" in Stacked(compile_steps=True)(_setup()).label


def test_traced_steps_take_a_thread_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlama.engines.options.cores", lambda: 5)
    assert Stacked()(_setup()).label.startswith("VmapTrainer x 5, ")
    assert Stacked(trace_steps=False)(_setup()).label.startswith("VmapTrainer x 1, ")


def test_another_device_takes_all_clients_at_a_time() -> None:
    assert Stacked()(_setup("meta")).label.endswith("torch.func, all clients at a time")


def test_the_trainer_is_named_and_not_what_cuts_its_rows() -> None:
    setup = _setup()
    batches = CohortBatches(setup.clients, setup.device, setup.seed)
    inner = VmapTrainer(setup, batches, "bfloat16", torch_compiled=True)
    fitting = FittingTrainer(inner, inner, clients(), None)  # type: ignore[arg-type] # its memory is not looked at
    expected = (
        "VmapTrainer x 1, vectorised over clients by torch.func, bfloat16, "
        "steps torch-compiled where the model allows it, as many clients at a time as fit the memory"
    )
    assert label_of(fitting, 1) == expected
