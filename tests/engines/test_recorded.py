"""The trainer of recorded steps, without a GPU: lanes that only pretend to record.

A recording reads and writes the same memory every time, and computes all of its slots, also those whose clients have a
guest at this step. The lanes of these tests do the same.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.tasks import Classification
from fedlama.core.layers import by_tensor
from fedlama.engines import EngineSetup, Recorded
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.storage import DeviceStorage
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import Trainer
from fedlama.engines.trainers.gradients import Precision
from fedlama.engines.trainers.recorded.lanes import Step
from fedlama.engines.trainers.recorded.trainer import RecordedTrainer
from fedlama.engines.trainers.serial import SerialTrainer
from fedlama.errors import ConfigError
from tests.engines.cases import clients, local_steps, network

CPU = torch.device("cpu")


class WatchedLanes:
    """Lanes that count what is recorded and replayed, and check that guests are replayed as such."""

    records = True

    def __init__(self, count: int, fails: Callable[[], bool] = lambda: False) -> None:
        self._count, self._fails = count, fails
        self._guest: int | None = None
        self.recorded = 0
        self.replayed = 0

    def __len__(self) -> int:
        return self._count

    def record(self, steps: Sequence[Step], generators: Sequence[torch.Generator], guest: int | None = None) -> Step:
        assert len(steps) <= self._count
        if self._fails():
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += len(steps)

        def replay() -> None:
            assert self._guest == guest
            self.replayed += 1
            for step in steps:
                step()

        return replay

    @contextlib.contextmanager
    def guest(self, number: int) -> Iterator[None]:
        self._guest = number
        yield
        self._guest = None

    def join(self) -> None:
        assert self._guest is None


class SmallMemory:
    """A device with little memory: a step needs 100 bytes beside the slots."""

    def __init__(self, free: int) -> None:
        self._free = free

    def free(self) -> int:
        return self._free

    def peak(self, compute: Callable[[], object]) -> int:
        compute()
        return 100


def _setup(model: nn.Module) -> EngineSetup:
    return EngineSetup(model, by_tensor(model), clients(), SGD(0.05, 0.9), Float32(), Classification(), 0, CPU)


def _cohort(setup: EngineSetup) -> Cohort:
    cohort = Cohort(setup, DeviceStorage(CPU), channels_last=True)
    tensors = dict(setup.model.state_dict())
    cohort.start_cohort(range(len(setup.clients)), {s.name: tensors[s.name] for la in setup.layers for s in la.tensors})
    cohort.flush()
    return cohort


def _train(make: Callable[[EngineSetup, CohortBatches], Trainer], model: nn.Module, rounds: int = 3) -> list[Tensor]:
    setup = _setup(model)
    cohort, trainer = _cohort(setup), make(setup, CohortBatches(setup.clients, CPU, 0))
    for index in range(rounds):
        work = local_steps(setup, cohort, 4, {}, index)
        trainer.run(cohort.view(), work, WorkerThreads(1))
        cohort.count(cohort.clients, 4)
    return list(cohort.view().values.values())


def _assert_equal(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(actual, expected, strict=True))


def _serial(setup: EngineSetup, batches: CohortBatches) -> SerialTrainer:
    return SerialTrainer(setup, batches, channels_last=True)


def _recorded(lanes: WatchedLanes, **settings: object) -> Callable[[EngineSetup, CohortBatches], RecordedTrainer]:
    return lambda setup, batches: RecordedTrainer(setup, batches, make_lanes=lambda _: lanes, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2, 16])
def test_recordings_of_one_two_and_all_slots(count: int, precision: Precision) -> None:
    lanes = WatchedLanes(count)
    expected = _train(lambda *parts: SerialTrainer(*parts, channels_last=True, precision=precision), network())
    _assert_equal(_train(_recorded(lanes, precision=precision), network()), expected)
    # Five slots, and guests for the last batches of 12, 10, 14, 12 and 7 samples in batches of 4: 2 and 3 samples.
    assert lanes.recorded == 5 + 2


def test_a_share_smaller_than_the_cohort_uses_its_slots_again() -> None:
    lanes = WatchedLanes(2)
    _assert_equal(_train(_recorded(lanes, share=2), network()), _train(_serial, network()))
    assert lanes.recorded == 2 + 2  # two slots serve five clients in turn, 2 + 2 + 1


def test_slots_that_fit_the_memory() -> None:
    lanes = WatchedLanes(2)
    per_slot = 2 * (4 * 2 * 9 + 4 * 2 + 144 * 5 + 5) * 4 + 2 * 4 * 4 + 8 + 4 * (72 * 4 + 8)  # values, gradients, batch
    free = int((3.5 * per_slot + 2 * 100) / 0.8)
    expected = _train(_serial, network())
    _assert_equal(_train(_recorded(lanes, memory=SmallMemory(free)), network()), expected)
    assert lanes.recorded == 3 + 2  # shares of 3 and 2 clients, and two guests


def test_what_cannot_be_recorded_runs_as_it_is_with_a_warning() -> None:
    lanes = WatchedLanes(2, fails=lambda: True)
    with pytest.warns(UserWarning, match="cannot be recorded, so they run as they are"):
        results = _train(_recorded(lanes), network())
    _assert_equal(results, _train(_serial, network()))
    assert lanes.replayed == 0


class _Noisy(nn.Module):
    """Adds noise of torch's global generator to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x + 0.1 * torch.randn_like(x))
        return output


