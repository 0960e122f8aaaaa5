"""The engine that keeps the whole cohort stacked and advances many clients in one launch.

State, synchronisation and data serve all clients at once; a trainer advances shares of the cohort: vectorised by
:mod:`~fedlama.engines.trainers.vmapped`, or one client after another by :mod:`~fedlama.engines.trainers.serial`, on
one or several threads. The results are those of the loop engine to float tolerance; which client is in which share
changes nothing but the order in which a matrix product adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedlama.core.devices import upload
from fedlama.core.layers import Layer
from fedlama.core.validation import at_least, one_of, refuse
from fedlama.data.clients import TensorClients
from fedlama.engines.api import Average, CohortState, EngineSetup, Values
from fedlama.engines.cohort.averaging import mean_and_discrepancy
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.sizes import is_large
from fedlama.engines.cohort.storage import DeviceStorage, DiskStorage, Storage, keep_memory
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.trainers.base import Task, Trainer, make_task
from fedlama.engines.trainers.chain import ChainTrainer, chain_for
from fedlama.engines.trainers.compiled_step import check_compiler
from fedlama.engines.trainers.device_memory import CudaMemory
from fedlama.engines.trainers.fitting import FittingTrainer
from fedlama.engines.trainers.gradients import PRECISIONS, Precision, check_precision
from fedlama.engines.trainers.numba import CompiledTrainer, compiled_form
from fedlama.engines.trainers.serial import SerialTrainer
from fedlama.engines.trainers.vmapped import VmapTrainer
from fedlama.errors import ConfigError, DivergenceError

UNLIMITED = 1 << 30
"""A chunk that no cohort exceeds."""
_WAYS: dict[type[Trainer], str] = {
    ChainTrainer: "batched kernels of PyTorch",
    CompiledTrainer: "kernels compiled by Numba",
    SerialTrainer: "ordinary kernels of PyTorch",
    VmapTrainer: "vectorised over clients by torch.func",
}


def label_of(
    trainer: Trainer, threads: int, chunk: int, precision: Precision = "float32", compile_steps: bool = False
) -> str:
    """Name the trainer, how it computes, and how many clients advance at a time.

    Args:
        trainer: One of the engine's trainers, which are all alike.
        threads: How many there are.
        chunk: Clients that one advances at a time, at most; `UNLIMITED` where nothing but memory limits them.
        precision: In which numbers the model computes.
        compile_steps: Whether steps are to go through ``torch.compile``.
    """
    inner = trainer.inner if isinstance(trainer, FittingTrainer) else trainer
    words = [f"{type(inner).__name__} x {threads}"]
    words += [_WAYS[type(inner)]] if type(inner) in _WAYS else []
    words += [precision] if precision != "float32" else []
    words += ["steps compiled where the model allows it"] if compile_steps else []
    return ", ".join([*words, _at_a_time(chunk, fitting=inner is not trainer)])


def _at_a_time(chunk: int, *, fitting: bool) -> str:
    if fitting:
        return "as many clients at a time as fit the memory"
    if chunk >= UNLIMITED:
        return "all clients at a time"
    return "one client at a time" if chunk == 1 else f"at most {chunk} clients at a time"


_WORTH = 1 << 26
"""Multiplications that are worth a thread's while: with less, it waits for Python longer than it computes."""


