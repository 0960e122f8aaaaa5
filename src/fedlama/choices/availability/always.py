"""Every client answers in every round: the default, and the setting of the FedLAMA paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.availability.base import Fate
from fedlama.choices.availability.rules import Rules
from fedlama.core.registry import register


@register("availability")
@dataclass(frozen=True, kw_only=True)
class Always(Rules):
    """No client ever misses a round, so the rules for those that do never apply.

    In a deployment clients may still be lost; its own settings say how long the server waits for them.

    Example:
        >>> Always().fates([3, 8], round_index=0, seed=0)
        ['answers', 'answers']
    """

    name: ClassVar[str] = "always"

    @property
    def always_answers(self) -> bool:
        """True, unless a subclass decides in another way."""
        return type(self).fates is Always.fates

    def fates(self, clients: Sequence[int], round_index: int, seed: int) -> list[Fate]:
        """Return "answers" for every client."""
        return ["answers"] * len(clients)
