"""The synchronisation of all due layers of a round on CUDA: few launches, and one look at the numbers at the end.

Tensors that the Triton kernels take are averaged together, and set together. Integers, such as BatchNorm's counters,
are put into one tensor for each dtype. What remains (float64, half, complex numbers) is handled tensor by tensor.

Python takes longer to look at hundreds of tensors than the kernels to average them, so what was found out about a set
of tensors is remembered by their addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlama.core.averaging import integer_mean
from fedlama.core.devices import upload
from fedlama.core.layers import Layer, TensorSpec
from fedlama.engines.api import Average, Values
from fedlama.engines.cohort.averaging import mean_and_discrepancy
from fedlama.engines.cohort.device_tables import AverageTable, FillTable, addresses_of, same_order, takes
from fedlama.engines.cohort.threads import WorkerThreads

_REMEMBERED = 32
"""Sets of tensors to remember: a schedule has few different sets of due layers."""


@dataclass(frozen=True)
class _Sorted:
    """The tensors of some layers, by how they are averaged.

    Attributes:
        together: Those that the kernels take.
        table: Their table; None without any.
        integers: Those that are averaged as integers and have no discrepancy.
        others: The rest, with the index of the layer.
    """

    together: list[TensorSpec]
    table: AverageTable | None
    integers: list[TensorSpec]
    others: list[tuple[int, TensorSpec]]


@dataclass(frozen=True)
class _Filled:
    """Tensors that are set together.

    Attributes:
        names: Their names.
        table: Their table; None without any.
    """

    names: list[str]
    table: FillTable | None


class DeviceSynchronisation:
    """Averages and sets the tensors of a cohort on CUDA.

    Args:
        threads: Not used on CUDA, but by a contract that is shared with the CPU.
    """

    def __init__(self, threads: WorkerThreads) -> None:
        self._threads = threads
        self._averages: dict[object, _Sorted] = {}
        self._fills: dict[object, _Filled] = {}

    def average(
        self, layers: Sequence[Layer], received: Mapping[str, Tensor], weights: Sequence[float]
    ) -> Iterator[Average]:
        """Average layers over the clients.

        Args:
            layers: The layers, at least one.
            received: Their tensors as the server receives them, (clients, ...) by name.
            weights: p_i of every client, summing to 1.

        Yields:
            The average of each layer. Means have the memory order of the clients' rows.
        """
        first = next(iter(received.values()))
        shares = upload(torch.from_numpy(np.array(weights, dtype=np.float64)), first.device)
        parts = self._sorted(layers, received)
        means, totals = Values(), torch.zeros(len(layers), dtype=torch.float64, device=first.device)
        if parts.table is not None:
            averaged, totals = parts.table.average(shares)
            means = {spec.name: mean for spec, mean in zip(parts.together, averaged, strict=True)}
        means |= _integer_means(parts.integers, received, shares)
        for index, spec in parts.others:
            mean, discrepancy = mean_and_discrepancy(received[spec.name], shares, spec.trainable, self._threads)
            means[spec.name] = mean
            totals[index] += discrepancy
        for layer, total in zip(layers, totals.tolist(), strict=True):
            yield Average({spec.name: means[spec.name] for spec in layer.tensors}, total)

    def fill(self, stacks: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> set[str]:
        """Set tensors to one value on every client, where the kernels take them and the memory order agrees.

        Args:
            stacks: All tensors of the cohort, (clients, ...) by name; overwritten.
            values: One client's values of some of them.

        Returns:
            The names of those that were set.
        """
        names, given = tuple(values), list(values.values())
        key = (names, addresses_of([stacks[name] for name in names]), tuple([value.stride() for value in given]))
        if key not in self._fills:
            _make_room(self._fills)
            chosen = [name for name in names if takes(stacks[name]) and same_order(stacks[name], values[name])]
            self._fills[key] = _Filled(chosen, FillTable([stacks[name] for name in chosen]) if chosen else None)
        filled = self._fills[key]
        if filled.table is not None:
            filled.table.fill([values[name] for name in filled.names])
        return set(filled.names)

    def _sorted(self, layers: Sequence[Layer], received: Mapping[str, Tensor]) -> _Sorted:
        """Return the tensors of the layers by how they are averaged, as was found out before for the same memory."""
        tensors = list(received.values())
        key = (tuple(layer.name for layer in layers), len(tensors[0]), addresses_of(tensors))
        if key not in self._averages:
            _make_room(self._averages)
            self._averages[key] = _sort(layers, received)
        return self._averages[key]


def _sort(layers: Sequence[Layer], received: Mapping[str, Tensor]) -> _Sorted:
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
    table = None
    if any(floats):
        stacks = [[received[spec.name] for spec in specs] for specs in floats]
        table = AverageTable(stacks, [[spec.trainable for spec in specs] for specs in floats])
    return _Sorted([spec for specs in floats for spec in specs], table, integers, others)


def _make_room(remembered: dict[object, _Sorted] | dict[object, _Filled]) -> None:
    """Forget the oldest entry of a full dictionary."""
    if len(remembered) == _REMEMBERED:
        del remembered[next(iter(remembered))]


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
