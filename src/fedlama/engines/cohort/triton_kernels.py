"""Kernels for CUDA, written in Triton: the synchronisation of all due layers of a cohort in a few launches.

====================  ======================================================================================
kernel                what it does
====================  ======================================================================================
``average_blocks``    reads every client's row once; writes means, and a discrepancy for each block of columns
``sum_spans``         adds up the blocks of a layer, always in the same order
``fill_blocks``       writes one client's value into the rows of all clients
====================  ======================================================================================

A kernel works on many tensors at once: it gets their addresses as a table, and the table of blocks says which tensor
and which columns each program has (:mod:`fedlama.engines.cohort.device_tables`). This module imports Triton, so it is
imported only where Triton is installed.
"""

from __future__ import annotations

import triton
from triton import language as tl


@triton.jit
def average_blocks(
    stacks,  # int64 (tensors,): addresses of float32 (clients, size)
    sizes,  # int64 (tensors,)
    offsets,  # int64 (tensors,): where a tensor's mean begins in `means`
    measured,  # int8 (tensors,): whether a tensor has a discrepancy
    block_tensors,  # int64 (blocks,)
    block_starts,  # int64 (blocks,)
    weights,  # float64 (clients,)
    means,  # float32 (all sizes,)
    squares,  # float64 (blocks,)
    clients,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ONE_PASS: tl.constexpr,
):
    block = tl.program_id(0)
    tensor = tl.load(block_tensors + block)
    size = tl.load(sizes + tensor)
    stack = tl.load(stacks + tensor).to(tl.pointer_type(tl.float32))
    columns = tl.load(block_starts + block) + tl.arange(0, COLUMNS)
    inside = columns < size
    rows = tl.arange(0, ROWS)
    mean = tl.zeros([COLUMNS], tl.float32)
    total = tl.zeros([COLUMNS], tl.float64)
    if ONE_PASS:  # all clients are in registers
        there = (rows < clients)[:, None] & inside[None, :]
        values = tl.load(stack + rows[:, None].to(tl.int64) * size + columns[None, :], mask=there, other=0.0)
        shares = tl.load(weights + rows, mask=rows < clients, other=0.0)
        mean = tl.sum(values * shares.to(tl.float32)[:, None], axis=0)
        apart = tl.where(there, values - mean[None, :], 0.0)
        total = tl.sum((apart * apart).to(tl.float64) * shares[:, None], axis=0)
    else:  # some clients at a time; the second pass finds what the first has read in the cache
        for start in range(0, clients, ROWS):
            who = start + rows
            there = (who < clients)[:, None] & inside[None, :]
            values = tl.load(stack + who[:, None].to(tl.int64) * size + columns[None, :], mask=there, other=0.0)
            shares = tl.load(weights + who, mask=who < clients, other=0.0)
            mean += tl.sum(values * shares.to(tl.float32)[:, None], axis=0)
        for start in range(0, clients, ROWS):
            who = start + rows
            there = (who < clients)[:, None] & inside[None, :]
            values = tl.load(stack + who[:, None].to(tl.int64) * size + columns[None, :], mask=there, other=0.0)
            shares = tl.load(weights + who, mask=who < clients, other=0.0)
            apart = tl.where(there, values - mean[None, :], 0.0)
            total += tl.sum((apart * apart).to(tl.float64) * shares[:, None], axis=0)
    tl.store(means + tl.load(offsets + tensor) + columns, mean, mask=inside)
    wanted = tl.load(measured + tensor) != 0
    tl.store(squares + block, tl.where(wanted, tl.sum(total, axis=0), 0.0))


@triton.jit
def sum_spans(
    parts,  # float64 (blocks,)
    edges,  # int64 (layers + 1,): the blocks of layer i are those from edges[i] to edges[i + 1]
    sums,  # float64 (layers,)
    WIDTH: tl.constexpr,
):
    layer = tl.program_id(0)
    end = tl.load(edges + layer + 1)
    total = tl.zeros([WIDTH], tl.float64)
    for start in range(tl.load(edges + layer), end, WIDTH):
        index = start + tl.arange(0, WIDTH)
        total += tl.load(parts + index, mask=index < end, other=0.0)
    tl.store(sums + layer, tl.sum(total, axis=0))


@triton.jit
def fill_blocks(
    stacks,  # int64 (tensors,): addresses of float32 (clients, size)
    values,  # int64 (tensors,): addresses of float32 (size,)
    sizes,  # int64 (tensors,)
    block_tensors,  # int64 (blocks,)
    block_starts,  # int64 (blocks,)
    clients,
    COLUMNS: tl.constexpr,
):
    block = tl.program_id(0)
    tensor = tl.load(block_tensors + block)
    size = tl.load(sizes + tensor)
    stack = tl.load(stacks + tensor).to(tl.pointer_type(tl.float32))
    columns = tl.load(block_starts + block) + tl.arange(0, COLUMNS)
    inside = columns < size
    value = tl.load(tl.load(values + tensor).to(tl.pointer_type(tl.float32)) + columns, mask=inside)
    for client in range(0, clients):
        tl.store(stack + client * size + columns, value, mask=inside)
