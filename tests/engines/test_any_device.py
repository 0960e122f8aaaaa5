"""Steps on a device that is not the CPU, without one: torch's meta device holds shapes and no numbers.

Operations refuse tensors of another device, and whatever would look at a number fails. So all steps must pass, and only
the look at the losses at the end of a round may fail: nothing is read from the device in between. What is sent to it
is counted in ``test_transfers.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD, FedProx, OptimizerState
from fedlama.choices.tasks import Classification
from fedlama.core.devices import copy_all, row_numbers
from fedlama.core.layers import by_tensor
from fedlama.engines import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.storage import DeviceStorage
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import Trainer
from fedlama.engines.trainers.torch_chain.trainer import TorchChainTrainer
from fedlama.engines.trainers.torch_chain.translate import translate
from fedlama.engines.trainers.vmapped import VmapTrainer
from tests.engines.cases import clients, local_steps, network

META = torch.device("meta")


@dataclass(frozen=True)
class Counted(FedProx):
    """FedProx that counts its steps."""

    name: ClassVar[str] = "counted"
    taken: list[torch.device] = field(default_factory=list)

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        super().step(parameters, gradients, optimizer_state, rate, decayed, reference)
        self.taken.append(gradients[0].device)


def _chain_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )


def _vmap(setup: EngineSetup, batches: CohortBatches) -> Trainer:
    return VmapTrainer(setup, batches)


def _chain(setup: EngineSetup, batches: CohortBatches) -> Trainer:
    return TorchChainTrainer(setup, batches, translate(setup.model) or [])


@pytest.mark.parametrize(("make", "model"), [(_vmap, network), (_vmap, _chain_cnn), (_chain, _chain_cnn)])
@pytest.mark.parametrize("sizes", [(12,) * 5, (12, 10, 14, 12, 7)])
def test_no_step_looks_at_a_number(
    make: Callable[[EngineSetup, CohortBatches], Trainer],
    model: Callable[[], nn.Module],
    sizes: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "fedlama.engines.trainers.vmapped.client_generators", lambda *_: [torch.Generator()] * 5
    )  # not used
    solver = Counted(0.1, momentum=0.9)
    net = model().to(META)
    source = clients(sizes=sizes)
    setup = EngineSetup(net, by_tensor(net), source, solver, Float32(), Classification(), 0, META)
    cohort = Cohort(setup, DeviceStorage(META), channels_last=False)
    values = {name: value.detach() for name, value in [*net.named_parameters(), *net.named_buffers()]}
    cohort.start_cohort(range(5), values)
    cohort.flush()
    work = local_steps(setup, cohort, 4, values)
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta"):
        make(setup, CohortBatches(source, META, 0)).run(cohort.view(), work, WorkerThreads(1))
    assert solver.taken == [META] * 4


def test_sgd_of_a_chain_looks_at_no_number() -> None:
    net = _chain_cnn().to(META)
    setup = EngineSetup(net, by_tensor(net), clients(), SGD(0.1, momentum=0.9), Float32(), Classification(), 0, META)
    cohort = Cohort(setup, DeviceStorage(META), channels_last=False)
    cohort.start_cohort(range(5), {name: value.detach() for name, value in net.named_parameters()})
    cohort.flush()
    asked: list[int] = []

    class Steps(CohortBatches):
        def padded(self, *args: object) -> object:
            for number, batch in enumerate(super().padded(*args)):  # type: ignore[arg-type]
                yield batch
                asked.append(number)

    work = local_steps(setup, cohort, 4, {})
    with pytest.raises((RuntimeError, NotImplementedError), match=r"meta"):
        _chain(setup, Steps(setup.clients, META, 0)).run(cohort.view(), work, WorkerThreads(1))
    assert asked == [0, 1, 2, 3]


def test_copies_of_several_dtypes() -> None:
    targets = [torch.zeros(2), torch.zeros(2, dtype=torch.int64), torch.zeros(1)]
    copy_all(targets, [torch.tensor([1.0, 2.0]), torch.tensor([3, 4]), torch.tensor([5.0])])
    assert [target.tolist() for target in targets] == [[1.0, 2.0], [3, 4], [5.0]]


def test_row_numbers() -> None:
    assert row_numbers([3, 1], torch.device("cpu")).tolist() == [3, 1]
    assert row_numbers([3, 1], META).device == META
