"""FedLAMA's intervals and cost on ResNet20 beside the figures of the paper.

The paper trains ResNet20 on CIFAR-10 for 6,000 iterations on 128 clients and reports, at phi = 4, costs of 39.5 to
42.7 % (Table 4), and over all its CIFAR runs relaxed shares of the parameters lambda* of 0.68 to 0.81 (worked out from
its costs as (1 - C) / (1 - 1/phi)). Here the same network, solver, tau', phi and heterogeneity (alpha = 0.5) meet the
handwritten digits at 8x8 on eight clients for 240 iterations: real data and the whole network, but a small problem.

Where the interval of a layer is a close decision, rounding makes it, so machines differ: at most 42.8 % with AVX-512,
43.3 % with AVX2. The paper's figures are compared with a margin of two points.

Compared are the cycles after the authors' warm-up of the schedule (eight of 40 rounds here, of 1,000 there). Without it
the first cycles relax nearly everything but the output layer, on CIFAR-10 too, where it takes longer to settle.
"""

from __future__ import annotations

import pytest
import torch

from fedlama import SGD, Federation, FedLAMA, RoundRecord, Run, TensorClients
from fedlama.core.layers import total_parameters
from fedlama.data import digits
from fedlama.data.partition import dirichlet
from fedlama.data.transforms import Normalise
from fedlama.models import resnet20
from tests.core.helpers import play

CLIENTS, ROUNDS, PHI, STEPS = 8, 40, 4, 6
MARGIN = 2.0
"""Percentage points that rounding may shift the cost of this single run."""


def trained(seed: int) -> tuple[Run, list[dict[str, int]]]:
    """Run FedLAMA with the authors' rules; the second part holds the intervals of each cycle."""
    data = digits.load()
    images = Normalise.per_pixel(data.train_x)(data.train_x).expand(-1, 3, -1, -1).contiguous()
    rows = dirichlet(data.train_y, CLIENTS, seed, alpha=0.5, min_size=16)
    torch.manual_seed(seed)
    federation = Federation(
        resnet20(),
        TensorClients(images, data.train_y, rows, batch_size=16),
        FedLAMA(STEPS, PHI, discrepancy_share="all", warm_up_rounds=6),
        ROUNDS * STEPS,
        solver=SGD(0.4, momentum=0.9, weight_decay=2e-4, warm_up_steps=12),
        weighting="equal",
        seed=seed,
    )
    cycles: list[dict[str, int]] = []

    def note(run: Run, record: RoundRecord) -> None:
        if record.round_index % PHI == 0:
            cycles.append({name: layer.interval for name, layer in record.layers.items()})

    with torch.random.fork_rng():
        return play(federation, note), cycles


@pytest.mark.thorough
def test_intervals_and_cost_fall_in_the_papers_range() -> None:
    run, cycles = trained(seed=0)
    layers, parameters = run.layers, total_parameters(run.layers)
    sizes = {layer.name: layer.parameters for layer in layers}
    adapted = [cycle for cycle in cycles if PHI in cycle.values()]
    assert len(adapted) == ROUNDS // PHI - 2  # the authors' first adjustment comes after eight rounds

    shares = [sum(sizes[name] for name, interval in cycle.items() if interval == PHI) / parameters for cycle in adapted]
    assert 0.68 <= sum(shares) / len(shares) <= 0.81

    later = [one for one in run.ledger.transfers if one.direction == "up" and one.round_index >= 2 * PHI]
    cost = 100 * sum(item.parameters for one in later for item in one.payloads) / (parameters * (ROUNDS - 2 * PHI))
    assert cost == pytest.approx(100 * (1 - (1 - 1 / PHI) * sum(shares) / len(shares)))
    assert 39.5 - MARGIN <= cost <= 42.7 + MARGIN

    # Figures 2 and 3: the large kernels of the last stage are relaxed, the output layer is not, nor any small tensor.
    for cycle in adapted:
        assert cycle["dense.weight"] == 1
        assert all(cycle[layer.name] == 1 for layer in layers if not layer.adaptive)
    large = [name for name, size in sizes.items() if size == 64 * 64 * 9]
    small = [name for name, size in sizes.items() if "stages.0" in name and size == 16 * 16 * 9]
    assert often(adapted, large) > 0.9
    assert often(adapted, large) > often(adapted, small)


def often(cycles: list[dict[str, int]], names: list[str]) -> float:
    """How often these layers are relaxed."""
    return sum(cycle[name] == PHI for cycle in cycles for name in names) / (len(cycles) * len(names))
