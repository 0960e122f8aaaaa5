"""The contract of channels: how letters reach the nodes and replies come back, whatever carries them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from fedlama.flower.protocol import Answer, Failure, Introduction, Order, Question


@dataclass(frozen=True)
class Letter:
    """One message to one node."""

    node: int
    content: Order | Question


@dataclass(frozen=True)
class Delivery:
    """What came back for a letter.

    Attributes:
        ticket: The letter's.
        content: The reply, or what came instead of it.
    """

    ticket: str
    content: Answer | Introduction | Failure


class Channel(Protocol):
    """Sends and fetches; never waits for a reply."""

    def nodes(self) -> tuple[int, ...]:
        """Return the nodes that are online now, in ascending order."""

    def push(self, letters: Sequence[Letter], lifetime: float) -> list[str]:
        """Send letters.

        Args:
            letters: What to send.
            lifetime: Seconds after which neither letter nor reply is of use any more.

        Returns:
            A ticket for each; empty where the node is not known.
        """

    def pull(self, tickets: Collection[str]) -> list[Delivery]:
        """Fetch what has come back for these tickets; each reply is handed out once."""
