"""How long a run is: the numbers that every part of a run needs, whatever its budget was given in."""

from __future__ import annotations

from typing import NamedTuple


class Budget(NamedTuple):
    """The length of a run.

    Attributes:
        local_steps: K, local steps on the run's clock: `rounds` times the local steps of a round.
        rounds: Number of rounds.
    """

    local_steps: int
    rounds: int
