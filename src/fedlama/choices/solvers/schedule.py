"""How the learning rate changes over a run: a factor on the solver's rate, for every solver alike.

========================  ============================================================================================
``decay``                 the factor behind the warm-up, with p from 0 to 1 between `warm_up` and `length`
========================  ============================================================================================
``"constant"``            1
``"step"``                `factor` to the power of the number of positions in `at` that have been reached
``"cosine"``              end + (1 - end) (1 + cos(pi p)) / 2
``"polynomial"``          end + (1 - end) (1 - p) ** power; `power` 1 is a straight line
========================  ============================================================================================

Positions are local steps or rounds, counted from 0 over the whole run. The clock of local steps is the same for all
clients: step s of round r is position ``r * tau + s``, tau the strategy's local steps of a round. Where clients take
different numbers of steps, one that takes more than tau runs ahead within the round, and all start together again in
the next; so one step of a cohort has one rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedlama.core.budget import Budget
from fedlama.core.validation import at_least, normalise_numbers, one_of, refuse, whole
from fedlama.errors import ConfigError, shown


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate; by default 1 in every step.

    Args:
        decay: How the factor falls.
        unit: What positions count: ``"steps"`` for local steps of the run, ``"rounds"`` for rounds.
        warm_up: Positions over which the factor rises linearly from 1 / warm_up to 1; 0 for none.
        at: For ``"step"``: the positions, in ascending order.
        factor: For ``"step"``: what the rate is multiplied by at each of these positions.
        length: For ``"cosine"`` and ``"polynomial"``: the position at which the factor reaches `end`, counted from the
            run's start; None for the end of the run's budget.
        power: For ``"polynomial"``: the exponent, more than 0.
        end: For ``"cosine"`` and ``"polynomial"``: the last factor, 0 or more.

    Raises:
        ConfigError: A value is out of range, or belongs to another decay.

    Example:
        >>> schedule = Schedule("cosine", warm_up=2, length=6)
        >>> [round(schedule.at_position(position, 0), 3) for position in range(8)]
        [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    decay: Literal["constant", "step", "cosine", "polynomial"] = "constant"
    unit: Literal["steps", "rounds"] = "steps"
    warm_up: int = 0
    at: tuple[int, ...] = ()
    factor: float = 0.1
    length: int | None = None
    power: float = 1.0
    end: float = 0.0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = one_of(self, "decay", ("constant", "step", "cosine", "polynomial"))
        problems += one_of(self, "unit", ("steps", "rounds")) + whole(self, "warm_up", minimum=0)
        problems += at_least(self, 0, "factor", "power", "end")
        if self.power == 0:
            problems.append("Schedule: power is 0, expected more than 0; use 1 for a straight line")
        if not isinstance(self.at, tuple) or not all(type(item) is int and item >= 0 for item in self.at):
            problems.append(
                f"Schedule: at is {shown(self.at)}, expected a list of positions of 0 or more; use one such as [100]"
            )
        if self.length is not None:
            problems += whole(self, "length", minimum=1)
        refuse(problems or self._misplaced())

    def _misplaced(self) -> list[str]:
        """Return the problems of values that the decay would ignore, or cannot do without."""
        problems, falls = [], self.decay in ("cosine", "polynomial")
        for field, belongs in (
            ("at", self.decay == "step"),
            ("length", falls),
            ("end", falls),
            ("power", self.decay == "polynomial"),
            ("factor", self.decay == "step"),
        ):
            value = getattr(self, field)
            if value != getattr(Schedule, field) and not belongs:
                problems.append(
                    f"Schedule: {field} is {shown(value)}, but decay is {self.decay!r}, which has none; remove "
                    f"{field}, or choose another decay"
                )
        if self.decay == "step" and not self.at:
            problems.append("Schedule: decay is 'step', but at is empty; give the positions, such as at = [100, 200]")
        if self.length is not None and self.length <= self.warm_up:
            problems.append(
                f"Schedule: length is {self.length}, expected more than warm_up ({self.warm_up}); use a larger number"
            )
        return problems

    @property
    def needs_budget(self) -> bool:
        """Whether the factor depends on the length of the run."""
        return self.decay in ("cosine", "polynomial") and self.length is None

    def problems(self, budget: Budget) -> list[str]:
        """Return what does not fit a run's length, one sentence each.

        Args:
            budget: The length of the run.
        """
        total = budget.local_steps if self.unit == "steps" else budget.rounds
        if not self.needs_budget or self.warm_up < total:
            return []
        return [
            f"Schedule: warm_up is {self.warm_up}, but the run has {total} {self.unit}, so that nothing is left for "
            f"the {self.decay} decay; use a smaller warm_up"
        ]

    def at_step(self, step: int, round_index: int, budget: Budget | None) -> float:
        """Return the factor of a local step.

        Args:
            step: The step on the run's clock, from 0.
            round_index: The round, from 0.
            budget: The length of the run; None where it is not known.

        Raises:
            ConfigError: The factor depends on the length of the run, which is not known.
        """
        if self.needs_budget and budget is None:
            raise ConfigError(f"the {self.decay} schedule needs the length of the run; set schedule.length")
        if self.unit == "steps":
            return self.at_position(step, budget.local_steps if budget else 0)
        return self.at_position(round_index, budget.rounds if budget else 0)

    def at_position(self, position: int, total: int) -> float:
        """Return the factor of a position.

        Args:
            position: In the schedule's unit, from 0.
            total: Positions of the whole run; read only where `length` is None.
        """
        warm = min(1.0, (position + 1) / self.warm_up) if self.warm_up else 1.0
        return warm * self._decayed(position, total)

    def _decayed(self, position: int, total: int) -> float:
        if self.decay == "constant":
            return 1.0
        if self.decay == "step":
            return float(self.factor ** sum(position >= at for at in self.at))
        end = total if self.length is None else self.length
        progress = min(max((position - self.warm_up) / max(end - self.warm_up, 1), 0.0), 1.0)
        if self.decay == "cosine":
            return self.end + (1.0 - self.end) * 0.5 * (1.0 + math.cos(math.pi * progress))
        return float(self.end + (1.0 - self.end) * (1.0 - progress) ** self.power)
