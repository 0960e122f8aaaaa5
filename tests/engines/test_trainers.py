"""The stacked engine knows a trainer by its contract alone: what a trainer says decides how it is used."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.tasks import Classification
from fedlama.core.layers import by_tensor
from fedlama.data.clients import TensorClients
from fedlama.engines import EngineSetup, StackedEngine
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort, CohortSlice
from fedlama.engines.cohort.storage import DeviceStorage
from fedlama.engines.cohort.threads import WorkerThreads
from fedlama.engines.trainers.base import ALL_ROWS, LocalSteps, Trainer
from fedlama.engines.trainers.vmapped import VmapTrainer
from tests.engines.cases import clients, network, order_of

CPU = torch.device("cpu")
LARGE = 1 << 30
"""Multiply-adds that keep any thread busy."""


class Recording(Trainer):
    """A trainer that an engine has never seen: it trains nothing, and records its calls.

    Args:
        calls: Gets clients, number of threads and freshness of every call.
        says: Attributes that differ from the contract's defaults.
    """

    name, description = "Recording", "records"
    rows_per_call: int | None = ALL_ROWS

    def __init__(self, calls: list[tuple[tuple[int, ...], int, bool]], says: dict[str, Any]) -> None:
        self._calls = calls
        for attribute, value in says.items():
            setattr(self, attribute, value)

    def run(self, rows: CohortSlice, work: LocalSteps, threads: WorkerThreads) -> list[float]:
        """Record the call; the loss of a client is its number."""
        self._calls.append((rows.clients, threads.count, rows.fresh))
        return [float(client) for client in rows.clients]


def _setup(source: TensorClients) -> EngineSetup:
    net = network()
    return EngineSetup(net, by_tensor(net), source, SGD(0.1, momentum=0.9), Float32(), Classification(), 0, CPU)


def _calls(count: int, chunk: int | None = None, **says: Any) -> list[tuple[tuple[int, ...], int, bool]]:  # noqa: ANN401
    """Run two rounds of five clients with `count` trainers, and return the calls of the second, by clients."""
    calls: list[tuple[tuple[int, ...], int, bool]] = []
    setup = _setup(clients())
    engine = StackedEngine(
        setup,
        [Recording(calls, says) for _ in range(count)],
        Cohort(setup, DeviceStorage(CPU), channels_last=False),
        chunk,
    )
    values = dict(setup.model.state_dict())
    engine.run_round(order_of(range(5), 2, values, new_cohort=True))
    calls.clear()
    reply = engine.run_round(order_of(range(5), 2, values, round_index=1))
    assert reply.losses == {client: float(client) for client in range(5)}
    return sorted(calls)


def _clients(calls: list[tuple[tuple[int, ...], int, bool]]) -> list[tuple[int, ...]]:
    return [rows for rows, _, _ in calls]


@pytest.mark.parametrize(
    ("rows_per_call", "chunk", "expected"),
    [
        (ALL_ROWS, None, [(0, 1, 2, 3, 4)]),
        (None, None, [(0, 1, 2, 3, 4)]),
        (2, None, [(0,), (1, 2), (3, 4)]),
        (1, None, [(0,), (1,), (2,), (3,), (4,)]),
        (1, 3, [(0, 1), (2, 3, 4)]),  # the user's chunk counts
    ],
)
def test_rows_per_call_limits_a_slice(
    rows_per_call: int | None, chunk: int | None, expected: list[tuple[int, ...]]
) -> None:
    assert _clients(_calls(1, chunk, rows_per_call=rows_per_call)) == expected


@pytest.mark.parametrize(
    ("multiply_adds", "slices"),
    [
        (None, 3),
        (LARGE, 3),
        (1, 1),
        (math.ceil((1 << 26) * 2 / (5 * 2 * 4)), 2),
    ],  # five clients, two steps, batches of 4
)
def test_work_that_is_known_to_be_small_gets_fewer_threads(multiply_adds: int | None, slices: int) -> None:
    assert len(_calls(3, multiply_adds_per_sample=multiply_adds)) == slices


def test_a_trainer_that_supports_threads_gets_all_rows_and_all_threads() -> None:
    assert _calls(3, supports_threads=True) == [((0, 1, 2, 3, 4), 3, False)]
    assert {threads for _, threads, _ in _calls(3)} == {1}
    assert _clients(_calls(2, 1, supports_threads=True)) == [(0,), (1,), (2,), (3,), (4,)]  # more rows than a chunk


def test_only_a_trainer_that_starts_fresh_is_left_to_write_the_optimizer_state() -> None:
    for starts_fresh in (True, False):
        calls: list[tuple[tuple[int, ...], int, bool]] = []
        setup = _setup(clients())
        cohort = Cohort(setup, DeviceStorage(CPU), channels_last=False)
        engine = StackedEngine(setup, [Recording(calls, {"starts_fresh": starts_fresh})], cohort)
        values = dict(setup.model.state_dict())
        for number in range(2):
            engine.run_round(order_of(range(5), 2, values, number, new_cohort=number == 0))
        assert [fresh for _, _, fresh in calls] == [starts_fresh, False]


def test_the_label_is_what_the_trainer_says() -> None:
    setup = _setup(clients())
    trainers = [Recording([], {"rows_per_call": 7}) for _ in range(2)]
    cohort = Cohort(setup, DeviceStorage(CPU), channels_last=False)
    assert StackedEngine(setup, trainers, cohort).label == "Recording x 2, records, at most 7 clients at a time"
    assert StackedEngine(setup, trainers, cohort, 1).label == "Recording x 2, records, one client at a time"


def test_a_part_of_a_slice_is_a_view() -> None:
    setup = _setup(clients())
    cohort = Cohort(setup, DeviceStorage(CPU), channels_last=False)
    cohort.start_cohort([4, 2, 0], dict(setup.model.state_dict()))
    cohort.flush()
    rows = cohort.view()
    part = rows.part(slice(1, 3))
    assert part.clients == (2, 0)
    assert part.values["0.weight"].data_ptr() == rows.values["0.weight"][1].data_ptr()
    assert part.optimizer_state["velocity"][0].data_ptr() == rows.optimizer_state["velocity"][0][1].data_ptr()
    assert rows.part(slice(0, 3)) is rows


def test_trainers_start_from_the_defaults_of_the_contract() -> None:
    setup = _setup(clients())
    trainer = VmapTrainer(setup, CohortBatches(setup.clients, CPU, 0))
    said = (trainer.multiply_adds_per_sample, trainer.starts_fresh, trainer.supports_threads, trainer.rows_per_call)
    assert said == (None, False, False, 64)
