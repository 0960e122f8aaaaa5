"""What goes to a device in a round and what is read from it, counted on torch's meta device; nothing ran on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.tasks import Classification
from fedlama.core.devices import transform_on, upload, upload_all
from fedlama.core.layers import by_module
from fedlama.data import Normalise, PadCropFlip
from fedlama.data.clients import Augment, ReplayedClients, TensorClients
from fedlama.engines import EngineSetup, Stacked
from fedlama.engines.cohort.averaging import mean_and_discrepancy
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.storage import DeviceStorage
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import Trainer
from fedlama.engines.trainers.torch_chain.trainer import TorchChainTrainer
from fedlama.engines.trainers.torch_chain.translate import translate
from fedlama.engines.trainers.vmapped import VmapTrainer
from tests.engines.cases import clients, local_steps, network
from tests.engines.watch import DeviceWatch

CPU, META = torch.device("cpu"), torch.device("meta")
RAGGED, EVEN = (12, 10, 14, 12, 7), (12,) * 5


def _standard() -> Normalise:
    return Normalise(torch.full((2, 1, 1), 0.4), torch.full((2, 1, 1), 0.3))


def _mirror(x: Tensor, keys: NDArray[np.uint64]) -> Tensor:
    """An augmentation that takes NumPy arrays only: mirror an image if its key is odd."""
    odd = torch.from_numpy((keys & np.uint64(1)).astype(bool))
    return torch.where(odd[:, None, None, None], x.flip(-1), x)


def _chain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 8), nn.ReLU(), nn.Linear(8, 5))


def _vmap(setup: EngineSetup, batches: CohortBatches) -> Trainer:
    return VmapTrainer(setup, batches)


def _chains(setup: EngineSetup, batches: CohortBatches) -> Trainer:
    return TorchChainTrainer(setup, batches, translate(setup.model) or [])


def _round(
    make: Callable[[EngineSetup, CohortBatches], Trainer], net: nn.Module, source: TensorClients, steps: int
) -> DeviceWatch:
    """Watch one round on the meta device."""
    net = net.to(META)
    setup = EngineSetup(net, by_module(net), source, SGD(0.1, momentum=0.9), Float32(), Classification(), 0, META)
    cohort = Cohort(setup, DeviceStorage(META), channels_last=False)
    cohort.start_cohort(
        range(5), {name: value.detach() for name, value in [*net.named_parameters(), *net.named_buffers()]}
    )
    cohort.flush()
    trainer = make(setup, CohortBatches(source, META, 0))
    work = local_steps(setup, cohort, steps, {})
    with DeviceWatch() as watch:
        losses = trainer.run(cohort.view(), work, WorkerThreads(1))
    assert len(losses) == 5
    return watch


@pytest.mark.parametrize(
    ("make", "model", "sizes", "once"),
    [
        (_vmap, network, EVEN, 2),  # row numbers and keys
        (_chains, _chain, EVEN, 3),  # and the batches' lengths
        (_chains, _chain, RAGGED, 3),
    ],
)
def test_a_round_sends_its_rows_once_and_reads_its_losses(
    make: Callable[[EngineSetup, CohortBatches], Trainer],
    model: Callable[[], nn.Module],
    sizes: tuple[int, ...],
    once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "fedlama.engines.trainers.vmapped.client_generators", lambda *_: [torch.Generator()] * 5
    )  # not used
    source = clients(sizes=sizes, prepare=_standard(), augment=PadCropFlip(1))
    short, long = (_round(make, model(), source, steps) for steps in (2, 6))
    assert len(short.uploads) == len(long.uploads) == once
    assert short.looks == long.looks == [(), (5,)]  # whether all is finite, and the losses


@pytest.mark.parametrize("augment", [None, PadCropFlip(1), _mirror])
@pytest.mark.parametrize("first", [(0, 0, 0, 0, 0), (5, 3, 0, 17, 2)])
def test_batches_are_those_of_each_client(augment: Augment | None, first: tuple[int, ...]) -> None:
    source = clients(sizes=(12, 10, 14, 12, 3), prepare=_standard(), augment=augment, short_clients=True)
    batches = CohortBatches(source, CPU, 3)
    grouped, padded = batches.steps(range(5), first, 7), batches.padded(range(5), first, 7)
    for step, (groups, whole) in enumerate(zip(grouped, padded, strict=True)):
        assert sorted(row for group in groups for row in group.rows) == [0, 1, 2, 3, 4]
        for group in groups:
            for place, row in enumerate(group.rows):
                x, y = source.batch(row, first[row] + step, 3)
                assert torch.equal(group.batch[0][place], x)
                assert torch.equal(group.batch[1][place], y)
                assert torch.equal(whole.x[row, : len(y)], x)
                assert torch.equal(whole.y[row, : len(y)], y)
                assert torch.equal(whole.sample_weights[row, 0, : len(y)], torch.full((len(y),), 1 / len(y)))
                assert not whole.sample_weights[row, 0, len(y) :].any()


@pytest.mark.parametrize(("augment", "kind"), [(PadCropFlip(1), Tensor), (_mirror, np.ndarray)])
def test_keys_come_in_the_form_that_the_augmentation_takes(augment: Augment, kind: type) -> None:
    seen: list[object] = []

    class Noting:
        takes_tensors = getattr(augment, "takes_tensors", False)

        def __call__(self, x: Tensor, keys: NDArray[np.uint64]) -> Tensor:
            seen.append(keys)
            return augment(x, keys)

    list(CohortBatches(clients(augment=Noting()), CPU, 0).steps(range(5), [0] * 5, 3))
    assert len(seen) > 3  # short batches have calls of their own
    assert all(isinstance(keys, kind) for keys in seen)


def test_an_augmentation_of_arrays_gets_them_for_inputs_on_a_device() -> None:
    seen: list[object] = []

    def keep(x: Tensor, keys: NDArray[np.uint64]) -> Tensor:
        seen.append((x.device, keys.dtype, keys.shape))
        return x

    next(CohortBatches(clients(sizes=EVEN, augment=keep), META, 0).steps(range(5), [0] * 5, 1))
    assert seen == [(META, np.dtype(np.uint64), (20,))]


def test_statistics_go_along_with_the_clients() -> None:
    statistics = _standard()
    source = clients(prepare=statistics)
    moved = source.to(META)
    assert isinstance(moved.prepare, Normalise)
    assert moved.prepare.mean.device == moved.prepare.std.device == META
    assert source.prepare is statistics
    assert statistics.mean.device == CPU
    assert source.to(CPU).prepare is statistics


def test_the_callers_module_stays_where_it_is() -> None:
    module = nn.Linear(2, 2)
    moved = transform_on(module, META)
    assert (moved.weight.device, module.weight.device) == (META, CPU)
    assert transform_on(len, META) is len


def test_replayed_batches_on_any_device() -> None:
    batch = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    source = ReplayedClients([[batch], [tuple(value.to(META) for value in batch)]])  # type: ignore[list-item]
    ((group,),) = CohortBatches(source, META, 0).steps(range(2), [0, 0], 1)
    x, y = group.batch
    assert (x.device, x.shape, y.shape) == (META, (2, 4, 3), (2, 4))


def test_pieces_keep_their_shapes() -> None:
    pieces = [np.array([[1, 2], [3, 4]]), np.arange(6).reshape(2, 3)[:, ::2], np.array([7])]
    sent = upload_all(pieces, CPU)
    assert [one.tolist() for one in sent] == [piece.tolist() for piece in pieces]
    with DeviceWatch() as watch:
        assert {one.device for one in upload_all(pieces, META)} == {META}
    assert watch.uploads == [(9,)]


def test_what_is_there_already_is_not_sent() -> None:
    here = torch.zeros(3)
    assert upload(here, CPU) is here
    with DeviceWatch() as watch:
        upload(upload(here, META), META)
    assert watch.uploads == [(3,)]


def test_a_layer_sends_its_weights_once_and_is_looked_at_once() -> None:
    net = network().to(META)
    setup = EngineSetup(net, by_module(net), clients(), SGD(0.1), Float32(), Classification(), 0, META)
    engine = Stacked()(setup)
    engine.start_cohort(
        range(5), {name: value.detach() for name, value in [*net.named_parameters(), *net.named_buffers()]}
    )
    for layer in setup.layers:
        with DeviceWatch() as watch:
            average = engine.average(layer, [0.2] * 5)
        assert (watch.uploads, watch.looks) == ([(5,)], [()])
        assert average.discrepancy == 1.0  # as the watch pretends
        assert {spec.name: spec.shape for spec in layer.tensors} == {
            name: tuple(value.shape) for name, value in average.values.items()
        }
    assert max(len(layer.tensors) for layer in setup.layers) > 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("measure", [True, False])
def test_a_discrepancy_is_a_number_on_the_cpu_and_stays_on_other_devices(dtype: torch.dtype, measure: bool) -> None:
    for device in (CPU, META):
        stacked = torch.ones(2, 3, dtype=dtype, device=device)
        weights = torch.full((2,), 0.5, dtype=torch.float64, device=device)
        mean, apart = mean_and_discrepancy(stacked, weights, measure, WorkerThreads(1))
        assert (mean.dtype, mean.device) == (dtype, device)
        assert isinstance(apart, float) if device == CPU else isinstance(apart, Tensor)
