"""The contract of engines whose clients are elsewhere: what the driver tells them beforehand, and asks them after.

An engine that holds its clients itself can hand over any layer at any time. One that reaches them over a network must
say in a round's order what is to come up, and only it knows what travelled in the end: who was sent what, who answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fedlama.engines.base import Engine
from fedlama.ledger import Shipment
from fedlama.strategies import Plan


@runtime_checkable
class RemoteEngine(Engine, Protocol):
    """An engine that needs the plan before the round and reports the traffic after it."""

    def announce(self, plan: Plan, evaluation: frozenset[str], scalars: bool) -> None:
        """Take in the round's plan before :meth:`train`.

        Args:
            plan: The round's plan.
            evaluation: Layers that come up for an evaluation alone.
            scalars: Whether uploads carry ||x_i - r||^2 with each layer.
        """

    def travelled(self, planned: Sequence[Shipment]) -> list[Shipment]:
        """Return what really travelled in the round, given what would have, had every client answered at once."""
