"""fedlama itself: whole rounds of FedAvg through the driver, synchronisation and ledger included."""

from __future__ import annotations

from benchmarks.timing import repeat
from benchmarks.workloads import Workload
from fedlama.choices.samplers import UniformSampler
from fedlama.choices.solvers import SGD
from fedlama.choices.strategies import FedAvg
from fedlama.data.clients import TensorClients
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run


def measure(workload: Workload, seconds: float, engine: str = "auto") -> list[float]:
    """Time rounds on an engine."""
    x, y, rows = workload.data()
    run = Run(
        Federation(
            model=workload.build(),
            clients=TensorClients(x, y, rows, workload.batch),
            strategy=FedAvg(workload.steps),
            local_steps=workload.steps * 1_000_000,
            # A new optimizer per round, as in the other frameworks.
            solver=SGD(workload.learning_rate, momentum=workload.momentum, state_scope="round"),
            sampler=UniformSampler(workload.cohort),
            engine=engine,
        )
    )
    return repeat(run.advance, seconds)
