"""Everyone always answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedlama.availability.base import Fate
from fedlama.availability.rules import Rules


@dataclass(frozen=True, kw_only=True)
class Always(Rules):
    """No client ever misses a round, so the rules for those who do never apply."""

    name: ClassVar[str] = "always"

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Everyone answers."""
        return ["answers"] * len(clients)
