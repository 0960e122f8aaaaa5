"""How much every client trains in a round: the strategy's local steps, epochs of its own data, or less.

A strategy declares tau local steps for a round. In most papers a round of FedAvg is instead E epochs of each client's
own data, so that clients take unequal numbers of steps; and some clients are too slow for all of them. What tau means
then is decided once, here:

* The **run's clock** counts tau steps for every round, whatever a client really does. The budget K, a schedule over
  local steps, the interval of a layer in steps, and the paper's relative cost C (in percent of FedAvg with the base
  interval over the same K) all count on this clock. A round is a round for all of them.
* FedLAMA divides a layer's discrepancy by its interval on this clock, d_l = D_l / (tau_l dim_l). The alternative, the
  mean number of steps that were really taken, is the same number for all layers of a cycle, and the cut-off compares
  layers with each other. So the choice changes no interval and no upload.
* Bytes do not depend on steps. A client that takes fewer steps sends as much as the others.
* Its weight p_i stays n_i / n. (Wang et al., "Tackling the Objective Inconsistency Problem in Heterogeneous Federated
  Optimization", NeurIPS 2020, show what unequal numbers of steps do to the average; ``weighting="fednova"`` is their
  remedy.)

The steps that every client really took are in the round's record.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from fedlama.core.randomness import uniform
from fedlama.core.validation import at_least, between, normalise_numbers, refuse
from fedlama.errors import ConfigError, shown


@runtime_checkable
class CountsEpochs(Protocol):
    """A source of clients that knows how many batches an epoch of each client has."""

    def batches_per_epoch(self, client: int) -> int:
        """Return the number of local steps in one epoch of a client."""


@dataclass(frozen=True)
class LocalWork:
    """The local work of a round; by default the strategy's local steps for every client.

    Args:
        epochs: Epochs of each client's own data in a round, more than 0; parts of an epoch are rounded to batches, one
            at least. None for the strategy's local steps.
        limits: The most local steps of a round, by client, for clients that are always slow.
        straggler_share: Share of the clients of a round that are slow by chance, in [0, 1): each takes a number of its
            steps that is drawn evenly from 1 to all (as in the experiments of Li et al., "Federated Optimization in
            Heterogeneous Networks", MLSys 2020, section 5.2).

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> class Clients:
        ...     def batches_per_epoch(self, client):
        ...         return 4 + client
        >>> LocalWork(epochs=2.0, limits={1: 3}).steps(Clients(), [0, 1, 2], 5, round_index=0, seed=0)
        {0: 8, 1: 3, 2: 12}
    """

    epochs: float | None = None
    limits: Mapping[int, int] = field(default_factory=dict)
    straggler_share: float = 0.0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = between(self, 0, 1, "straggler_share")
        if self.epochs is not None:
            problems += at_least(self, 0, "epochs")
            if self.epochs == 0:
                problems.append("LocalWork: epochs is 0, expected more than 0; leave it out for the strategy's steps")
        for client, steps in self.limits.items():
            if type(client) is not int or client < 0 or type(steps) is not int or steps < 1:
                problems.append(
                    f"LocalWork: limits has {shown(steps)} for client {shown(client)}, expected 1 local step or more "
                    "for a client's number; correct it"
                )
        refuse(problems)

    def scaled(self, factor: float) -> LocalWork:
        """Return the work of a round that is longer by a factor, for strategies whose rounds differ in length.

        Args:
            factor: The longer round's tau, in those of the shorter one.
        """
        epochs = None if self.epochs is None else self.epochs * factor
        limits = {client: max(round(steps * factor), 1) for client, steps in self.limits.items()}
        return LocalWork(epochs, limits, self.straggler_share)

    @property
    def is_equal(self) -> bool:
        """Whether every client takes the strategy's local steps."""
        return self == _EQUAL

    def steps(self, clients: object, cohort: Sequence[int], tau: int, *, round_index: int, seed: int) -> dict[int, int]:
        """Return the clients that take another number of local steps than the strategy's, with that number.

        Args:
            clients: All clients' data.
            cohort: The clients of the round.
            tau: The strategy's local steps of a round.
            round_index: The round, from 0.
            seed: The run's seed.

        Raises:
            ConfigError: Epochs are asked for, but the clients do not know theirs.
        """
        if self.is_equal:
            return {}
        counts = {client: self._whole(clients, client, tau) for client in cohort}
        if self.straggler_share:
            numbers = np.asarray(cohort, dtype=np.int64)
            slow = uniform(seed, "straggler", numbers, round_index) < self.straggler_share
            share = uniform(seed, "straggler work", numbers, round_index)
            for client, late, part in zip(cohort, slow.tolist(), share.tolist(), strict=True):
                if late:
                    counts[client] = 1 + int(part * counts[client])
        return {client: count for client, count in counts.items() if count != tau}

    def _whole(self, clients: object, client: int, tau: int) -> int:
        """Return the steps of a client that is not slow by chance."""
        count = tau if self.epochs is None else max(1, round(self.epochs * epoch_of(clients, client)))
        return min(count, self.limits.get(client, count))


_EQUAL = LocalWork()


def epoch_of(clients: object, client: int) -> int:
    """Return the number of batches in an epoch of a client.

    Args:
        clients: All clients' data.
        client: The client.

    Raises:
        ConfigError: The clients do not know it.
    """
    if not isinstance(clients, CountsEpochs):
        raise ConfigError(
            f"epochs are asked for, but {type(clients).__name__} does not know how many batches an epoch of a client "
            "has; give the clients as ClientData or TensorClients, or count in local_steps or rounds"
        )
    return clients.batches_per_epoch(client)


def mean_epoch(clients: object, count: int) -> float:
    """Return the mean number of batches in an epoch over all clients.

    Args:
        clients: All clients' data.
        count: Number of clients.

    Raises:
        ConfigError: The clients do not know it.
    """
    return sum(epoch_of(clients, client) for client in range(count)) / count
