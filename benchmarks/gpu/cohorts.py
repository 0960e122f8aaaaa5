"""Whole rounds of a federation: local steps of every client of the cohort, synchronisation and ledger."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import fedlama as fl
from benchmarks.gpu.setting import Numbers, Setting, Values, memory, rate
from fedlama.data.partition.dirichlet import dirichlet
from fedlama.models import resnet20

POOL = 4096
"""Samples that clients share; their values do not matter."""
FOREVER = 1_000_000
"""Rounds of the budget; a row ends when its time is over."""


def engine_of(kind: str, numbers: Numbers, **options: Any) -> Any:  # noqa: ANN401
    """Return an engine with the precision of a row.

    Args:
        kind: ``"recorded"``, ``"stacked"``, ``"workers"``, ``"auto"`` or ``"loop"``, which has no precision.
        numbers: What the row computes in.
        options: Further options of the engine.
    """
    if kind == "loop":
        return "loop"
    makers: dict[str, Any] = {"recorded": fl.Recorded, "stacked": fl.Stacked, "auto": fl.Auto, "workers": fl.Workers}
    return makers[kind](precision="bfloat16" if numbers == "bfloat16" else "float32", **options)


@dataclass(frozen=True)
class Cohort:
    """A federation to measure.

    Attributes:
        model: Builds the model.
        clients: The clients' data.
        steps: Local steps of a round.
        active: Clients of a round.
        task: What is learnt.
    """

    model: Callable[[], nn.Module]
    clients: fl.TensorClients
    steps: int
    active: int
    task: fl.Task = field(default_factory=fl.Classification)

    def run(self, setting: Setting, engine: Any) -> fl.Run:  # noqa: ANN401
        """Start the federation on an engine."""
        torch.manual_seed(0)
        return fl.Run(
            fl.Federation(
                model=self.model(),
                clients=self.clients,
                strategy=fl.FedAvg(self.steps),
                rounds=FOREVER,
                solver=fl.SGD(0.01, momentum=0.9, state_scope="round"),
                sampler=fl.UniformSampler(self.active),
                task=self.task,
                engine=engine,
                device=str(setting.device),
            )
        )


def alike(shape: tuple[int, ...], classes: int, clients: int, batch: int, steps: int) -> fl.TensorClients:
    """Return clients with `steps` full batches each, of float inputs from a shared pool."""
    draw = torch.Generator().manual_seed(0)
    pool = min(POOL, clients * batch * steps)
    x, y = torch.randn(pool, *shape, generator=draw), torch.randint(0, classes, (pool,), generator=draw)
    rows = np.random.default_rng(0).integers(0, pool, (clients, batch * steps))
    return fl.TensorClients(x, y, list(rows), batch)


def resnet_clients(setting: Setting, clients: int | None = None) -> Cohort:
    """Return ResNet-20 at 3x32x32 with 128 clients, all active, batch 32 and 6 steps."""
    count = clients or setting.size(128, 3)
    steps, batch = setting.size(6, 2), setting.size(32, 4)
    return Cohort(resnet20, alike((3, 32, 32), 10, count, batch, steps), steps, count)


class Counter:
    """Counts the samples that the cohorts of a run were really trained on."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._taken: defaultdict[int, int] = defaultdict(int)

    def samples(self, record: fl.RoundRecord) -> int:
        """Return the samples of a round; rounds must be given in order."""
        first = [self._taken[client] for client in record.cohort]
        for client in record.cohort:
            self._taken[client] += self._cohort.steps
        return int(self._cohort.clients.cohort_rows(record.cohort, first, self._cohort.steps, 0)[1].sum())


