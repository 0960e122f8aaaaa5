"""The options of the stacked engine, and the rule that chooses among them.

:class:`Stacked`, :class:`Workers` and :class:`Auto` are what a user gives as ``engine=``. Each is called with a
federation's fixed parts and builds a :class:`~fedlama.engines.stacked.StackedEngine`: with the kernels of
:mod:`fedlama.kernels` if the model and the solver have a form there, else with a trainer of PyTorch's kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from torch import nn

from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole
from fedlama.data.clients import tensor_clients
from fedlama.engines.api import EngineSetup
from fedlama.engines.cohort.batches import CohortBatches
from fedlama.engines.cohort.cohort import Cohort
from fedlama.engines.cohort.sizes import is_large
from fedlama.engines.cohort.storage import DeviceStorage, DiskStorage, Storage, keep_memory
from fedlama.engines.cohort.threads import cores
from fedlama.engines.forward_cost import BUSY, forward_multiply_adds, rows_that_keep_a_thread_busy
from fedlama.engines.stacked import StackedEngine
from fedlama.engines.trainers.base import Trainer
from fedlama.engines.trainers.fitting import CudaMemory, FittingTrainer
from fedlama.engines.trainers.gradients import PRECISIONS, Precision, check_precision
from fedlama.engines.trainers.numba import NumbaTrainer, compiled_form
from fedlama.engines.trainers.recorded.trainer import RecordedTrainer
from fedlama.engines.trainers.serial import SerialTrainer
from fedlama.engines.trainers.torch_chain.trainer import TorchChainTrainer
from fedlama.engines.trainers.torch_chain.translate import chain_for
from fedlama.engines.trainers.torch_compiled import check_compiler
from fedlama.engines.trainers.traced.steps import TracedSteps
from fedlama.engines.trainers.vmapped import VmapTrainer
from fedlama.errors import ConfigError
from fedlama.kernels import Model


@register("engine", "stacked")
@dataclass(frozen=True)
class Stacked:
    """Trains all clients of a cohort at once, stacked in one tensor for each of the model's.

    Calling the options with a federation's fixed parts builds the engine.

    Args:
        chunk: Clients that advance in one call, at most; fewer need less memory for activations. By default 64 on the
            CPU, where larger numbers only leave the cache (1 for large models on compiled kernels, so that no thread
            waits for another's last clients; with traced steps fewer the more a forward pass computes, at least 4, so
            that there is something for every thread), and all on other devices. On CUDA as many as fit the memory that
            is free at the first round, by a step that is measured on copies (all, if the data are not tensors). Set it
            where a run has to be repeated to the last bit on a card with other memory: a batched product is cut in
            chunks.
        threads: Worker threads, each with one intra-op thread. By default one per core for compiled kernels and for
            traced steps, and otherwise one, which leaves all cores to PyTorch's intra-op threads.
        state_dir: A folder for the cohort's state, as memory-mapped files, when it exceeds the memory.
        precision: ``"bfloat16"`` runs the model under torch's autocast, which pays where the hardware multiplies
            bfloat16; parameters, gradients, optimizer state, BatchNorm's statistics, averages and the loss stay
            float32.
        compile_steps: Whether losses and gradients go through ``torch.compile``, on CUDA with its CUDA graphs, so that
            a step of many small kernels takes few launches. It needs a C++ compiler, and on CUDA Triton. The first
            round pays for the compilation, seconds to minutes for each shape of batches. Up to eight shapes are
            compiled, and small groups of rows with batches of other shapes are not. For a model that cannot be traced,
            and for one with dropout, whose masks come from the clients' own generators, a warning is issued once and
            the steps run without torch.compile.
        trace_steps: Whether the operations of steps that are not torch-compiled are recorded once and then run without
            Python, on a CPU, where the model allows it. Results have the same bits. It serves models without compiled
            form.

    `precision` and `compile_steps` take the vectorised trainer for any model: neither the kernels of
    :mod:`fedlama.kernels` nor the chains of :mod:`fedlama.engines.trainers.torch_chain`. On CUDA, :class:`Recorded` is
    faster with either.

    Raises:
        ConfigError: An option is out of range or not available on the device, or the folder does not exist.
    """

    chunk: int | None = None
    threads: int | None = None
    state_dir: str | None = None
    precision: Precision = "float32"
    compile_steps: bool = False
    trace_steps: bool = field(default=True, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        given = [name for name in ("chunk", "threads") if getattr(self, name) is not None]
        refuse(whole(self, *given, minimum=1) + one_of(self, "precision", PRECISIONS))

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Build the engine."""
        check_precision(self.precision, setup.device)
        if self.compile_steps:
            _check_compilation(setup)
        if setup.device.type == "cpu" and is_large(setup.model, setup.clients):
            keep_memory()
        cohort = Cohort(setup, storage_for(setup, self.state_dir), channels_last=False)
        batches = CohortBatches(setup.clients, setup.device, setup.seed)
        program = None if self._is_vectorised else compiled_form(setup)
        traced = TracedSteps.of(setup) if self.trace_steps and not self.compile_steps else None
        first = self._trainer(setup, batches, program, traced)
        if first.cut_by_rows:  # the first trainer's limit counts, so the model's arithmetic is counted once
            first.rows_per_call = self.chunk or rows_that_keep_a_thread_busy(setup)
        count = self.threads or (cores() if first.supports_threads or first.cut_by_rows else 1)
        trainers = [first, *(self._trainer(setup, batches, program, traced) for _ in range(count - 1))]
        plain = partial(_plain_trainers, setup, batches, self.precision, self.threads, self.trace_steps)
        return StackedEngine(setup, trainers, cohort, self.chunk, plain)

    @property
    def _is_vectorised(self) -> bool:
        """Whether the options ask for what only the vectorised trainer can do."""
        return self.compile_steps or self.precision != "float32"

    def _trainer(
        self, setup: EngineSetup, batches: CohortBatches, program: Model | None, traced: TracedSteps | None
    ) -> Trainer:
        """Make the trainer that these options ask for, or the fastest that can train the model."""
        if program is not None:
            return NumbaTrainer(setup, batches, program)
        trainer: Trainer
        probe: Trainer
        chain = None if self._is_vectorised else chain_for(setup)
        if chain is not None:
            trainer = probe = TorchChainTrainer(setup, batches, chain)
        else:
            vectorised = VmapTrainer(setup, batches, self.precision, self.compile_steps, traced)
            vectorised.cut_by_rows = traced is not None and self.threads is None
            trainer, probe = vectorised, vectorised.without_compiler()
        clients = tensor_clients(setup.clients)
        if self.chunk or setup.device.type != "cuda" or clients is None:
            return trainer
        return FittingTrainer(trainer, probe, clients, CudaMemory(setup.device))


