"""How fast codecs are, relative to a copy: ``python -m benchmarks.codecs [CLIENTS]``.

WRN-28-10 (36.5 million parameters) on 16 clients, layer by layer: what the server receives of an upload, and the new
states. Every client's bytes count as read once and written once, as for a plain copy, which is measured in turns with
each codec; the states are read and written beside that.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch

from fedlama import QSGD, BFloat16, Codec, Differences, EightBitRows, Float16, Sign, TopK, by_tensor
from fedlama.choices.codecs import Address, CohortContext, codec_of
from fedlama.engines.cohort.storage import keep_memory
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.models import wide_resnet

CODECS: dict[str, Codec] = {
    "float16": Float16(),
    "bfloat16": BFloat16(),
    **{f"differences, {bits} bits": Differences(bits) for bits in (8, 4, 2, 1)},
    "eight-bit-rows": EightBitRows(),
    "sign": Sign(),
    "qsgd": QSGD(),
    "top-k": TopK(),
}


def rate(codec: Codec, clients: int, threads: WorkerThreads, repetitions: int = 3) -> tuple[float, float]:
    """Return the rate of a codec over all layers, and that of a copy, in GB/s: medians."""
    specs = [spec for layer in by_tensor(wide_resnet()) for spec in layer.tensors if spec.trainable]
    rates: dict[str, list[float]] = {"codec": [], "copy": []}
    for _ in range(repetitions):
        moved, seconds, copying = 0, 0.0, 0.0
        for spec in specs:
            stacked, reference = torch.randn(clients, *spec.shape), torch.zeros(spec.shape)  # (clients, ...)
            first = codec_of(spec, codec).init(spec)
            state = {name: value.repeat(clients, *[1] * value.dim()) for name, value in first.items()}
            address, target = Address(0, "up", 0, 0, spec.name), torch.ones_like(stacked)
            known = CohortContext(reference, state, address, range(clients), threads.map_strided)
            codec_of(spec, codec).transmit_with(stacked, known)  # memory and machine code are there then
            start = time.perf_counter()
            codec_of(spec, codec).transmit_with(stacked, known)
            seconds += time.perf_counter() - start
            start = time.perf_counter()
            target.copy_(stacked)
            copying += time.perf_counter() - start
            moved += 2 * stacked.nbytes
        rates["codec"].append(moved / seconds / 1e9)
        rates["copy"].append(moved / copying / 1e9)
    return statistics.median(rates["codec"]), statistics.median(rates["copy"])


def main(clients: int = 16) -> None:
    """Print one line per codec."""
    keep_memory()
    torch.manual_seed(0)
    threads = WorkerThreads(cores())
    for name, codec in CODECS.items():
        reached, copied = rate(codec, clients, threads)
        line = {"codec": name, "GB/s": round(reached, 2), "copy GB/s": round(copied, 2)}
        print(json.dumps(line | {"share": round(reached / copied, 3)}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