def rounds(setting: Setting, cohort: Cohort, engine: Any, seconds: float | None = None) -> Values:  # noqa: ANN401
    """Time whole rounds, after a first one that includes all preparation, and a second one.

    Args:
        setting: How to measure.
        cohort: What to run.
        engine: On which engine.
        seconds: For how long; by default as the setting says.
    """
    records: list[fl.RoundRecord] = []
    started: list[fl.Run] = []

    def start() -> None:
        started.append(cohort.run(setting, engine))
        records.append(started[0].advance())

    first = setting.timed(start)
    run = started[0]
    second = setting.timed(lambda: records.append(run.advance()))
    taken = setting.repeated(lambda: records.append(run.advance()), seconds)
    counter = Counter(cohort)
    per_round = [counter.samples(record) for record in records][2:]
    values = {
        "label": str(getattr(run.engine, "label", "loop")),
        "first_seconds": first,
        "second_seconds": second,
        **rate(1, taken),
        "samples_per_second": sum(per_round) / sum(taken),
        "samples_per_round": sum(per_round) / len(per_round),
        "loss": records[-1].loss,
    }
    return values | {"engine_seconds": _engine_seconds(setting, run)}


def _engine_seconds(setting: Setting, run: fl.Run) -> float:
    """Return how long the engine's part of one more round takes: starting the cohort, and local steps."""
    train, taken = run.engine.run_round, []

    def timed(order: Any) -> Any:  # noqa: ANN401
        setting.synchronise()
        start = time.perf_counter()
        reply = train(order)
        setting.synchronise()
        taken.append(time.perf_counter() - start)
        return reply

    run.engine.run_round = timed  # type: ignore[method-assign]
    run.advance()
    return taken[0]


def as_floats(pixels: Tensor) -> Tensor:
    """Standardise pixels."""
    return pixels.float() / 127.5 - 1


def unequal(setting: Setting, numbers: Numbers, skewed: bool) -> Values:
    """Time ResNet-20 with 32 of 128 clients active, whose data are a Dirichlet partition or all alike.

    The data have the sizes of Fashion-MNIST as 3x32x32: 60,000 images of ten equal classes; 61,440 for equal clients,
    so that all their batches are full.
    """
    count, batch = setting.size(128, 6), setting.size(32, 4)
    samples = setting.size(60_000 if skewed else 61_440, 120)
    draw = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (samples, 3, 32, 32), generator=draw, dtype=torch.uint8)
    y = torch.arange(samples) % 10
    rows: list[NDArray[np.int64]] = [np.arange(samples)[client::count] for client in range(count)]
    if skewed:
        rows = dirichlet(y, count, 0, alpha=0.1, min_size=setting.size(10, 2))
    source = fl.TensorClients(x, y, rows, batch, prepare=as_floats, short_clients=True)
    cohort = Cohort(resnet20, source, setting.size(6, 2), setting.size(32, 3))
    sizes = sorted(len(given) for given in rows)
    measured = rounds(setting, cohort, engine_of("recorded", numbers), setting.seconds * 2)
    return measured | {"smallest_client": sizes[0], "largest_client": sizes[-1]}


def resident(setting: Setting, numbers: Numbers) -> Values:
    """Follow the memory over rounds of 128 of 10,000 clients, whose samples are all on the device."""
    count, each = setting.size(10_000, 20), setting.size(64, 8)
    random = torch.Generator(setting.device).manual_seed(0)
    x = torch.randint(
        0, 256, (count * each, 3, 32, 32), generator=random, device=setting.device, dtype=torch.uint8
    )  # (samples, channels, height, width)
    y = torch.arange(count * each, device=setting.device) % 10
    rows = list(np.arange(count * each).reshape(count, each))
    source = fl.TensorClients(x, y, rows, each // 2, prepare=as_floats)
    cohort = Cohort(resnet20, source, setting.size(6, 2), setting.size(128, 3))
    run = cohort.run(setting, engine_of("recorded", numbers))
    used, taken = [], []
    for _ in range(setting.size(10, 4)):
        taken.append(setting.timed(run.advance))
        used.append(memory(setting.device))
    name = "reserved_mib" if setting.device.type == "cuda" else "host_peak_mib"
    return {
        "label": str(getattr(run.engine, "label", "loop")),
        "first_seconds": taken[0],
        **rate(cohort.active * cohort.steps * each // 2, taken[2:]),
        "after_round_2": used[1],
        "after_the_last_round": used[-1],
        "growth_mib": used[-1][name] - used[1][name],
    }