@register("engine", "recorded")
@dataclass(frozen=True)
class Recorded:
    """Records every client's step once and replays it, for CUDA.

    Calling the options builds the engine.

    A step is recorded once for each client that trains at a time, as a CUDA graph, and then replayed: one call starts
    all kernels of a forward and a backward pass, and the graphs of several clients run beside each other. It serves any
    model. What cannot be recorded, such as a model that looks at a number or draws random numbers beside dropout, runs
    as it is, with a warning. On other devices the same steps run unrecorded, which serves to try a configuration.

    Args:
        lanes: Clients that run beside each other, at most; each lane needs memory for the activations of a client.
        share: Clients that have recordings at a time, at most, as each takes memory for a model, its gradients and a
            batch. By default as many as fit the memory, at most 256. A larger cohort is trained share by share.
        precision: As for :class:`Stacked`.
        compile_steps: Whether the model goes through ``torch.compile`` before it is recorded, with the same conditions
            as for :class:`Stacked`. Only batches of the usual shape are compiled.
        autotune: Whether cuDNN tries at the first round which of its kernels are fastest for the usual shape. In
            float32 it never does, so that results repeat to the last bit on the same card.

    Raises:
        ConfigError: An option is out of range or not available on the device.
    """

    lanes: int = 16
    share: int | None = None
    precision: Precision = "float32"
    compile_steps: bool = False
    autotune: bool = True

    def __post_init__(self) -> None:
        normalise_numbers(self)
        given = ["lanes", *(["share"] if self.share is not None else [])]
        refuse(whole(self, *given, minimum=1) + one_of(self, "precision", PRECISIONS))

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Build the engine."""
        check_precision(self.precision, setup.device)
        if self.compile_steps:
            _check_compilation(setup)
        batches = CohortBatches(setup.clients, setup.device, setup.seed)
        trainer = RecordedTrainer(
            setup, batches, self.precision, self.compile_steps, self.lanes, self.share, self.autotune
        )
        cohort = Cohort(setup, DeviceStorage(setup.device), channels_last=True)
        plain = partial(_plain_trainers, setup, batches, self.precision)
        return StackedEngine(setup, [trainer], cohort, plain=plain)


@register("engine", "workers")
@dataclass(frozen=True)
class Workers:
    """Trains one client per thread, for models that cannot be stacked.

    Calling the options with a federation's fixed parts builds the engine.

    Args:
        threads: Worker threads; by default one per core.
        state_dir: As for :class:`Stacked`.
        precision: As for :class:`Stacked`.
        trace_steps: As for :class:`Stacked`.

    Raises:
        ConfigError: An option is out of range or not available on the device, or the folder does not exist.
    """

    threads: int | None = None
    state_dir: str | None = None
    precision: Precision = "float32"
    trace_steps: bool = field(default=True, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = [] if self.threads is None else whole(self, "threads", minimum=1)
        refuse(problems + one_of(self, "precision", PRECISIONS))

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Build the engine."""
        check_precision(self.precision, setup.device)
        on_cpu = setup.device.type == "cpu"
        if on_cpu:
            keep_memory()
        batches = CohortBatches(setup.clients, setup.device, setup.seed)
        count = self.threads or (cores() if on_cpu else 1)
        traced = TracedSteps.of(setup) if self.trace_steps else None
        trainers = [_single_client_trainer(setup, batches, self.precision, traced) for _ in range(count)]
        cohort = Cohort(setup, storage_for(setup, self.state_dir), channels_last=True)
        plain = partial(_plain_trainers, setup, batches, self.precision, count, self.trace_steps)
        return StackedEngine(setup, trainers, cohort, chunk=1, plain=plain)


