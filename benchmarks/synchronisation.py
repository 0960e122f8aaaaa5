"""Bandwidth of a synchronisation: ``python -m benchmarks.synchronisation``.

WRN-28-10 (36.5 million parameters) on 16 clients: mean, discrepancy and write-back of every layer. Every client's bytes
have to be read once and written once. The rate is compared with that of a plain copy, counted alike and measured in
turns.
"""

from __future__ import annotations

import json
import statistics
import time

import numpy as np
import torch

from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.core.layers import by_tensor
from fedlama.core.losses import cross_entropy
from fedlama.data.clients import TensorClients
from fedlama.engines import EngineSetup, Stacked
from fedlama.models import wide_resnet

CLIENTS = 16


def main(repetitions: int = 7) -> dict[str, float]:
    """Measure in turns; return medians in GB/s and their ratio."""
    torch.manual_seed(0)
    model = wide_resnet()
    source = TensorClients(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64), [np.zeros(1, np.int64)], 1)
    layers = by_tensor(model)
    setup = EngineSetup(model, layers, source, SGD(0.1), Float32(), cross_entropy, 0, torch.device("cpu"))
    engine = Stacked()(setup)
    tensors = dict(model.state_dict())
    engine.start_cohort(range(CLIENTS), {spec.name: tensors[spec.name] for layer in layers for spec in layer.tensors})
    moved = 2 * CLIENTS * sum(spec.size * 4 for layer in layers for spec in layer.tensors)
    source_block, target = torch.ones(moved // 16), torch.zeros(moved // 16)  # half of the bytes: they all fit
    rates: dict[str, list[float]] = {"synchronise": [], "copy": []}
    for _ in range(repetitions):
        start = time.perf_counter()
        for layer in layers:
            engine.overwrite(layer, engine.average(layer, [1 / CLIENTS] * CLIENTS).values)
        rates["synchronise"].append(moved / (time.perf_counter() - start) / 1e9)
        start = time.perf_counter()
        target.copy_(source_block)
        rates["copy"].append(2 * target.nbytes / (time.perf_counter() - start) / 1e9)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return medians | {"share": medians["synchronise"] / medians["copy"]}


if __name__ == "__main__":
    print(json.dumps(main()))
