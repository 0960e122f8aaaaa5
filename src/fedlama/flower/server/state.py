"""What the server must remember of its clients between rounds, fit for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self

from fedlama.choices.availability.membership import Membership


@dataclass(kw_only=True)
class EngineMemory(Membership):
    """The engine's state: the cohort as the server sees it, and what only a deployment must know.

    Attributes:
        run: The run's own random name: it tells this run's states on the clients' disks from those of any other.
        steps_done: Client to its local steps in rounds that counted.
        absent: Clients that missed the latest round.
    """

    run: str
    steps_done: dict[int, int] = field(default_factory=dict)
    absent: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**super().to_json(), "absent": sorted(self.absent)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """Read back what :meth:`to_json` wrote."""
        steps_done = {int(client): steps for client, steps in record["steps_done"].items()}
        return super().from_json({**record, "steps_done": steps_done, "absent": set(record["absent"])})
