"""The averages of all due layers of a round on CUDA: few launches, and one look at the numbers at the end.

Tensors that the Triton kernels take are averaged together. Integers, such as BatchNorm's counters, are put into one
tensor for each dtype. What remains (float64, half, complex numbers) is averaged tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedlama.core.averaging import integer_mean
from fedlama.core.devices import upload
from fedlama.core.layers import Layer, TensorSpec
from fedlama.engines.api import Average, Values
from fedlama.engines.cohort.averaging import mean_and_discrepancy
from fedlama.engines.cohort.device_tables import average_together, takes
from fedlama.engines.cohort.threads import WorkerThreads


def average_on_device(
    layers: Sequence[Layer], received: Mapping[str, Tensor], weights: Sequence[float], threads: WorkerThreads
) -> Iterator[Average]:
    """Average layers over the clients.

    Args:
        layers: The layers.
        received: Their tensors as the server receives them, (clients, ...) by name, on CUDA.
        weights: p_i of every client, summing to 1.
        threads: Not used on CUDA, but by a contract that is shared with the CPU.

    Yields:
        The average of each layer. Means have the memory order of the clients' rows.
    """
    if not layers:
        return
    device = received[layers[0].tensors[0].name].device
    shares = upload(torch.from_numpy(np.array(weights, dtype=np.float64)), device)
    floats, integers, others = _sorted(layers, received)
    means, totals = Values(), torch.zeros(len(layers), dtype=torch.float64, device=device)
    if any(floats):
        stacks = [[received[spec.name] for spec in specs] for specs in floats]
        averaged, totals = average_together(stacks, [[spec.trainable for spec in specs] for specs in floats], shares)
        for specs, parts in zip(floats, averaged, strict=True):
            means |= {spec.name: mean for spec, mean in zip(specs, parts, strict=True)}
    means |= _integer_means(integers, received, shares)
    for index, spec in others:
        mean, discrepancy = mean_and_discrepancy(received[spec.name], shares, spec.trainable, threads)
        means[spec.name] = mean
        totals[index] += discrepancy
    for layer, total in zip(layers, totals.tolist(), strict=True):
        yield Average({spec.name: means[spec.name] for spec in layer.tensors}, total)


def _sorted(
    layers: Sequence[Layer], received: Mapping[str, Tensor]
) -> tuple[list[list[TensorSpec]], list[TensorSpec], list[tuple[int, TensorSpec]]]:
    """Return what the kernels take, layer by layer; integers without a discrepancy; and the rest with its layer."""
    floats: list[list[TensorSpec]] = [[] for _ in layers]
    integers, others = list[TensorSpec](), list[tuple[int, TensorSpec]]()
    for index, layer in enumerate(layers):
        for spec in layer.tensors:
            stacked = received[spec.name]
            if takes(stacked):
                floats[index].append(spec)
            elif not spec.trainable and not stacked.is_floating_point() and not stacked.is_complex():
                integers.append(spec)
            else:
                others.append((index, spec))
    return floats, integers, others


def _integer_means(specs: Sequence[TensorSpec], received: Mapping[str, Tensor], weights: Tensor) -> Values:
    """Return the means of integer tensors, by name."""
    means = Values()
    for dtype in dict.fromkeys(received[spec.name].dtype for spec in specs):
        chosen = [spec for spec in specs if received[spec.name].dtype == dtype]
        rows = [received[spec.name].reshape(len(weights), -1) for spec in chosen]  # (clients, elements)
        flat = integer_mean(torch.cat(rows, 1), weights)
        for spec, part in zip(chosen, torch.split(flat, [row.shape[1] for row in rows]), strict=True):
            means[spec.name] = part.view(received[spec.name].shape[1:])
    return means
