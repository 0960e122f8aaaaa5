"""How fast codecs are, relative to a copy: ``python -m benchmarks.codecs [CLIENTS [CODEC ...]]``.

WRN-28-10 (36.5 million parameters) on 16 clients, layer by layer: what the server receives of an upload, and the new
states. Every client's bytes count as read once and written once, as for a plain copy, which is measured in turns with
each codec; the states are read and written beside that. Shares are given by the clock and by the CPU seconds of the
process, which other programs on the machine disturb less.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from fedlama import (
    QSGD,
    BFloat16,
    Chain,
    Codec,
    Differences,
    EightBitRows,
    Float16,
    PowerSGD,
    RandomK,
    Sign,
    TopK,
    by_tensor,
)
from fedlama.choices.codecs import Address, CohortContext, codec_of
from fedlama.engines.cohort.storage import keep_memory
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.models import wide_resnet

CODECS: dict[str, Codec] = {
    "float16": Float16(),
    "bfloat16": BFloat16(),
    **{f"differences, {bits} bits": Differences(bits) for bits in (8, 4, 2, 1)},
    "differences, no feedback": Differences(4, feedback=False),
    "eight-bit-rows": EightBitRows(),
    "sign": Sign(),
    "qsgd": QSGD(),
    "qsgd, norm": QSGD(8, "norm"),
    "top-k": TopK(),
    "random-k": RandomK(),
    "chain": Chain((TopK(), Differences(4))),
    "power-sgd": PowerSGD(),
}


_FIRST = 4
"""Calls that are not measured: the first one compiles, and up to the fourth memory comes from the system."""


class Rates(NamedTuple):
    """Of a codec over all layers, and of a copy, in GB/s; and the seconds of a copy over those of the codec."""

    codec: float
    copy: float
    share: float
    cpu_share: float


def _timed(job: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call, by the clock and of the CPUs."""
    start = time.perf_counter(), time.process_time()
    job()
    return time.perf_counter() - start[0], time.process_time() - start[1]


def rate(codec: Codec, clients: int, threads: WorkerThreads, repetitions: int = 3) -> Rates:
    """Return the rates of a codec and of a copy: medians."""
    specs = [spec for layer in by_tensor(wide_resnet()) for spec in layer.tensors if spec.trainable]
    measured: list[Rates] = []
    for _ in range(repetitions):
        moved, spent = 0, {"codec": (0.0, 0.0), "copy": (0.0, 0.0)}
        for spec in specs:
            stacked, reference = torch.randn(clients, *spec.shape), torch.zeros(spec.shape)  # (clients, ...)
            first = codec_of(spec, codec).init(spec)
            state = {name: value.repeat(clients, *[1] * value.dim()) for name, value in first.items()}
            address, target = Address(0, "up", 0, 0, spec.name), torch.ones_like(stacked)
            known = CohortContext(reference, state, address, range(clients), threads.map_strided)
            send = partial(codec_of(spec, codec).transmit_with, stacked, known)
            for _ in range(_FIRST):
                send()
            for name, job in (("codec", send), ("copy", partial(target.copy_, stacked))):
                seconds, cpu_seconds = _timed(job)
                spent[name] = spent[name][0] + seconds, spent[name][1] + cpu_seconds
            moved += 2 * stacked.nbytes
        (slow, slow_cpu), (fast, fast_cpu) = spent["codec"], spent["copy"]
        measured.append(Rates(moved / slow / 1e9, moved / fast / 1e9, fast / slow, fast_cpu / slow_cpu))
    return Rates(*(statistics.median(values) for values in zip(*measured, strict=True)))


def main(clients: int = 16, *chosen: str) -> None:
    """Print one line per codec: of all, or of some by their names."""
    keep_memory()
    torch.manual_seed(0)
    threads = WorkerThreads(cores())
    for name, codec in CODECS.items():
        if not chosen or name in chosen:
            rates = rate(codec, clients, threads)
            line = {"codec": name, "GB/s": round(rates.codec, 2), "copy GB/s": round(rates.copy, 2)}
            shares = {"share": round(rates.share, 3), "share of CPU seconds": round(rates.cpu_share, 3)}
            print(json.dumps(line | shares), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
