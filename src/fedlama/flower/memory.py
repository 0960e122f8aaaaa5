"""What the server must remember of its clients between rounds, fit for a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class EngineMemory:
    """The engine's state.

    Attributes:
        run: The run's own random name: it tells this run's states on the clients' disks from those of any other.
        cohort: The active clients.
        answered: Client to the latest round of which a reply was accepted, in this cohort.
        versions: Layer to the round at whose end the server set it last.
        steps_done: Client to its local steps in rounds that counted.
        absent: Clients that missed the latest round.
        excluded: Clients that must wait for the next cycle.
    """

    run: str
    cohort: list[int] = field(default_factory=list)
    answered: dict[int, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    steps_done: dict[int, int] = field(default_factory=dict)
    absent: set[int] = field(default_factory=set)
    excluded: set[int] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "absent": sorted(self.absent), "excluded": sorted(self.excluded)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> EngineMemory:
        """Read back what :meth:`to_json` wrote; JSON makes text of numbers that are keys."""
        numbers = {
            name: {int(key): value for key, value in record[name].items()} for name in ("answered", "steps_done")
        }
        sets = {name: set(record[name]) for name in ("absent", "excluded")}
        return cls(**{**record, **numbers, **sets})