class StackedEngine:
    """Holds the cohort as stacked tensors.

    Args:
        setup: The federation's fixed parts.
        trainers: One per thread.
        cohort: The state, without clients as yet.
        chunk: Rows that a trainer advances at a time, at most.
        label: What computes here, in words.
        products: Multiplications of one client's step, about, if a thread should only be asked for enough of them.

    Attributes:
        label: As given.
    """

    def __init__(
        self,
        setup: EngineSetup,
        trainers: Sequence[Trainer],
        cohort: Cohort,
        chunk: int,
        label: str,
        products: int | None = None,
    ) -> None:
        self._setup = setup
        self._trainers = trainers
        self._cohort = cohort
        self._chunk = chunk
        self._products = products
        self._begins = isinstance(trainers[0], CompiledTrainer)  # with fresh solver buffers that nobody has written
        self._threads = WorkerThreads(len(trainers))
        self._helpers = WorkerThreads(cores())  # for synchronisation, however many train
        self.label = label

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; every member starts from the complete global model."""
        self._cohort.start_cohort(clients, values)

    def train(
        self, round_index: int, steps: int, frozen: frozenset[str], reference: Mapping[str, Tensor]
    ) -> list[float]:
        """Advance every client by `steps` local steps, in shares of neighbouring rows."""
        if self._setup.solver.state_scope == "round":
            self._cohort.renew()
        task = make_task(self._setup, self._cohort.names, round_index, steps, frozen, reference)
        self._cohort.begin(task.trained) if self._begins else self._cohort.settle()
        losses = self._trained(task)
        self._cohort.trained()
        self._cohort.count(self._cohort.clients, steps)
        return losses

    def _trained(self, task: Task) -> list[float]:
        """Do a round's work and return every client's mean loss."""
        rows, first = len(self._cohort.clients), self._trainers[0]
        if isinstance(first, CompiledTrainer) and rows <= self._chunk:
            return first.run(self._cohort.share(slice(0, rows)), task, self._threads)
        worth = rows if self._products is None else rows * task.steps * self._products // _WORTH
        shares = _split(rows, min(len(self._trainers), max(worth, 1)), self._chunk)

        waiting = iter(range(len(shares)))  # whoever is free takes the next one
        losses: dict[int, list[float]] = {}
        errors: dict[int, DivergenceError] = {}

        def work_off(worker: int) -> None:
            for index in waiting:
                try:
                    losses[index] = self._trainers[worker].run(self._cohort.share(shares[index]), task)
                except DivergenceError as error:
                    errors[index] = error
                if errors:
                    return

        self._threads.map(work_off, range(min(len(self._trainers), len(shares))))
        if errors:  # shares begin in their order, so the first that diverges is always among these
            raise errors[min(errors)]
        return [loss for index in range(len(shares)) for loss in losses[index]]

    def average(self, layer: Layer, weights: Sequence[float]) -> Average:
        """Average a layer over the cohort, in one pass over its stacked tensors; a device is looked at once for all."""
        shares = upload(torch.from_numpy(np.array(weights, dtype=np.float64)), self._setup.device)
        means: Values = {}
        total: float | Tensor = 0.0
        for spec in layer.tensors:
            received = self._setup.codec.transmit(self._cohort.rows(spec.name))
            means[spec.name], apart = mean_and_discrepancy(received, shares, spec.trainable, self._helpers)
            total = total + apart
        return Average(means, float(total))

    def overwrite(self, layer: Layer, values: Mapping[str, Tensor]) -> None:
        """Set a layer to one value on every client."""
        self._cohort.overwrite({spec.name: values[spec.name] for spec in layer.tensors})

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        return self._cohort.client_values(client)

    def count(self, clients: Sequence[int], steps: int) -> None:
        """Book local steps that clients made elsewhere, so that their data go on from there."""
        self._cohort.count(clients, steps)

    def state_dict(self) -> CohortState:
        """Return a copy of the cohort's state."""
        return self._cohort.state_dict()

    def load_state_dict(self, state: CohortState) -> None:
        """Take up a state that an engine of the same federation exported."""
        self._cohort.load_state_dict(state)


@dataclass(frozen=True)
class Stacked:
    """Options of the stacked engine; calling it with a federation's work builds the engine.

    Args:
        chunk: Clients that advance in one launch, at most; fewer need less memory for activations. By default 64 on
            the CPU, where larger ones only leave the cache (1 for large compiled models, so that no thread waits for
            another's last clients), and all elsewhere; on CUDA as many as fit the memory that is free at the first
            round, by a step that is measured on copies (all, if the data are not tensors). Set it where a run has to be
            repeated to the last bit on a card with other memory: a batched product is cut in chunks.
        threads: Worker threads, each with one intra-op thread. By default one per core for compiled chains, and
            otherwise one, which leaves all cores to PyTorch's own kernels.
        state_dir: A folder to keep the cohort's state in, as memory-mapped files, when it exceeds the memory.
        precision: ``"bfloat16"`` runs the model under torch's autocast, which pays where the hardware multiplies
            bfloat16; parameters, gradients, solver buffers, BatchNorm's statistics, averages and the loss stay float32.
        compile_steps: Whether losses and gradients go through ``torch.compile``, on CUDA with its CUDA graphs, so that
            a step of many small kernels is few launches. It takes a C++ compiler, and on CUDA Triton. The first round
            pays for the compilation, seconds to minutes for each shape of batches; up to eight shapes are compiled, and
            small groups of rows with batches of other shapes are not. A model with dropout, whose masks come from the
            clients' own generators, and one that cannot be traced are said to be so once and run uncompiled.

    Either of the last two takes the vectorised trainer, for any model: never the compiled form of
    :mod:`fedlama.kernels`, never a chain of :mod:`fedlama.engines.trainers.chain`. Neither has run on a GPU yet.

    Raises:
        ConfigError: An option is out of range or cannot be had on the device, or the folder does not exist.
    """

    chunk: int | None = None
    threads: int | None = None
    state_dir: str | None = None
    precision: Precision = "float32"
    compile_steps: bool = False

    def __post_init__(self) -> None:
        given = [name for name in ("chunk", "threads") if getattr(self, name) is not None]
        refuse(at_least(self, 1, *given) + one_of(self, "precision", PRECISIONS))

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Build the engine."""
        check_precision(self.precision, setup.device)
        if self.compile_steps:
            check_compiler(setup.device)
        batches = CohortBatches(setup.clients, setup.device, setup.seed)
        if setup.device.type == "cpu" and is_large(setup.model, setup.clients):
            keep_memory()
        cohort = Cohort(setup, storage_for(setup, self.state_dir), channels_last=False)
        vectorised = self.compile_steps or self.precision != "float32"
        program = None if vectorised else compiled_form(setup)

        def trainer() -> Trainer:
            if program is not None:
                return CompiledTrainer(setup, batches, program)
            if vectorised:
                found: Trainer = VmapTrainer(setup, batches, self.precision, self.compile_steps)
            else:
                found = _trainer(setup, batches)
            return found if self.chunk else _fitting(setup, found)

        first = trainer()
        chunk = self.chunk or _chunk(setup, first)
        count = self.threads or (cores() if isinstance(first, CompiledTrainer) else 1)
        trainers = [first, *(trainer() for _ in range(count - 1))]
        products = first.products * _batch(setup) if isinstance(first, CompiledTrainer) else None
        label = label_of(first, count, chunk, self.precision, self.compile_steps)
        return StackedEngine(setup, trainers, cohort, chunk, label, products)


@dataclass(frozen=True)
class Workers:
    """Options of the engine with one client per thread; calling it with a federation's work builds the engine.

    Args:
        threads: Worker threads; by default one per core.
        state_dir: As for :class:`Stacked`.

    Raises:
        ConfigError: An option is out of range, or the folder does not exist.
    """

    threads: int | None = None
    state_dir: str | None = None

    def __post_init__(self) -> None:
        refuse([] if self.threads is None else at_least(self, 1, "threads"))

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Build the engine."""
        on_cpu = setup.device.type == "cpu"
        count = self.threads or (cores() if on_cpu else 1)
        batches = CohortBatches(setup.clients, setup.device, setup.seed)
        if on_cpu:
            keep_memory()
        trainers = [_single(setup, batches) for _ in range(count)]
        cohort = Cohort(setup, storage_for(setup, self.state_dir), channels_last=True)
        return StackedEngine(setup, trainers, cohort, 1, label_of(trainers[0], count, 1))


