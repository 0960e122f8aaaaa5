"""The budget of a federation: whether it is a whole number of rounds, and the setting `rounds`."""

from __future__ import annotations

from typing import Any, Protocol, overload

import numpy as np

from fedlama.choices.strategies import Strategy
from fedlama.core.budget import Budget, GivenBudget
from fedlama.errors import FedlamaError, shown

MOST_ROUNDS = 10_000_000
"""More rounds than this are refused as a typing error: their ledger would fill any disk."""


class Budgeted(Protocol):
    """A federation, as the setting `rounds` sees it."""

    @property
    def local_steps(self) -> int | None:
        """The budget in local steps."""

    @property
    def epochs(self) -> float | None:
        """The budget in epochs."""

    @property
    def budget(self) -> Budget:
        """The length of the run."""


def check_budget(given: GivenBudget, strategy: Strategy[Any]) -> list[str]:
    """Return the problems of a budget: it must be a whole number of rounds, and not too many of them.

    Args:
        given: The budget as it was given.
        strategy: The run's strategy, which may be the user's own and unchecked.
    """
    step = getattr(strategy, "local_steps", None)
    if isinstance(step, bool) or not isinstance(step, int):
        kind = type(strategy).__name__
        return [f"{kind}: local_steps is {shown(step)}, expected an integer; use a whole number of local steps"]
    if step < 1:
        return [f"{type(strategy).__name__}: a round has {step} local steps, expected 1 or more; raise base_interval"]
    if problems := given.problems():
        return problems
    if given.rounds is not None and given.rounds > MOST_ROUNDS:
        return [f"rounds is {given.rounds}, expected {MOST_ROUNDS} or fewer; use a smaller number"]
    local_steps = given.local_steps
    if local_steps is None:
        return []
    if local_steps // step > MOST_ROUNDS:
        return [
            f"local_steps is {local_steps}, which makes {local_steps // step} rounds of {strategy.name}, expected "
            f"{MOST_ROUNDS} rounds or fewer; choose {MOST_ROUNDS * step} local steps or fewer"
        ]
    if local_steps >= step and local_steps % step == 0:
        return []
    below = max(local_steps // step, 1) * step
    return [
        f"local_steps is {local_steps}, but a round of {strategy.name} lasts {step} local steps and the budget must be "
        f"a whole number of rounds; choose {below} or {below + step}"
    ]


class CountedRounds(int):
    """A number of rounds that follows from a budget in other units."""

    is_counted = True


class Rounds:
    """The setting `rounds`: given as a budget or left out; where it is read, always the number of rounds.

    `dataclasses.replace` gives a constructor what it reads from the old object. So a number that was counted has a type
    of its own: beside `local_steps` or `epochs` it is not a second budget.
    """

    @overload
    def __get__(self, federation: None, owner: type) -> None: ...
    @overload
    def __get__(self, federation: Budgeted, owner: type) -> int: ...
    def __get__(self, federation: Budgeted | None, owner: type) -> int | None:
        """Return the number of rounds, 0 where it cannot be counted; of the class, the constructor's default."""
        if federation is None:
            return None
        given = given_rounds(federation)
        try:
            return CountedRounds(federation.budget.rounds) if given is None else given
        except FedlamaError:  # a run says why; to print, compare or mend such a federation must not fail
            return CountedRounds(0)

    def __set__(self, federation: Budgeted, rounds: int | None) -> None:
        """Keep the setting as it was given."""
        vars(federation)["rounds"] = rounds.item() if isinstance(rounds, np.integer) else rounds


def given_rounds(federation: Budgeted) -> int | None:
    """Return the setting `rounds` where it is the budget, None where the budget is given in other units.

    Args:
        federation: The federation.
    """
    rounds: int | None = vars(federation)["rounds"]
    others = (federation.local_steps, federation.epochs)
    return None if getattr(rounds, "is_counted", False) and others != (None, None) else rounds
