"""What a run will move, told before any training by driving the strategy's plans alone.

A schedule that depends on what training shows (FedLAMA's, FedLUAR's) is bounded from both sides instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from fedlama.analysis.links import Exchanges, Link, clock, money
from fedlama.choices.codecs import Codec
from fedlama.choices.samplers import Sampler
from fedlama.choices.strategies import FedLAMA, FedLUAR, Plan, Strategy
from fedlama.choices.strategies.fedlama import FedLAMAState
from fedlama.choices.strategies.fedluar import FedLUARState
from fedlama.core.layers import Layers, total_parameters
from fedlama.core.ledger import Ledger, cost_percent
from fedlama.engines.transfers import TransferPlanner


@dataclass(frozen=True)
class Volume:
    """What one course of a run moves.

    Attributes:
        bytes_up: Uploads for training: payload, headers and scalars.
        bytes_down: Downloads: payload and headers.
        cost_percent: The paper's cost C relative to FedAvg with the base interval.
        seconds: Wall-clock time of the run on each link asked for, by its name.
        money: What the bytes cost, up and down; None without a price.
    """

    bytes_up: int
    bytes_down: int
    cost_percent: float
    seconds: Mapping[str, float] = field(default_factory=dict)
    money: float | None = None


@dataclass(frozen=True)
class Forecast:
    """What a run will move.

    Attributes:
        rounds: Number of rounds.
        low: The least it can move.
        high: The most; equal to `low` when the schedule is known beforehand.
    """

    rounds: int
    low: Volume
    high: Volume


def forecast(
    strategy: Strategy[Any],
    layers: Layers,
    *,
    codec: Codec,
    sampler: Sampler,
    population: int,
    local_steps: int,
    base_interval: int,
    seed: int = 0,
    links: Sequence[Link] = (),
    price_per_gb: float | None = None,
) -> Forecast:
    """Work out what a run will move, without training.

    Args:
        strategy: When each layer travels.
        layers: The labelling.
        codec: How uploads are compressed.
        sampler: Who takes part.
        population: Number of clients.
        local_steps: Budget K of the run.
        base_interval: The interval of the FedAvg that counts as 100 %.
        seed: The run's seed; decides what links draw, too.
        links: Links to tell the time on.
        price_per_gb: Price of 10^9 bytes, in any currency.

    Returns:
        The bounds; exact for strategies whose schedule does not depend on training.
    """
    rounds = local_steps // strategy.local_steps
    volumes = []
    for plans in _courses(strategy, layers, rounds, seed):
        planner = TransferPlanner(layers, codec, sampler, population, seed, rounds)
        transfers = []
        for plan in plans:
            closed = planner.close(plan)
            transfers.append(
                [planner.download(closed)[1], planner.upload(closed, scalars=strategy.measures_discrepancy)]
            )
        ledger = Ledger(chain.from_iterable(transfers))
        up, down = ledger.total_bytes("up"), ledger.total_bytes("down")
        cost = cost_percent(ledger.cost(), total_parameters(layers), local_steps, base_interval)
        seen = Exchanges.of(transfers, [strategy.local_steps] * rounds)
        seconds = {one.link.name: one.total for one in clock(seen, links, seed=seed)}
        price = None if price_per_gb is None else money(up + down, price_per_gb)
        volumes.append(Volume(up, down, cost, seconds, price))
    volumes.sort(key=lambda volume: volume.bytes_up)
    return Forecast(rounds, volumes[0], volumes[-1])


def _courses(strategy: Strategy[Any], layers: Layers, rounds: int, seed: int) -> Iterator[Iterator[Plan]]:
    """Yield the extreme courses that a run can take, as sequences of plans."""
    adaptive = sorted((layer for layer in layers if layer.adaptive), key=lambda layer: layer.parameters)
    if isinstance(strategy, FedLAMA):
        start = strategy.init(layers, seed)
        for chosen in (frozenset[str](), frozenset(layer.name for layer in adaptive)):
            yield _fedlama(strategy, start, chosen, rounds)
    elif isinstance(strategy, FedLUAR):
        state = strategy.init(layers, seed)
        count = strategy.recycled_layers
        for group in (adaptive[:count], adaptive[len(adaptive) - count :]):
            yield _fedluar(strategy, state, frozenset(layer.name for layer in group), rounds)
    else:
        state = strategy.init(layers, seed)
        yield (strategy.plan(state, index) for index in range(rounds))


def _fedlama(strategy: FedLAMA, state: FedLAMAState, chosen: frozenset[str], rounds: int) -> Iterator[Plan]:
    """Select the same layers from the first adjustment on."""
    for index in range(rounds):
        yield strategy.plan(state, index)
        if strategy.adjusts_after(index):
            state = strategy.adjusted(state, chosen)


def _fedluar(strategy: FedLUAR, state: FedLUARState, recycle: frozenset[str], rounds: int) -> Iterator[Plan]:
    """Recycle the same layers from the second round on."""
    for index in range(rounds):
        yield strategy.plan(replace(state, recycle=recycle if index else frozenset()), index)
