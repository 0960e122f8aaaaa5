"""Synchronisation at memory speed, and bits that repeat."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.cohorts import alike, engine_of, resnet_clients
from benchmarks.gpu.setting import Setting, Values, set_numbers
from fedlama.choices.codecs import Float32
from fedlama.choices.solvers import SGD
from fedlama.choices.tasks import Classification
from fedlama.core.layers import Layer, by_tensor
from fedlama.engines import EngineSetup
from fedlama.engines.api import Average
from fedlama.models import resnet20, wide_resnet


def average_all(engine: Any, layers: Sequence[Layer], weights: Sequence[float]) -> Iterable[Average]:  # noqa: ANN401
    """Average all layers in one call, where the engine has one; else layer by layer."""
    together = getattr(engine, "average_layers", None)
    return together(layers, weights) if together else (engine.average(layer, weights) for layer in layers)


def synchronisation(setting: Setting, model: str) -> Values:
    """Compare the rate of a synchronisation with that of a plain copy, in turns.

    A synchronisation averages every layer, measures its discrepancy, and writes the mean back. The write is pending
    until the values are next used, so it is made in the next repetition's average: from the second repetition on, every
    repetition reads and writes all bytes of all clients once. A copy is counted alike: bytes read and bytes written.

    Args:
        setting: How to measure.
        model: ``"wrn"``, 36.5 million parameters on 16 clients, or ``"resnet20"``, on 128.
    """
    clients = setting.size(16 if model == "wrn" else 128, 3)
    depth, widen = setting.size(28, 10), setting.size(10, 1)
    torch.manual_seed(0)
    net = wide_resnet(100, depth, widen) if model == "wrn" else resnet20()
    engine, layers = _engine(setting, net, clients)
    weights = [1 / clients] * clients
    moved = 2 * clients * sum(spec.size * 4 for layer in layers for spec in layer.tensors)
    source = torch.ones(moved // 8, device=setting.device)  # half of the bytes are read, half are written
    target = torch.zeros_like(source)

    def layer_by_layer() -> None:
        for layer in layers:
            engine.overwrite(layer, engine.average(layer, weights).values)

    def together() -> None:
        for layer, average in zip(layers, list(average_all(engine, layers, weights)), strict=True):
            engine.overwrite(layer, average.values)

    jobs = {"together": together, "layer_by_layer": layer_by_layer, "copy": lambda: target.copy_(source)}
    rates: Values = {}
    for name, job in jobs.items():
        setting.timed(job)
        setting.timed(job)
        rates[f"{name}_gb_per_second"] = moved / statistics.median(setting.repeated(job, setting.seconds / 3)) / 1e9
    rates["of_copy"] = rates["together_gb_per_second"] / rates["copy_gb_per_second"]
    return rates | {"clients": clients, "moved_gb": moved / 1e9}


def _engine(setting: Setting, net: nn.Module, clients: int) -> tuple[Any, Sequence[Layer]]:
    """Return an engine with a cohort, and its layers."""
    layers, source = by_tensor(net), alike((3, 32, 32), 10, clients, 1, 1)
    net = net.to(setting.device)
    setup = EngineSetup(net, layers, source, SGD(0.1), Float32(), Classification(), 0, setting.device)
    engine = engine_of("recorded", "float32")(setup)
    values = {name: value.detach().clone() for name, value in net.state_dict().items()}
    engine.start_cohort(range(clients), {s.name: values[s.name] for layer in layers for s in layer.tensors})
    return engine, layers


def repeated_bits(setting: Setting, kind: str) -> Values:
    """Run two rounds of ResNet-20 twice in float32, and compare a digest of all clients' values.

    The flags of cuDNN are then as a user would set them for it: no autotuner, and deterministic algorithms. With the
    autotuner off and the flag left out it is measured too.
    """
    values: Values = {}
    for name, deterministic in (("deterministic", True), ("default", False)):
        set_numbers("float32", autotune=False, deterministic=deterministic)
        digests = [_digest(setting, kind) for _ in range(2)]
        values |= {f"{name}_repeats": digests[0] == digests[1], f"{name}_digest": digests[0]}
    return values


def _digest(setting: Setting, kind: str) -> str:
    cohort = resnet_clients(setting, setting.size(32, 3))
    run = cohort.run(setting, engine_of(kind, "float32"))
    records = [run.advance(), run.advance()]
    hashed = hashlib.sha256(repr([record.loss for record in records]).encode())
    for client in run.cohort:
        for name, value in sorted(run.engine.client_values(client).items()):
            hashed.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return hashed.hexdigest()[:16]
