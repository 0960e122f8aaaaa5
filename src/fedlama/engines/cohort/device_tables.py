"""Synchronisation of many tensors at once on CUDA: the tables that the Triton kernels read, and their launches.

A kernel for each tensor would leave the device waiting for the next launch: a model has hundreds of tensors, most of
them small. Here one launch serves all float32 tensors whose rows are dense. Other tensors (counters of BatchNorm,
float64, half) are left to the caller.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedlama.core.devices import upload_all

_ELEMENTS = 1 << 13
"""Elements that a program holds in registers."""
_ONE_PASS = 128
"""Clients up to which all of them are in registers at once."""
_COLUMNS_TO_FILL = 1 << 10


@functools.cache
def has_triton() -> bool:
    """Return whether Triton is installed."""
    return importlib.util.find_spec("triton") is not None


def takes(stacked: Tensor) -> bool:
    """Return whether the kernels take a tensor: float32 on CUDA, one dense row for each client.

    Args:
        stacked: (clients, ...).
    """
    if stacked.device.type != "cuda" or stacked.dtype != torch.float32:
        return False
    row = stacked[0]
    return stacked.stride(0) == row.numel() and _is_dense(row)


def _is_dense(row: Tensor) -> bool:
    """Return whether a tensor fills its memory without gaps, in whatever order of dimensions."""
    expected = 1
    for stride, size in sorted(zip(row.stride(), row.shape, strict=True)):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


@dataclass(frozen=True)
class _Blocks:
    """Which tensor and which columns each program of a launch has; int64 on the device.

    Attributes:
        count: Blocks.
        tensors: (blocks,).
        starts: The first column, (blocks,).
        sizes: Elements of a row, (tensors,).
        offsets: Elements of the rows before, (tensors,).
        edges: The first block of each layer, and the end, (layers + 1,).
    """

    count: int
    tensors: Tensor
    starts: Tensor
    sizes: Tensor
    offsets: Tensor
    edges: Tensor


@functools.lru_cache(maxsize=64)
def _blocks(sizes: tuple[int, ...], layers: tuple[int, ...], columns: int, device: torch.device) -> _Blocks:
    """Cut tensors into blocks.

    Args:
        sizes: Elements of a row, for each tensor.
        layers: How many neighbouring tensors each layer has.
        columns: Columns of a block.
        device: Where the tables are needed.
    """
    per_tensor = np.array([-(-size // columns) for size in sizes], dtype=np.int64)
    ends = np.cumsum(per_tensor)
    tensors = np.repeat(np.arange(len(sizes)), per_tensor)
    starts = (np.arange(ends[-1]) - np.repeat(ends - per_tensor, per_tensor)) * columns
    offsets = np.cumsum([0, *sizes])[:-1]
    edges = np.concatenate([[0], ends])[np.cumsum([0, *layers])]
    parts = [tensors, starts, np.array(sizes, dtype=np.int64), offsets, edges]
    return _Blocks(int(ends[-1]), *upload_all([part.astype(np.int64) for part in parts], device))


def addresses_of(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return where tensors begin in memory."""
    return tuple(tensor.data_ptr() for tensor in tensors)


class AverageTable:
    """What the kernels need to average certain tensors; made once, and used at every round.

    Args:
        stacks: For each layer its tensors, (clients, ...), all of which the kernels take.
        measured: For each of them, whether it has a discrepancy.
    """

    def __init__(self, stacks: Sequence[Sequence[Tensor]], measured: Sequence[Sequence[bool]]) -> None:
        flat = [stack for layer in stacks for stack in layer]
        self._device, self._clients, self._layers = flat[0].device, len(flat[0]), len(stacks)
        self._one_pass = self._clients <= _ONE_PASS
        self._rows = max(1 << (self._clients - 1).bit_length(), 2) if self._one_pass else 64
        self._sizes = [stack[0].numel() for stack in flat]
        self._shapes = [(stack.shape[1:], stack.stride()[1:]) for stack in flat]
        lengths = tuple(len(layer) for layer in stacks)
        self._blocks = _blocks(tuple(self._sizes), lengths, _ELEMENTS // self._rows, self._device)
        flags = np.array([flag for layer in measured for flag in layer], dtype=np.int64)
        self._stacks, self._measured = upload_all([np.array(addresses_of(flat)), flags], self._device)

    def average(self, weights: Tensor) -> tuple[list[Tensor], Tensor]:
        """Average the tensors over the clients, and measure how far they are apart.

        Args:
            weights: p_i, float64 (clients,) on the device.

        Returns:
            The means, in the memory order of a client's row, and the layers' discrepancies, float64 (layers,) on the
            device. The means are parts of one buffer.
        """
        from fedlama.engines.cohort.triton_kernels import average_blocks, sum_spans

        blocks, device = self._blocks, self._device
        means = torch.empty(sum(self._sizes), device=device)
        squares = torch.empty(blocks.count, dtype=torch.float64, device=device)
        discrepancies = torch.empty(self._layers, dtype=torch.float64, device=device)
        average_blocks[(blocks.count,)](
            self._stacks,
            blocks.sizes,
            blocks.offsets,
            self._measured,
            blocks.tensors,
            blocks.starts,
            weights,
            means,
            squares,
            self._clients,
            ROWS=self._rows,
            COLUMNS=_ELEMENTS // self._rows,
            ONE_PASS=self._one_pass,
            num_warps=4,
        )
        sum_spans[(self._layers,)](squares, blocks.edges, discrepancies, WIDTH=1024)
        parts = zip(torch.split(means, self._sizes), self._shapes, strict=True)
        return [part.as_strided(*shape) for part, shape in parts], discrepancies


class FillTable:
    """What the kernels need to set the rows of certain tensors; made once, and used at every round.

    Args:
        stacks: (clients, ...) each, all of which the kernels take.
    """

    def __init__(self, stacks: Sequence[Tensor]) -> None:
        self._clients, self._device = len(stacks[0]), stacks[0].device
        sizes = tuple(stack[0].numel() for stack in stacks)
        self._blocks = _blocks(sizes, (len(sizes),), _COLUMNS_TO_FILL, self._device)
        (self._stacks,) = upload_all([np.array(addresses_of(stacks))], self._device)

    def fill(self, values: Sequence[Tensor]) -> None:
        """Set the rows of all clients.

        Args:
            values: One client's, each in the memory order of its stack's rows.
        """
        from fedlama.engines.cohort.triton_kernels import fill_blocks

        blocks = self._blocks
        (sent,) = upload_all([np.array(addresses_of(values))], self._device)
        fill_blocks[(blocks.count,)](
            self._stacks,
            sent,
            blocks.sizes,
            blocks.tensors,
            blocks.starts,
            self._clients,
            COLUMNS=_COLUMNS_TO_FILL,
            num_warps=4,
        )


def same_order(stacked: Tensor, value: Tensor) -> bool:
    """Return whether one client's value has the dtype, device and memory order of a row of a stack."""
    same_kind = value.dtype == stacked.dtype and value.device == stacked.device and value.shape == stacked.shape[1:]
    if not same_kind or value.stride() == stacked.stride()[1:]:
        return same_kind
    return all(s == v or n == 1 for s, v, n in zip(stacked.stride()[1:], value.stride(), value.shape, strict=True))
