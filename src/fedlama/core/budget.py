"""How long a run is: given in local steps, rounds or epochs, and resolved to the same two numbers."""

from __future__ import annotations

import math
from collections.abc import Sized
from dataclasses import dataclass
from typing import NamedTuple

from fedlama.core.local_work import LocalWork, mean_epoch
from fedlama.errors import shown


class Budget(NamedTuple):
    """The length of a run.

    Attributes:
        local_steps: K, local steps on the run's clock: `rounds` times the strategy's local steps of a round.
        rounds: Number of rounds.
    """

    local_steps: int
    rounds: int


@dataclass(frozen=True)
class GivenBudget:
    """A budget as it was given; exactly one of the three is not None.

    Args:
        local_steps: Local steps of each client over the whole run.
        rounds: Rounds.
        epochs: Epochs of the average client's data, rounded up to whole rounds. The average client has the mean number
            of batches of all clients.
    """

    local_steps: int | None
    rounds: int | None
    epochs: float | None

    def problems(self) -> list[str]:
        """Return what is wrong with the budget by itself, one sentence each."""
        values = {"local_steps": self.local_steps, "rounds": self.rounds, "epochs": self.epochs}
        given = {name: value for name, value in values.items() if value is not None}
        if len(given) != 1:
            named = ", ".join(f"{name} = {shown(value)}" for name, value in given.items()) or "nothing"
            return [f"the budget is {named}, expected exactly one of local_steps, rounds and epochs; give one of them"]
        ((name, value),) = given.items()
        whole = isinstance(value, int) and not isinstance(value, bool)
        if name != "epochs" and not whole:
            return [f"{name} is {shown(value)}, expected an integer; use a whole number of {name.replace('_', ' ')}"]
        if name == "local_steps":
            return []  # compared with the strategy's rounds, which gives better advice than a number above 0
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
            return [f"{name} is {shown(value)}, expected more than 0; use a larger number"]
        return []

    def resolve(self, tau: int, clients: Sized, work: LocalWork) -> Budget:
        """Return the length of the run.

        Args:
            tau: The strategy's local steps of a round.
            clients: All clients' data.
            work: The local work of a round.

        Raises:
            ConfigError: Epochs are asked for, but the clients do not know theirs.
        """
        if self.rounds is not None:
            return Budget(self.rounds * tau, self.rounds)
        if self.epochs is not None:
            of_a_round = work.epochs if work.epochs is not None else tau / mean_epoch(clients, len(clients))
            rounds = max(math.ceil(self.epochs / of_a_round - 1e-9), 1)  # 3 epochs of a third each are 9 rounds
            return Budget(rounds * tau, rounds)
        local_steps = self.local_steps or 0
        return Budget(local_steps, local_steps // tau)
