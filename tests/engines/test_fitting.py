"""How many clients advance at once where memory is short, decided without a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.tasks import Classification
from fedlama.core.layers import by_tensor
from fedlama.engines import EngineSetup
from fedlama.engines.api import CohortState
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort, CohortSlice
from fedlama.engines.cohort.storage import DeviceStorage
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import LocalSteps, Trainer
from fedlama.engines.trainers.fitting import FittingTrainer, clients_that_fit
from fedlama.engines.trainers.torch_chain.trainer import TorchChainTrainer
from fedlama.engines.trainers.torch_chain.translate import translate
from fedlama.engines.trainers.vmapped import VmapTrainer
from tests.engines.cases import clients, local_steps, network

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "one", "two", "fit"),
    [
        (1000, 100, 200, 8),  # 800 bytes may be used: 100 for each
        (1000, 300, 400, 6),  # 200 of the first are shared: 200 + 6 * 100
        (1000, 799, 1599, 1),
        (1000, 800, 1600, 1),
        (1000, 801, 1601, 1),  # not even one is sure to fit, but fewer cannot be had
        (0, 100, 200, 1),
        (1000, 512, 512, 289),  # the second takes nothing that could be measured
        (80 << 30, 3 << 20, 5 << 20, 32767),
    ],
)
def test_clients_that_fit(free: int, one: int, two: int, fit: int) -> None:
    assert clients_that_fit(free, one, two) == fit


def test_the_margin_is_left_alone() -> None:
    assert clients_that_fit(1000, 100, 200, margin=0.0) == 10
    assert clients_that_fit(1000, 100, 200, margin=0.5) == 5


class Pretended:
    """Memory of which every row of a step takes 100 bytes."""

    def __init__(self, free: int) -> None:
        self.left, self.peaks = free, 0

    def free(self) -> int:
        """Return what is left."""
        return self.left

    def peak(self, compute: Callable[[], object]) -> int:
        """Run it; the first measured step is that of one row, the second that of two."""
        compute()
        self.peaks += 1
        return 100 * self.peaks


class Noting(Trainer):
    """A trainer that notes what it is asked to do.

    Args:
        inner: Does it.
    """

    def __init__(self, inner: Trainer) -> None:
        self.name, self.description, self.rows_per_call = "Noting", "notes", inner.rows_per_call
        self.inner, self.asked = inner, list[tuple[tuple[int, ...], int]]()

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Note clients and steps."""
        self.asked.append((rows.clients, work.steps))
        return self.inner.run(rows, work, threads)


def _setup(model: nn.Module) -> EngineSetup:
    source = clients(sizes=(12, 3, 14, 12, 7), short_clients=True)
    return EngineSetup(model, by_tensor(model), source, SGD(0.05, momentum=0.9), Float32(), Classification(), 0, CPU)


def _started(setup: EngineSetup) -> Cohort:
    cohort = Cohort(setup, DeviceStorage(CPU), channels_last=False)
    model = dict(setup.model.named_parameters()) | dict(setup.model.named_buffers())
    cohort.start_cohort([4, 2, 0, 1, 3], {name: value.detach() for name, value in model.items()})
    cohort.flush()
    return cohort


def _trained(setup: EngineSetup, trainer: Trainer, rounds: int = 1) -> tuple[list[float], CohortState]:
    cohort = _started(setup)
    losses = []
    for index in range(rounds):
        work = local_steps(setup, cohort, 3, {}, index)
        losses = trainer.run(cohort.view(), work, WorkerThreads(1))
        cohort.count(cohort.clients, 3)
    return losses, cohort.state_dict()


def _chain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 5))


def _vmap(setup: EngineSetup) -> Trainer:
    return VmapTrainer(setup, CohortBatches(setup.clients, CPU, 0))


def _chains(setup: EngineSetup) -> Trainer:
    return TorchChainTrainer(setup, CohortBatches(setup.clients, CPU, 0), translate(setup.model) or [])


@pytest.mark.parametrize(("make", "model"), [(_vmap, network), (_vmap, _chain), (_chains, _chain)])
def test_measuring_changes_nothing(make: Callable[[EngineSetup], Trainer], model: Callable[[], nn.Module]) -> None:
    setup = _setup(model())
    before = torch.get_rng_state()
    inner = make(setup)
    fitting = FittingTrainer(inner, inner, setup.clients, Pretended(10_000))  # type: ignore[arg-type]
    losses, state = _trained(setup, fitting, rounds=2)
    expected, other = _trained(setup, make(setup), rounds=2)
    assert losses == expected
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in other.values.items():
        assert torch.equal(state.values[name], value)
    for name, value in other.optimizer_state["velocity"].items():
        assert torch.equal(state.optimizer_state["velocity"][name], value)


def test_pieces_are_even_and_decided_once() -> None:
    setup, memory = _setup(network()), Pretended(375)  # 300 may be used: three clients
    inner, probe = Noting(_vmap(setup)), Noting(_vmap(setup))
    fitting = FittingTrainer(inner, probe, setup.clients, memory)  # type: ignore[arg-type]
    cohort = _started(setup)
    work = local_steps(setup, cohort, 3, {})
    for _ in range(2):
        fitting.run(cohort.view(), work, WorkerThreads(1))
        memory.left = 0
    assert inner.asked == [((4, 2), 3), ((0, 1, 3), 3)] * 2
    assert probe.asked == [((4,), 1), ((4,), 1), ((4, 4), 1)]  # client 1 has less than a batch
    memory.left = 10_000
    fitting.run(cohort.view().part(slice(0, 2)), work, WorkerThreads(1))  # another size, another look
    assert inner.asked[4:] == [((4, 2), 3)]
    assert len(probe.asked) == 3


def test_pieces_give_what_the_whole_gives() -> None:
    setup = _setup(network())
    inner = _vmap(setup)
    losses, state = _trained(setup, FittingTrainer(inner, inner, setup.clients, Pretended(250)))  # type: ignore[arg-type]
    expected, other = _trained(setup, _vmap(setup))
    assert losses == pytest.approx(expected, rel=1e-6)
    for name, value in other.values.items():
        torch.testing.assert_close(state.values[name], value, atol=1e-6, rtol=1e-6)


def test_a_step_to_measure_is_never_torch_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        "fedlama.engines.trainers.torch_compiled.TorchCompiledStep.__call__", lambda *args: asked.append(args)
    )
    setup = _setup(network())
    trainer = VmapTrainer(setup, CohortBatches(setup.clients, CPU, 0), torch_compiled=True)
    _trained(setup, trainer.without_compiler())
    assert not asked
    _trained(setup, trainer)
    assert asked