def _trainer(setup: EngineSetup, batches: CohortBatches) -> Trainer:
    chain = chain_for(setup)
    return VmapTrainer(setup, batches) if chain is None else ChainTrainer(setup, batches, chain)


def _fitting(setup: EngineSetup, trainer: Trainer) -> Trainer:
    """Let a trainer on CUDA take as many rows at a time as fit the memory."""
    if setup.device.type != "cuda" or not isinstance(setup.clients, TensorClients):
        return trainer
    probe = trainer.uncompiled() if isinstance(trainer, VmapTrainer) else trainer
    return FittingTrainer(trainer, probe, setup.clients, CudaMemory(setup.device))


def _chunk(setup: EngineSetup, trainer: Trainer) -> int:
    if setup.device.type != "cpu":
        return UNLIMITED
    return 1 if isinstance(trainer, CompiledTrainer) and is_large(setup.model, setup.clients) else 64


def _batch(setup: EngineSetup) -> int:
    return max(setup.clients.batch_sizes) if isinstance(setup.clients, TensorClients) else 1


def _single(setup: EngineSetup, batches: CohortBatches) -> Trainer:
    chain = chain_for(setup)
    return SerialTrainer(setup, batches, channels_last=True) if chain is None else ChainTrainer(setup, batches, chain)


def storage_for(setup: EngineSetup, state_dir: str | None) -> Storage:
    """Choose where the state lives.

    Raises:
        ConfigError: A folder was given for a device that has no files.
    """
    if state_dir is None:
        return DeviceStorage(setup.device)
    if setup.device.type != "cpu":
        raise ConfigError(f"state_dir needs device='cpu', but the device is {str(setup.device)!r}; leave state_dir out")
    return DiskStorage(state_dir)


def _split(rows: int, workers: int, chunk: int) -> list[slice]:
    """Cut rows into shares of at most `chunk`, evenly, and at least one per worker where there are rows enough."""
    count = min(rows, max(-(-rows // chunk), workers))
    edges = [rows * index // count for index in range(count + 1)]
    return [slice(start, end) for start, end in pairwise(edges)]


def choose(setup: EngineSetup) -> Literal["stacked", "workers"]:
    """Return the name of the engine that suits a federation.

    Args:
        setup: The federation's fixed parts.
    """
    if setup.device.type != "cpu" or compiled_form(setup) is not None:
        return "stacked"
    return "workers" if is_large(setup.model, setup.clients) else "stacked"


@dataclass(frozen=True)
class Auto:
    """Options of the engine that chooses; calling it with a federation's work builds what it chose.

    Args:
        state_dir: As for :class:`~fedlama.engines.Stacked`.
    """

    state_dir: str | None = None

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Choose and build; the engine's `label` tells what was chosen."""
        if choose(setup) == "workers":
            return Workers(state_dir=self.state_dir)(setup)
        return Stacked(state_dir=self.state_dir)(setup)
