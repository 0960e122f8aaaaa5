"""What computes in a stacked engine, in words."""

from __future__ import annotations

from fedlama.engines.chain import ChainTrainer
from fedlama.engines.compiled import CompiledTrainer
from fedlama.engines.fitting import FittingTrainer
from fedlama.engines.precision import Precision
from fedlama.engines.serial import SerialTrainer
from fedlama.engines.trainer import Trainer
from fedlama.engines.vmapped import VmapTrainer

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
