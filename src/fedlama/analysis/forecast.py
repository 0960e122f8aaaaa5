"""What a run will move, computed before any training from the plans that the strategy can make.

The forecast asks the strategy alone (:meth:`fedlama.choices.strategies.base.Strategy.bounds`): one course of plans is
exact, several are limits, and none means that the schedule depends on training and nothing can be said. Which clients
answer is decided by the availability, as in the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal

from fedlama.analysis.links import Exchanges, Link, clock, money
from fedlama.choices.availability import Always, Availability, Membership
from fedlama.choices.codecs import Codec
from fedlama.choices.samplers import Sampler
from fedlama.choices.strategies import Plan, Strategy
from fedlama.core.layers import Layers, total_parameters
from fedlama.core.ledger import Ledger, Transfer, cost_percent
from fedlama.engines.api import RoundOrder
from fedlama.engines.transfers import TransferPlanner, TransferTable

Certainty = Literal["exact", "depends on training: within bounds", "depends on training: unknown"]


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
        low: The least it can move, each quantity for itself; None when that depends on training and is unknown.
        high: The most; equal to `low` when the volume is exact, and None together with `low`.
    """

    rounds: int
    low: Volume | None
    high: Volume | None

    @property
    def certainty(self) -> Certainty:
        """How well the volume is known before training."""
        if self.low is None or self.high is None:
            return "depends on training: unknown"
        return "exact" if self.low == self.high else "depends on training: within bounds"


def forecast(
    strategy: Strategy[Any],
    layers: Layers,
    *,
    codec: Codec,
    sampler: Sampler,
    population: int,
    local_steps: int,
    base_interval: int,
    availability: Availability | None = None,
    seed: int = 0,
    links: Sequence[Link] = (),
    price_per_gb: float | None = None,
) -> Forecast:
    """Compute what a run will move, without training.

    Args:
        strategy: In which rounds each layer is synchronised.
        layers: The labelling.
        codec: How uploads are compressed.
        sampler: Who takes part.
        population: Number of clients.
        local_steps: Budget K of the run.
        base_interval: The interval of the FedAvg that counts as 100 %.
        availability: Which clients answer; None for all of them.
        seed: The run's seed; it also decides the random draws of links.
        links: Links to compute the run's time on.
        price_per_gb: Price of 10^9 bytes, in any currency.

    Returns:
        The limits. They are equal for a strategy whose schedule does not depend on training, and None for one that
        adapts and does not bring bounds of its own.
    """
    rounds = local_steps // strategy.local_steps
    volumes = []
    for plans in _courses(strategy, layers, rounds, seed):
        course = _Course(strategy, layers, codec, availability or Always(), seed)
        transfers = course.transfers(plans, TransferPlanner(layers, sampler, population, seed, rounds))
        if course.void_rounds and type(strategy).fold is not Strategy.fold:
            return Forecast(rounds, None, None)  # the strategy's bounds are for runs in which every round counts
        ledger = Ledger(chain.from_iterable(transfers))
        up, down = ledger.total_bytes("up"), ledger.total_bytes("down")
        cost = cost_percent(ledger.cost(), total_parameters(layers), local_steps, base_interval)
        exchanges = Exchanges.of(transfers, [strategy.local_steps] * rounds)
        seconds = {timed.link.name: timed.total for timed in clock(exchanges, links, seed=seed)}
        price = None if price_per_gb is None else money(up + down, price_per_gb)
        volumes.append(Volume(up, down, cost, seconds, price))
    if not volumes:
        return Forecast(rounds, None, None)
    return Forecast(rounds, _limit(volumes, min), _limit(volumes, max))


class _Course:
    """Follows one course of plans through the rounds of a run, with the clients that answer in each.

    Args:
        strategy: The strategy, for the local steps of a round and the scalars of uploads.
        layers: The labelling.
        codec: How uploads are compressed.
        availability: Which clients answer.
        seed: The run's seed.

    Attributes:
        void_rounds: Number of rounds with too few replies for an average.
    """

    def __init__(
        self, strategy: Strategy[Any], layers: Layers, codec: Codec, availability: Availability, seed: int
    ) -> None:
        self._strategy, self._availability, self._seed = strategy, availability, seed
        self._names, self._table = [layer.name for layer in layers], TransferTable(layers, codec)
        self._members = Membership()
        self.void_rounds = 0

    def transfers(self, plans: Iterable[Plan], planner: TransferPlanner) -> list[tuple[Transfer, ...]]:
        """Return the transfers of each round.

        Args:
            plans: The plans of all rounds.
            planner: The run's planner, before its first round.
        """
        strategy, moved = self._strategy, []
        for plan in plans:
            order = planner.order(planner.close(plan), strategy.local_steps, {}, scalars=strategy.measures_discrepancy)
            moved.append(self._table.planned(order) if self._availability.always_answers else self._attended(order))
        return moved

    def _attended(self, order: RoundOrder) -> tuple[Transfer, ...]:
        """Return a round's transfers to and from the clients that the availability lets take part."""
        plan, members = order.plan, self._members
        if order.new_cohort:
            members.start_cohort(order.cohort)
        attendance = members.attend(
            self._availability, self._names, plan.round_index, self._seed, cycle_start=plan.cycle_start
        )
        if attendance.enough:
            members.versions |= dict.fromkeys(plan.upload | plan.recycle, plan.round_index)
        else:
            self.void_rounds += 1
        return self._table.downloads(order, attendance.sent) + self._table.uploads(order, attendance.answered)


def _courses(strategy: Strategy[Any], layers: Layers, rounds: int, seed: int) -> Iterable[Iterable[Plan]]:
    """Return the courses that a run can take; none when they are unknown."""
    # A class that does not inherit from Strategy may lack the method: then nothing is known of its schedule either.
    bounds = getattr(strategy, "bounds", None)
    return (bounds(layers, rounds, seed) or ()) if bounds is not None else ()


def _limit(volumes: Sequence[Volume], choose: Callable[[Iterable[Any]], Any]) -> Volume:
    """Choose the smallest or the largest of each quantity, which may come from different courses."""
    prices = [volume.money for volume in volumes if volume.money is not None]
    return Volume(
        bytes_up=choose(volume.bytes_up for volume in volumes),
        bytes_down=choose(volume.bytes_down for volume in volumes),
        cost_percent=choose(volume.cost_percent for volume in volumes),
        seconds={link: choose(volume.seconds[link] for volume in volumes) for link in volumes[0].seconds},
        money=choose(prices) if prices else None,
    )
