"""What a run will move, computed before any training from the plans that the strategy can make.

Where a codec's payloads differ in length, every course has two limits: all uploads as short as they can be, and as
long.

The forecast asks the strategy alone (:meth:`fedlama.choices.strategies.base.Strategy.bounds`): one course of plans is
exact, several are limits, and none means that the schedule depends on training in an unknown way. Then only the range
is given that holds for every strategy: from nothing to everything in each round. Which clients answer is decided by the
availability, as in the run itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Literal

from fedlama.analysis.links import Exchanges, Link, clock, money
from fedlama.choices.availability import Always, Availability, Membership
from fedlama.choices.codecs import Codec, varies
from fedlama.choices.samplers import Sampler
from fedlama.choices.solvers import LocalSolver
from fedlama.choices.solvers.exchanged import Exchanged, exchanges_of, extra_layers
from fedlama.choices.strategies import Plan, Strategy
from fedlama.core.layers import Layers, total_parameters
from fedlama.core.ledger import Ledger, Transfer, cost_percent
from fedlama.engines.api import RoundOrder
from fedlama.engines.transfers import TransferPlanner, TransferTable

ClientSteps = Callable[[Sequence[int], int], Mapping[int, int]]
"""From a round's clients and index to the local steps of those that take another number than the strategy's."""
Certainty = Literal["exact", "depends on training: within bounds", "depends on training: unknown"]


@dataclass(frozen=True)
class Volume:
    """What one course of a run moves.

    Attributes:
        bytes_up: Uploads for training: payload, headers and scalars.
        bytes_down: Downloads: payload and headers.
        cost_percent: The paper's cost C relative to FedAvg with the base interval.
        seconds: Wall-clock time of the run on each link asked for, by its name; empty where it is unknown.
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
        low: The least it can move, each quantity for itself.
        high: The most; equal to `low` only when the volume is exact.
        certainty: How well the volume is known before training. When it is unknown, `low` and `high` hold for every
            strategy: no layer, and all layers, sent to and by all clients in each round.
        local_steps: Local steps of the run.
    """

    rounds: int
    low: Volume
    high: Volume
    certainty: Certainty
    local_steps: int = 1

    @property
    def bytes_per_step(self) -> tuple[float, float]:
        """The least and the most bytes up and down, of all clients together, per local step."""
        low, high = (volume.bytes_up + volume.bytes_down for volume in (self.low, self.high))
        return low / self.local_steps, high / self.local_steps


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
    client_steps: ClientSteps | None = None,
    solver: LocalSolver | None = None,
    uploads: Layers = (),
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
        client_steps: The clients of a round that take another number of local steps than the strategy's, with that
            number; None for none. It decides the time on links.
        solver: How a client trains, for what it exchanges beside the model; None where that is nothing.
        uploads: Layers that only come up, such as the Kronecker factors of FedLPA.

    Returns:
        The limits. They are equal for a strategy whose schedule does not depend on training. A strategy that adapts and
        does not bring bounds of its own is never called exact.
    """
    run = _Run(strategy, layers, codec, sampler, population, local_steps, base_interval, seed, links, price_per_gb)
    run = replace(run, client_steps=client_steps, exchanges=exchanges_of(solver), uploads=uploads)
    lengths = [run, replace(run, least=True)] if varies(codec) else [run]
    courses = [
        each.follow(plans, availability or Always())
        for each in lengths
        for plans in _courses(strategy, layers, run.rounds, seed)
    ]
    # The bounds of a strategy are for runs in which every round counts, and a void round keeps it from adapting.
    void = any(void_rounds for _, void_rounds in courses) and type(strategy).fold is not Strategy.fold
    if void or not courses:
        low, high = run.everything_possible(availability or Always())
        return Forecast(run.rounds, low, high, "depends on training: unknown", local_steps)
    volumes = [run.volume(transfers) for transfers, _ in courses]
    low, high = _limit(volumes, min), _limit(volumes, max)
    certainty: Certainty = "exact" if low == high else "depends on training: within bounds"
    return Forecast(run.rounds, low, high, certainty, local_steps)


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


def _asked(
    planner: TransferPlanner, table: TransferTable, order: RoundOrder, answered: Sequence[int]
) -> tuple[Transfer, ...]:
    """Return what moves once the server has chosen by distances: the same number of bytes, whichever these are."""
    if order.senders is not None:
        return ()
    equal = {layer: [0.0] * len(answered) for layer in order.plan.upload}
    return table.asked(replace(order, senders=planner.chosen(order.plan, answered, equal)), answered)


def _clients_of(transfers: Sequence[Transfer]) -> list[int]:
    """Return the clients of a round's transfers, in ascending order."""
    return sorted({client for transfer in transfers for client in transfer.clients})


