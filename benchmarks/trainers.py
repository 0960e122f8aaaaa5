"""Compare the stacked engine's trainers on the workloads: ``python -m benchmarks.trainers``.

All trainers run whole rounds of the same federation in one process, in turns. ``numba`` is what compiled kernels can
train; the others serve installations without Numba, other solvers and other models. ``--threads`` sets torch's intra-op
threads, which the trainers of all clients at once use; those of one client at a time run on one thread per core.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from benchmarks.timing import take_turns
from benchmarks.workloads import COMPILED, WORKLOADS, Workload
from fedlama.choices.samplers import UniformSampler
from fedlama.choices.solvers import SGD, LocalSolver, OptimizerState
from fedlama.choices.strategies import FedAvg
from fedlama.data.clients import TensorClients
from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.storage import DeviceStorage, keep_memory
from fedlama.engines.cohort.threads import cores
from fedlama.engines.stacked import StackedEngine
from fedlama.engines.trainers.base import Trainer
from fedlama.engines.trainers.numba import NumbaTrainer, compiled_form
from fedlama.engines.trainers.serial import SerialTrainer
from fedlama.engines.trainers.torch_chain.trainer import TorchChainTrainer
from fedlama.engines.trainers.torch_chain.translate import chain_for
from fedlama.engines.trainers.vmapped import VmapTrainer
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run

SIDES = ("numba", "chain", "vmap", "chain per thread", "serial per thread")


@dataclass(frozen=True)
class Adam(SGD):
    """Adam as a user would write it: a solver without a compiled form."""

    name: ClassVar[str] = "adam"

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Zero moments."""
        return {kind: [torch.zeros_like(p) for p in parameters] for kind in ("first", "second")}

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Take one step without bias correction."""
        first, second = optimizer_state["first"], optimizer_state["second"]
        torch._foreach_lerp_(first, list(gradients), 0.1)
        torch._foreach_mul_(second, 0.999)
        torch._foreach_addcmul_(second, list(gradients), list(gradients), 0.001)
        root = torch._foreach_sqrt(second)
        torch._foreach_add_(root, 1e-8)
        torch._foreach_addcdiv_(list(parameters), first, root, -rate)


def solvers(workload: Workload) -> dict[str, LocalSolver]:
    """Return the solvers to measure: the workload's, Keras's momentum, and Adam; only the first has a compiled form."""
    rate = workload.learning_rate
    return {
        "SGD": SGD(rate, momentum=workload.momentum, state_scope="round"),
        "SGD, velocity of steps": SGD(rate, momentum=0.9, velocity="step", state_scope="round"),
        "Adam": Adam(0.001, state_scope="round"),
    }


def engine(side: str) -> Callable[[EngineSetup], StackedEngine]:
    """Return what builds the engine of a side; it raises ValueError if the model or the solver does not suit it."""

    def build(setup: EngineSetup) -> StackedEngine:
        batches = CohortBatches(setup.clients, setup.device, setup.seed)
        single = side.endswith("per thread")
        count = cores() if single or side == "numba" else 1
        cohort = Cohort(setup, DeviceStorage(setup.device), channels_last=single)
        trainers = [_trainer(side, setup, batches) for _ in range(count)]
        return StackedEngine(setup, trainers, cohort, chunk=1 if single else None)

    return build


def _trainer(side: str, setup: EngineSetup, batches: CohortBatches) -> Trainer:
    if side == "vmap":
        return VmapTrainer(setup, batches)
    if side == "serial per thread":
        return SerialTrainer(setup, batches, channels_last=True)
    if side == "numba":
        program = compiled_form(setup)
        if program is None:
            raise ValueError("no compiled form")
        return NumbaTrainer(setup, batches, program)
    chain = chain_for(setup)
    if chain is None:
        raise ValueError("not a chain")
    return TorchChainTrainer(setup, batches, chain)


def prepared(workload: Workload, solver: LocalSolver, side: str) -> Callable[[], object] | None:
    """Return what advances a run by a round, or None if the side does not suit it."""
    x, y, rows = workload.data()
    try:
        run = Run(
            Federation(
                model=workload.build(),
                clients=TensorClients(x, y, rows, workload.batch),
                strategy=FedAvg(workload.steps),
                local_steps=workload.steps * 1_000_000,
                solver=solver,
                sampler=UniformSampler(workload.cohort),
                engine=engine(side),
            )
        )
    except ValueError:
        return None
    return run.advance


def main() -> None:
    """Measure and print a table of client-steps per second."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(COMPILED), choices=WORKLOADS)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)
    parser.add_argument("--cohort", type=int, help="clients per round instead of the workload's")
    parser.add_argument("--seconds", type=float, default=30, help="per workload and solver, all sides together")
    parser.add_argument("--threads", type=int, help="of torch, within an operation; its default if left out")
    given = parser.parse_args()
    keep_memory()
    if given.threads:
        torch.set_num_threads(given.threads)
    print(f"| workload | solver | {' | '.join(given.sides)} | turns |\n{'|---' * (len(given.sides) + 3)}|", flush=True)
    for name in given.workloads:
        workload = replace(WORKLOADS[name], cohort=given.cohort or WORKLOADS[name].cohort)
        for label, solver in solvers(workload).items():
            jobs = {side: prepared(workload, solver, side) for side in given.sides}
            taken = take_turns({side: job for side, job in jobs.items() if job is not None}, given.seconds)
            steps = workload.cohort * workload.steps
            rates = {side: steps / statistics.median(seconds) for side, seconds in taken.items()}
            cells = [
                f"{rates[side]:,.{0 if rates[side] >= 100 else 1}f}" if side in rates else "" for side in given.sides
            ]
            turns = len(next(iter(taken.values())))
            print(f"| {name} | {label} | {' | '.join(cells)} | {turns} |", flush=True)


if __name__ == "__main__":
    main()
