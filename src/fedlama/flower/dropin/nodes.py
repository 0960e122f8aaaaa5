"""Which nodes take part in an app's run: waited for and drawn by the options of Flower's FedAvg."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.samplers import Sampler
from fedlama.core.randomness import permutation
from fedlama.flower.server.nodes import NodeRegistry

_LOG = logging.getLogger("fedlama.flower")
_NOTE_SECONDS = 30.0  # between two lines that say who is waited for


@dataclass(frozen=True)
class Share:
    """How many of the nodes that are online take part.

    Attributes:
        purpose: What for, which with the seed and the round decides the draw.
        fraction: Flower's `fraction_train` or `fraction_evaluate`.
        minimum: Flower's `min_train_nodes` or `min_evaluate_nodes`.
        available: Flower's `min_available_nodes`.
    """

    purpose: str
    fraction: float
    minimum: int
    available: int

    def of(self, online: int) -> int:
        """Return the number of nodes to draw among those online, as FedAvg does.

        >>> Share("cohort", 0.5, 2, 2).of(9), Share("cohort", 0.1, 2, 2).of(9)
        (4, 2)
        """
        return max(int(online * self.fraction), self.minimum)


class AppNodes:
    """The nodes of a run.

    Args:
        registry: Which node serves which client.
        seed: The run's seed.
        poll: Seconds between two looks.
    """

    def __init__(self, registry: NodeRegistry, seed: int, poll: float) -> None:
        self._registry, self._seed, self._poll = registry, seed, poll
        self.count = 0
        """Number of clients; nodes of others are left out. 0 for no limit."""

    def online(self) -> dict[int, int]:
        """Return the clients that are online now, each with its node."""
        online = self._registry.online()
        return {client: node for client, node in sorted(online.items()) if not self.count or client < self.count}

    def wait(self, share: Share) -> dict[int, int]:
        """Wait until as many nodes are online as a draw needs; as Flower's own, it waits without an end.

        Args:
            share: How many take part.

        Returns:
            Client to node, of those that are online then.
        """
        noted = time.monotonic()
        while True:
            online = self.online()
            needed = max(share.available, share.of(len(online)))
            if len(online) >= needed:
                return online
            if time.monotonic() - noted >= _NOTE_SECONDS:
                noted = time.monotonic()
                problems = "; ".join(self._registry.problems.values())
                hint = f" ({problems}; the ClientApp needs mods=[fedlama_mod])" if problems else ""
                _LOG.warning("waiting for nodes: %d of %d serve a client%s", len(online), needed, hint)
            time.sleep(self._poll)

    def draw(self, share: Share, round_index: int) -> tuple[int, ...]:
        """Return the clients that take part, in ascending order.

        Args:
            share: How many take part.
            round_index: The round, from 0.
        """
        clients = sorted(self.wait(share))
        order = permutation(self._seed, share.purpose, len(clients), round_index)
        return tuple(sorted(clients[position] for position in order[: share.of(len(clients))]))


class NodeSampler(Sampler):
    """Draws a cohort among the nodes that are online, by the options of Flower's FedAvg.

    Args:
        nodes: The nodes.
        share: How many take part.
        in_sync: Whether cohorts may change: the strategy has all layers in sync at the end of a cycle.
    """

    name: ClassVar[str] = "nodes"
    size_is_least: ClassVar[bool] = True
    """How many nodes are online is only known when a cohort is drawn."""

    def __init__(self, nodes: AppNodes, share: Share, *, in_sync: bool) -> None:
        self._nodes, self._share, self._in_sync = nodes, share, in_sync
        self.cohort: tuple[int, ...] = ()

    def __describe__(self) -> dict[str, object]:
        """Return the two options."""
        return {"name": self.name, "fraction_train": self._share.fraction, "min_train_nodes": self._share.minimum}

    def cohort_size(self, population: int) -> int:
        """Return the least number of clients in a cohort."""
        return max(self._share.minimum, 1)

    def redraws(self, round_index: int) -> bool:
        """Return whether a part of the nodes is drawn, or another set of nodes is online than in the cohort.

        A cohort that stays needs no full model.
        """
        if self._share.fraction < 1 or not self._in_sync:
            return self._in_sync
        return bool(self.cohort) and not self._nodes.online().keys() <= set(self.cohort)

    def draw(self, population: int, round_index: int, seed: int) -> tuple[int, ...]:
        """Return the clients that are drawn among those online."""
        self.cohort = self._nodes.draw(self._share, round_index)
        return self.cohort