def _check_compilation(setup: EngineSetup) -> None:
    """Refuse torch-compiled steps where they cannot be made.

    Raises:
        ConfigError: A program that torch.compile needs is missing, or batches are computed in parts.
    """
    check_compiler(setup.device)
    if setup.micro_batch_size is not None:
        raise ConfigError(
            "compile_steps is true, but torch-compiled steps take whole batches and micro_batch_size is "
            f"{setup.micro_batch_size}; leave one of them out"
        )


def _plain_trainers(
    setup: EngineSetup,
    batches: CohortBatches,
    precision: Precision,
    threads: int | None = None,
    traces: bool = True,
) -> list[Trainer]:
    """Make the trainers, one per thread, that call the model as a user does."""
    count = threads or (cores() if setup.device.type == "cpu" else 1)
    traced = TracedSteps.of(setup) if traces else None
    return [SerialTrainer(setup, batches, False, precision, traced) for _ in range(count)]


def _single_client_trainer(
    setup: EngineSetup, batches: CohortBatches, precision: Precision, traced: TracedSteps | None
) -> Trainer:
    chain = chain_for(setup) if precision == "float32" else None
    if chain is None:
        return SerialTrainer(setup, batches, True, precision, traced)
    return TorchChainTrainer(setup, batches, chain)


def storage_for(setup: EngineSetup, state_dir: str | None) -> Storage:
    """Choose where the cohort's state is stored.

    Raises:
        ConfigError: A folder was given for a device that has no files.
    """
    if state_dir is None:
        return DeviceStorage(setup.device)
    if setup.device.type != "cpu":
        raise ConfigError(f"state_dir needs device='cpu', but the device is {str(setup.device)!r}; leave state_dir out")
    return DiskStorage(state_dir)


def choose(setup: EngineSetup, precision: Precision = "float32") -> Literal["stacked", "workers", "recorded"]:
    """Return the name of the engine that suits a federation.

    It looks at the federation, never at a clock, so it chooses alike on every machine. On a CPU, one client per thread
    is faster where the kernels of one client keep a core busy, and where no kernel serves several clients, as with
    recurrent layers. On CUDA small models that are chains of layers are stacked: one kernel serves all clients there.
    Everything else is recorded.

    Args:
        setup: The federation's fixed parts.
        precision: The numbers that the model computes in.
    """
    if setup.device.type == "cuda":
        chain = precision == "float32" and not is_large(setup.model, setup.clients) and chain_for(setup) is not None
        return "stacked" if chain else "recorded"
    if setup.device.type != "cpu" or compiled_form(setup) is not None:
        return "stacked"
    recurrent = any(isinstance(module, nn.RNNBase) for module in setup.model.modules())
    busy = recurrent or is_large(setup.model, setup.clients) or forward_multiply_adds(setup) >= BUSY
    return "workers" if busy else "stacked"


@register("engine", "auto")
@dataclass(frozen=True)
class Auto:
    """Chooses the engine that suits the model and the device.

    Calling the options with a federation's fixed parts builds what it chose.

    Args:
        state_dir: As for :class:`Stacked`.
        precision: As for :class:`Stacked`.

    Raises:
        ConfigError: An option is out of range or not available on the device, or the folder does not exist.
    """

    state_dir: str | None = None
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        refuse(one_of(self, "precision", PRECISIONS))

    def __call__(self, setup: EngineSetup) -> StackedEngine:
        """Choose and build; the engine's `label` says what was chosen."""
        chosen = choose(setup, self.precision)
        if chosen == "recorded" and self.state_dir is None:
            return Recorded(precision=self.precision)(setup)
        if chosen == "workers":
            return Workers(state_dir=self.state_dir, precision=self.precision)(setup)
        return Stacked(state_dir=self.state_dir, precision=self.precision)(setup)
