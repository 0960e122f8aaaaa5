"""Partial model averaging: in every round one part of the model is synchronised, so that the traffic is even over time.

Lee et al., "Partial model averaging in Federated Learning: Performance guarantees and benefits" (OpenReview
J9H6aibUF9): instead of the whole model after tau local steps, one of several parts is averaged after each of the
shorter intervals between, so that every part still has the interval tau. Deviation: a part consists of whole layers, of
about as many parameters as the others, where the source may cut through a layer.

It moves as many bytes as periodic averaging with the same interval, in messages of an even size, and clients drift less
far apart between two synchronisations. All layers are never in sync at once, so all clients must take part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.layers import Layers, total_parameters
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole
from fedlama.errors import ConfigError


@register("strategy")
@dataclass(frozen=True)
class PartialAveraging(Strategy[dict[str, int]]):
    """Synchronise one of `parts` parts of the model in every round, in turns.

    Args:
        base_interval: Local steps of a round; every layer is synchronised each ``parts * base_interval`` of them.
        parts: Number of parts; 1 is FedAvg.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> import torch
        >>> from fedlama.core.layers import by_tensor
        >>> strategy = PartialAveraging(base_interval=5, parts=2)
        >>> state = strategy.init(by_tensor(torch.nn.Linear(4, 2)), seed=0)
        >>> [sorted(strategy.plan(state, index).upload) for index in range(3)]
        [['weight'], ['bias'], ['weight']]
    """

    name: ClassVar[str] = "partial"
    base_interval: int
    parts: int = 4

    def __post_init__(self) -> None:
        normalise_numbers(self)
        refuse(whole(self, "base_interval", "parts", minimum=1))

    @property
    def cycle_rounds(self) -> int:
        """Rounds in which every part is synchronised once."""
        return self.parts

    @property
    def in_sync_at_cycles(self) -> bool:
        """False: another part was trained since its synchronisation, but for a single part."""
        return self.parts == 1

    def init(self, layers: Layers, seed: int) -> dict[str, int]:
        """Return the part of every layer: neighbours in the model, of about as many parameters in each part.

        Raises:
            ConfigError: There are fewer layers than parts.
        """
        if self.parts > len(layers):
            raise ConfigError(
                f"PartialAveraging: parts is {self.parts}, but there are only {len(layers)} layers; choose "
                f"{len(layers)} or fewer"
            )
        state: dict[str, int] = {}
        part, before, total = 0, 0, max(total_parameters(layers), 1)
        for position, layer in enumerate(layers):
            left = len(layers) - position  # layers, this one included; every later part needs one
            full = before >= (part + 1) * total / self.parts and any(used == part for used in state.values())
            if part + 1 < self.parts and (full or left <= self.parts - 1 - part):
                part += 1
            state[layer.name] = part
            before += layer.parameters
        return state

    def plan(self, state: dict[str, int], round_index: int) -> Plan:
        """Plan the upload of the part whose turn it is."""
        due = frozenset(name for name, part in state.items() if part == round_index % self.parts)
        # A part has trained since its turn before; before its first turn, since the run began.
        trained = {
            name: min((round_index - part) % self.parts or self.parts, round_index + 1) for name, part in state.items()
        }
        intervals = dict.fromkeys(state, self.parts)
        start = round_index == 0 or self.parts == 1
        return Plan(round_index, due, intervals, cycle_start=start, trained_rounds=trained)