@dataclass(frozen=True)
class _Run:
    """The settings of a run that decide what it moves; the arguments of :func:`forecast`."""

    strategy: Strategy[Any]
    layers: Layers
    codec: Codec
    sampler: Sampler
    population: int
    local_steps: int
    base_interval: int
    seed: int
    links: Sequence[Link]
    price_per_gb: float | None
    client_steps: ClientSteps | None = None
    exchanges: tuple[Exchanged, ...] = ()
    uploads: Layers = ()
    least: bool = False

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return self.local_steps // self.strategy.local_steps

    def follow(
        self, plans: Iterable[Plan], availability: Availability, *, in_sync: bool = True
    ) -> tuple[list[tuple[Transfer, ...]], int]:
        """Follow one course of plans, with the clients that answer in each round.

        Args:
            plans: The course.
            availability: Which clients answer.
            in_sync: Whether clients that always answer get the codec's differences; else they get full values.

        Returns:
            The transfers of each round, and the number of rounds with too few replies for an average.
        """
        if getattr(self.strategy, "is_central", False):  # the data and the model are in one place
            return [() for _ in plans], 0
        planner = TransferPlanner(
            self.layers,
            self.sampler,
            self.population,
            self.seed,
            self.rounds,
            exchanges=self.exchanges,
            uploads=self.uploads,
        )
        sent = self.layers + extra_layers(self.layers, self.exchanges)
        table, names = TransferTable(sent + self.uploads, self.codec, least=self.least), [layer.name for layer in sent]
        members, moved, void_rounds = Membership(), list[tuple[Transfer, ...]](), 0
        steps, scalars = self.strategy.local_steps, self.strategy.measures_discrepancy
        for plan in plans:
            order = planner.order(planner.close(plan), steps, {}, scalars=scalars)
            if not in_sync:
                lacking = dict.fromkeys(order.cohort, order.lacking)
                sent_by_all = table.uploads(order, order.cohort) + _asked(planner, table, order, order.cohort)
                moved.append(table.downloads(order, lacking, ()) + sent_by_all)
                continue
            if availability.always_answers:
                moved.append(table.planned(order) + _asked(planner, table, order, order.cohort))
                continue
            if order.new_cohort:
                members.start_cohort(order.cohort)
            index, cycle_start = order.plan.round_index, order.plan.cycle_start
            attendance = members.attend(availability, names, index, self.seed, cycle_start=cycle_start)
            downloads = table.downloads(order, attendance.sent, attendance.in_sync)
            answered = attendance.answered
            moved.append(downloads + table.uploads(order, answered) + _asked(planner, table, order, answered))
            if attendance.enough:
                members.versions |= dict.fromkeys(order.plan.upload | order.plan.recycle, index)
            void_rounds += not attendance.enough
        return moved, void_rounds

    def volume(self, transfers: Sequence[tuple[Transfer, ...]]) -> Volume:
        """Return what the transfers of all rounds come to."""
        ledger = Ledger(chain.from_iterable(transfers))
        up, down = ledger.total_bytes("up"), ledger.total_bytes("down")
        cost = cost_percent(ledger.cost(), total_parameters(self.layers), self.local_steps, self.base_interval)
        steps, taken = self.client_steps, list[Mapping[int, int]]()
        if steps is not None and self.links:
            taken = [steps(_clients_of(moved), index) for index, moved in enumerate(transfers)]
        exchanges = Exchanges.of(transfers, [self.strategy.local_steps] * self.rounds, client_steps=taken)
        seconds = {timed.link.name: timed.total for timed in clock(exchanges, self.links, seed=self.seed)}
        price = None if self.price_per_gb is None else money(up + down, self.price_per_gb)
        return Volume(up, down, cost, seconds, price)

    def everything_possible(self, availability: Availability) -> tuple[Volume, Volume]:
        """Return the range of every strategy: nothing, and everything in each round.

        The cohorts depend on the plans, so links of single clients, and with absences the number of replies, do too.
        Therefore no times are given, all clients answer in the upper limit, and in the lower one none needs to.
        """
        everything = frozenset(layer.name for layer in self.layers)
        intervals = dict.fromkeys(everything, 1)
        idle = [Plan(index, frozenset(), intervals, False, frozen=everything) for index in range(self.rounds)]
        busy = [Plan(index, everything, intervals, True) for index in range(self.rounds)]
        timeless = replace(self, links=())
        low = timeless.volume(replace(timeless, least=True).follow(idle, Always())[0])
        high = timeless.volume(timeless.follow(busy, Always(), in_sync=availability.always_answers)[0])
        nothing = Volume(0, 0, 0.0, money=None if self.price_per_gb is None else 0.0)
        return (low if availability.always_answers else nothing), high