def test_a_model_that_draws_otherwise_is_not_recorded() -> None:
    lanes = WatchedLanes(2)
    with pytest.warns(UserWarning, match="draws random numbers beside dropout"):
        results = _train(_recorded(lanes), _Noisy())
    _assert_equal(results, _train(_serial, _Noisy()))
    assert lanes.recorded == 0


def test_dropout_continues_each_clients_own_sequence() -> None:
    def model() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 6), nn.Dropout(0.5), nn.Linear(6, 5))

    lanes = WatchedLanes(2)
    _assert_equal(_train(_recorded(lanes, share=2), model()), _train(_serial, model()))
    assert lanes.replayed > 0


def test_more_shapes_than_guests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedlama.engines.trainers.recorded.guests.MOST_GUESTS", 1)
    lanes = WatchedLanes(2)
    _assert_equal(_train(_recorded(lanes), network()), _train(_serial, network()))
    assert lanes.recorded == 5 + 1


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match="lanes is 0"):
        Recorded(lanes=0)
    with pytest.raises(ConfigError, match="share is 0"):
        Recorded(share=0)


def test_a_recording_never_warns_where_nothing_is_recorded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _train(lambda setup, batches: RecordedTrainer(setup, batches), _Noisy())


class _Tied(nn.Module):
    """Uses one weight in a dense layer, which autocast converts, and once as it is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(72, 5)
        self.second = nn.Linear(5, 5)
        self.norm = nn.BatchNorm1d(5)
        self.slow = nn.BatchNorm1d(5, momentum=None)  # its counter says how much a batch weighs

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.slow(self.norm(self.norm(self.second(self.first(x.flatten(1))))))
        return hidden + self.second.weight.sum()


def test_what_is_shared_by_all_steps() -> None:
    observed: list[RecordedTrainer] = []

    def make(setup: EngineSetup, batches: CohortBatches) -> RecordedTrainer:
        trainer = RecordedTrainer(setup, batches, "bfloat16", make_lanes=lambda _: WatchedLanes(2))
        observed.append(trainer)
        return trainer

    expected = _train(lambda *parts: SerialTrainer(*parts, channels_last=True, precision="bfloat16"), _Tied())
    _assert_equal(_train(make, _Tied()), expected)
    step = observed[0]._client_step
    assert step is not None
    shared = step.shared
    assert set(shared.cast) == {"first.weight", "first.bias", "second.bias"}
    assert shared.counters == {"norm.num_batches_tracked": 2}
