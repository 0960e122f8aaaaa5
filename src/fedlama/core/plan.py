"""What a strategy decides before a round (`Plan`), and what it receives after it (`LayerStatistics`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from fedlama.core.layers import Layers
from fedlama.errors import did_you_mean, shown


class Senders(Protocol):
    """Which of a round's clients upload which layers, where not all of them upload all that is due.

    Attributes:
        needs_distances: Whether that depends on how far each client moved in the round. The clients then report these
            distances first, and upload what they are asked for in a second exchange.
    """

    @property
    def needs_distances(self) -> bool:
        """Whether :meth:`choose` needs distances."""

    def choose(
        self, layers: Sequence[str], clients: Sequence[int], distances: Mapping[str, Sequence[float]]
    ) -> dict[str, frozenset[int]]:
        """Return the clients that upload a layer; a pure function of its arguments.

        Args:
            layers: The layers of the model that are due, in the model's order.
            clients: The clients of the round, in ascending order.
            distances: For each layer ||x_i - u|| of every client, x_i its value and u the global value before the
                round, over trainable parameters; empty unless :attr:`needs_distances`.

        Returns:
            By layer; all clients upload a layer that is missing. A layer that no client uploads keeps its global value.
        """


@dataclass(frozen=True)
class Plan:
    """What a strategy decides before a round.

    A layer that is trained, but neither uploaded nor recycled, keeps each client's own value in the next round.

    Attributes:
        round_index: The round, from 0.
        upload: Layers that are synchronised at the end of the round.
        intervals: Aggregation interval in force for each layer, in rounds (tau_l / tau').
        cycle_start: Whether a new cohort may be drawn before this round: every layer is in sync.
        recycle: Layers that no client sends; the server applies their previous update again (FedLUAR).
        frozen: Layers that the clients do not train in this round; they stay in sync without a transfer.
        trained_rounds: Rounds that a layer has trained since it was last in sync, this one included. Needed only for
            layers that are not due in the rounds tau_l, 2 tau_l, ... of the run, as in a staggered schedule.
        senders: Which clients upload which of the layers in `upload`; None for all of them.

    Example:
        >>> plan = Plan(4, upload=frozenset({"conv"}), intervals={"conv": 1, "dense": 3}, cycle_start=False)
        >>> plan.rounds_apart("dense")  # it was in sync after round 2, and has trained in rounds 3 and 4
        2
    """

    round_index: int
    upload: frozenset[str]
    intervals: Mapping[str, int]
    cycle_start: bool
    recycle: frozenset[str] = field(default=frozenset())
    frozen: frozenset[str] = field(default=frozenset())
    trained_rounds: Mapping[str, int] = field(default_factory=dict)
    senders: Senders | None = None

    def problems(self, layers: Layers) -> list[str]:
        """Return what is wrong with the plan, one sentence each: a strategy may be the user's own.

        Args:
            layers: The labelling.
        """
        names = {layer.name for layer in layers}
        start = f"the plan of round {self.round_index}"
        unknown = sorted(str(name) for name in (self.upload | self.recycle | self.frozen) - names)
        problems = [f"{start} names {name!r}, which is not a layer{did_you_mean(name, names)}" for name in unknown]
        if missing := sorted(names - self.intervals.keys()):
            problems.append(
                f"{start} has no interval for {missing[0]!r}; give every layer one, 1 for the base interval"
            )
        problems += [
            f"{start} has the interval {shown(interval)} for {name!r}, expected an integer of 1 or more; count rounds"
            for name, interval in self.intervals.items()
            if isinstance(interval, bool) or not isinstance(interval, int | np.integer) or interval < 1
        ]
        if both := sorted(self.upload & self.recycle):
            problems.append(f"{start} uploads and recycles {both[0]!r}; choose one of both")
        return problems

    def held(self, layers: Layers) -> frozenset[str]:
        """Return the layers that keep each client's own value beyond this round.

        Args:
            layers: The labelling.
        """
        return frozenset(layer.name for layer in layers) - self.upload - self.recycle - self.frozen

    def rounds_apart(self, layer: str) -> int:
        """Return the number of rounds that a layer has trained since it was last in sync, this one included.

        It is the layer's interval when the layer is due, and less when a run's last round ends a cycle early.

        Args:
            layer: The layer's name.
        """
        return self.trained_rounds.get(layer, self.round_index % self.intervals[layer] + 1)

    def void(self) -> Plan:
        """Return the same plan for a round with too few replies: the server changes nothing."""
        return replace(self, upload=frozenset(), recycle=frozenset())

    def closing(self, layers: Layers) -> Plan:
        """Return the same plan, but with every layer in sync at its end: for the last round of a run.

        Args:
            layers: The labelling.
        """
        return replace(self, upload=self.upload | self.held(layers))


@dataclass(frozen=True)
class LayerStatistics:
    """Measurements of one layer's synchronisation, over its trainable parameters only.

    Attributes:
        discrepancy: sum_i p_i ||u - x_i||^2, u the average, x_i the clients' values before they are overwritten.
        update_norm: ||u_new - u_old|| of the global value.
        value_norm: ||u_old|| of the global value.
        refused: Clients whose values the aggregator left out of the average.
    """

    discrepancy: float
    update_norm: float
    value_norm: float
    refused: tuple[int, ...] = ()
