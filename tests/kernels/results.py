"""Results of every kernel on awkward sizes, as one dictionary; run in another process with other modes.

``FEDLAMA_KERNELS=checked python -m tests.kernels.results FILE`` writes them to an .npz file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fedlama.choices.samplers import AllClients
from fedlama.choices.solvers import SGD, FedProx
from fedlama.choices.strategies import FedLAMA
from fedlama.engines import Stacked
from fedlama.kernels import (
    Chance,
    LeastHashes,
    Rounded,
    SampleTable,
    average_rows,
    bound_of_largest,
    fill_rows,
    keep_differences,
    largest_of,
    multiply_transposed,
    positions_of_largest,
    put_numbers,
    put_product,
    round_differences,
    round_floats,
    round_rows,
    round_stochastically,
    round_to_signs,
    shuffle_rows,
    squared_norms,
    take_product,
    tiling,
)
from tests.determinism import test_recorded_bits as recorded
from tests.engines.cases import clients, federation, token_clients
from tests.kernels.models import MODELS, SEQUENCE_MODELS, WinogradResidual, build, winograd_first, winograd_plain

Results = dict[str, NDArray[Any]]
Floats = NDArray[np.float32]

SOLVERS = [SGD(0.05), FedProx(0.05, momentum=0.8, weight_decay=0.01, proximal=0.3)]


def results() -> Results:
    """Train every model with some solvers and batches, and call the rest of the door."""
    values: Results = {}
    direct_cost = tiling._DIRECT
    for make in MODELS:
        for number, solver in enumerate(SOLVERS):
            values |= _trained(make, f"{make.__name__}-{number}", solver=solver)
        for batch in (15, 21):  # a vector that is not full, and one that is followed by another
            values |= _trained(make, f"{make.__name__}-batch-{batch}", clients=clients((40, 34, 71, 36, 33), batch))
    for make in SEQUENCE_MODELS:
        for number, solver in enumerate(SOLVERS):
            values |= _trained(make, f"{make.__name__}-{number}", clients=token_clients(), solver=solver)
        values |= _trained(make, f"{make.__name__}-batch-21", clients=token_clients((40, 34, 71, 36, 33), 21))
    tiling._DIRECT = 1e9  # small models use Winograd's algorithm too
    for other in (winograd_plain, WinogradResidual):
        for batch in (3, 21):
            values |= _trained(other, f"{other.__name__}-{batch}", clients=clients((40, 34, 71, 36, 33), batch))
    small = clients((40, 34, 71, 36, 33), 8)
    small.prepare = lambda pixels: (pixels.float() / 128 - 1).repeat(1, 8, 1, 1)[:, :, :2, :2]
    values |= _trained(winograd_first, "winograd_first", clients=small)
    tiling._DIRECT = direct_cost
    return values | _stacks() | _sent()


def recorded_run() -> Results:
    """Return the losses of the recorded run, with larger filters, whose checked code takes half a minute to compile."""
    return {"recorded": np.array([record.loss for record in recorded.train("stacked").rounds])}


def _trained(make: Callable[[], nn.Module], name: str, **choices: Any) -> Results:  # noqa: ANN401
    """Return every parameter of a short run, and the losses of its rounds."""
    settings = {"model": build(make), "sampler": AllClients(), "strategy": FedLAMA(3, 1), "local_steps": 3} | choices
    result = federation(Stacked(threads=1), **settings).run()
    parts = [value.flatten().double() for value in result.model.values()]
    return {name: np.append(torch.cat(parts).numpy(), [record.loss for record in result.rounds])}


def _stacks() -> Results:
    """Average, fill, measure and shuffle arrays of awkward sizes."""
    values: Results = {}
    for columns in (1, 15, 17, 8191, 8209):
        draw = np.random.default_rng(columns)
        stack, weights = draw.standard_normal((5, columns), np.float32), np.full(5, 0.25, np.float32)
        weights[1], out = 0.0, np.empty(columns, np.float32)
        numbers = average_rows(stack, weights, out), *squared_norms(stack[0], stack[1])
        values[f"average-{columns}"] = np.append(out.astype(np.float64), numbers)
        fill_rows(stack, out)
        values[f"fill-{columns}"] = stack
    table = SampleTable(np.arange(174), np.array([0, 1, 17, 157, 174]), np.array([4, 1, 33, 16]))
    rows, lengths = shuffle_rows(table, np.arange(4), np.array([5, 3, 0, 1000]), 9, np.uint64(7))
    return values | {"shuffle": rows, "lengths": lengths}


def _sent() -> Results:
    """Call the kernels of codecs on rows that end within a block, and begin off a multiple of 64 bytes."""
    values: Results = {}
    for columns in (1, 511, 5003):
        draw = np.random.default_rng(columns)
        x, r, e = (draw.standard_normal(columns + 1).astype(np.float32)[1:] for _ in range(3))
        for past_caches in (False, True):
            out = np.zeros((11, columns), np.float32)
            rounded = Rounded(out[0], out[1], np.empty(-(-columns // 512), np.float32), np.empty(columns, np.uint8))
            round_differences(rounded, x, r, e, 4, past_caches=past_caches)
            round_stochastically(out[2], x, r, Chance(4, False, 7), past_caches=past_caches)
            round_stochastically(out[3], x, r, Chance(8, True, 7, 512), past_caches=past_caches)
            round_to_signs(out[4], out[5], x, r, e, past_caches=past_caches)
            round_to_signs(out[6], out[7][:0], x, r, e[:0], past_caches=past_caches)
            round_floats(out[8], x, to_half=True, past_caches=past_caches)
            round_floats(out[9], x, to_half=False, past_caches=past_caches)
            round_rows(out[10], x, 1, past_caches=past_caches)
            values[f"sent-{columns}-{past_caches}"] = out
            values |= _few(f"few-{columns}-{past_caches}", x, r, e, past_caches=past_caches)
    return values | _matrices()


def _few(name: str, x: Floats, r: Floats, e: Floats, *, past_caches: bool) -> Results:
    """Send a few numbers, the largest ones and some at random."""
    out, count = np.zeros((4, len(x)), np.float32), -(-len(x) // 7)
    hashes = LeastHashes(len(x), count, [7, 8])
    for first in range(0, len(x), 2048):
        hashes.search(first, first + 2048)
    positions = hashes.positions(1)
    assert positions is not None
    keep_differences(out[0], out[1], x, r, e, past_caches=past_caches)
    put_numbers(out[0], out[1], r, positions, out[1][positions])
    bound = bound_of_largest(x, r, e, count)
    bound = bound if np.isfinite(bound) else 1e-4
    noted = keep_differences(out[2], out[3], x, r, e, bound=bound, past_caches=past_caches)
    largest, numbers = largest_of(*noted, count)
    put_numbers(out[2], out[3], r, largest, numbers)
    sent, stacks = np.zeros((2, 2, len(x)), np.float32), (np.stack([x, x]), r, np.stack([e, e]))
    for first in range(0, len(x), 2048):
        hashes.send((sent[0], sent[1]), stacks, first, first + 2048, past_caches=past_caches)
    out = np.concatenate([out, *sent])
    return {name: out, f"{name}-positions": np.stack([positions, largest, positions_of_largest(x, count)])}


def _matrices() -> Results:
    """Call the kernels that know rows, on rows that end within a vector."""
    draw, values = np.random.default_rng(0), Results()
    for height, width in ((3, 5), (7, 513), (2, 1040), (130, 70)):
        x, r = (draw.standard_normal(height * width + 1).astype(np.float32)[1:] for _ in range(2))
        factors = draw.standard_normal((3, height), np.float32), draw.standard_normal((3, width), np.float32)
        change, products = np.zeros_like(x), [np.zeros_like(factor) for factor in factors]
        take_product(change, products[0], x, r, x, factors[1])
        multiply_transposed(products[1], change, factors[0])
        values[f"products-{height}"] = np.concatenate([change, *(product.ravel() for product in products)])
        for past_caches in (False, True):
            out = np.stack([x] * 3)
            round_rows(out[0], x, height, past_caches=past_caches)
            put_product(out[1], out[2], r, factors, past_caches=past_caches)
            values[f"rows-{height}-{past_caches}"] = out
    return values


if __name__ == "__main__":
    np.savez(sys.argv[1], **results(), **recorded_run())  # type: ignore[arg-type]
