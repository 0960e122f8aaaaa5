"""A cyclic schedule as in FedPart: the weight tensors take turns, and only those on turn are trained and uploaded.

Wang et al., "Why Go Full? Elevating Federated Learning Through Partial Network Updates", NeurIPS 2024
(arXiv 2410.11559): some rounds of full updates, then passes over the layers in the model's order, with full rounds
between passes. Layers that are not on turn are frozen on the clients, so they stay in sync without any transfer.

Deviation: biases and normalisation parameters (all layers that are not `Layer.adaptive`) are trained and uploaded in
every round. They are tiny, and with one layer per tensor they would otherwise get turns apart from their weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, refuse, whole


@dataclass(frozen=True)
class CyclicState:
    """The layers by role.

    Attributes:
        always: Layers that are trained and uploaded in every round.
        turns: The groups of layers that take turns, in order.
    """

    always: frozenset[str]
    turns: tuple[frozenset[str], ...]


@register("strategy")
@dataclass(frozen=True)
class Cyclic(Strategy[CyclicState]):
    """Train and upload the weight tensors in turns.

    Frozen layers do not diverge, so every layer is in sync after every round and `cycle_rounds` stays 1.

    Args:
        base_interval: Local steps per round; 1 or more.
        layers_per_turn: Weight tensors that are on turn together; 1 or more.
        rounds_per_turn: Rounds that a turn lasts; 1 or more.
        opening_rounds: Full rounds before the first pass; 0 or more.
        full_rounds: Full rounds between two passes; 0 or more.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> cyclic = Cyclic(base_interval=6, opening_rounds=1)
        >>> state = CyclicState(always=frozenset(), turns=(frozenset({"conv"}), frozenset({"dense"})))
        >>> [sorted(cyclic.plan(state, index).upload) for index in range(4)]
        [['conv', 'dense'], ['conv'], ['dense'], ['conv']]
    """

    name: ClassVar[str] = "cyclic"
    base_interval: int
    layers_per_turn: int = 1
    rounds_per_turn: int = 1
    opening_rounds: int = 1
    full_rounds: int = 0

    def __post_init__(self) -> None:
        normalise_numbers(self)
        positive = whole(self, "base_interval", "layers_per_turn", "rounds_per_turn", minimum=1)
        refuse(positive + whole(self, "opening_rounds", "full_rounds", minimum=0))

    def init(self, layers: Layers, seed: int) -> CyclicState:
        """Group the adaptive layers into turns."""
        order = [layer.name for layer in layers if layer.adaptive]
        step = self.layers_per_turn
        turns = tuple(frozenset(order[at : at + step]) for at in range(0, len(order), step))
        return CyclicState(frozenset(layer.name for layer in layers if not layer.adaptive), turns)

    def plan(self, state: CyclicState, round_index: int) -> Plan:
        """Plan the layers on turn, and freeze the others."""
        everything = state.always.union(*state.turns)
        on_turn = self._turn(len(state.turns), round_index)
        active = everything if on_turn is None else state.always | state.turns[on_turn]
        pass_rounds = max(len(state.turns), 1) * self.rounds_per_turn + self.full_rounds
        intervals = {name: 1 if name in active else pass_rounds for name in everything}
        return Plan(round_index, active, intervals, cycle_start=True, frozen=everything - active)

    def _turn(self, turns: int, round_index: int) -> int | None:
        """Return the index of the turn in a round; None in a full round."""
        after = round_index - self.opening_rounds
        if after < 0 or turns == 0:
            return None
        position = after % (turns * self.rounds_per_turn + self.full_rounds)
        turn = position // self.rounds_per_turn
        return turn if turn < turns else None
