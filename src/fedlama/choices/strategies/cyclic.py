"""A cyclic schedule as in FedPart: the weight tensors take turns, and only those on turn are trained and uploaded.

Wang et al., "Why Go Full? Elevating Federated Learning Through Partial Network Updates", NeurIPS 2024
(arXiv 2410.11559): some rounds of full updates, then passes over the layers in the model's order, with full rounds
between passes. Layers that are not on turn are frozen on the clients, so they stay in sync without any transfer.

Deviation: biases and normalisation parameters (all layers that are not `Layer.adaptive`) are trained and uploaded in
every round. They are tiny, and with one layer per tensor they would otherwise get turns apart from their weights.
``others="with-weights"`` gives them the turn of the weight tensor before them, as the source does: a convolution with
its normalisation is one group there. The source's schedule for ResNet-8 (125 rounds) is then::

    Cyclic(..., opening_rounds=5, rounds_per_turn=2, full_rounds=5, others="with-weights")
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import ClassVar, Literal

from fedlama.choices.strategies.base import Plan, Strategy
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.layers import Layers
from fedlama.core.randomness import permutation
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole


@dataclass(frozen=True)
class CyclicState:
    """The layers by role.

    Attributes:
        always: Layers that are trained and uploaded in every round.
        turns: The groups of layers that take turns, in the model's order.
        seed: The run's seed, which only ``order="random"`` uses.
    """

    always: frozenset[str]
    turns: tuple[frozenset[str], ...]
    seed: int = 0


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
        others: What becomes of layers that do not adapt: they take part in every round (``"always"``), or in the turn
            of the weight tensor before them (``"with-weights"``; the first one's before any).
        order: In which order groups take turns: ``"forward"`` from the input to the output, which the source finds
            best, ``"backward"``, or ``"random"`` with a new draw for each pass.

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
    others: Literal["always", "with-weights"] = field(default="always", metadata=LEFT_OUT_AT_DEFAULT)
    order: Literal["forward", "backward", "random"] = field(default="forward", metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", "layers_per_turn", "rounds_per_turn", minimum=1)
        problems += whole(self, "opening_rounds", "full_rounds", minimum=0)
        problems += one_of(self, "others", ("always", "with-weights"))
        refuse(problems + one_of(self, "order", ("forward", "backward", "random")))

    def init(self, layers: Layers, seed: int) -> CyclicState:
        """Group the layers into turns."""
        groups: list[list[str]] = []
        others: list[str] = []
        for layer in layers:
            if layer.adaptive:
                groups.append([layer.name])
            elif self.others == "with-weights" and groups:
                groups[-1].append(layer.name)
            else:
                others.append(layer.name)
        if self.others == "with-weights" and groups:
            groups[0] += others  # those before the first weight tensor
            others = []
        step = self.layers_per_turn
        turns = [frozenset(chain.from_iterable(groups[at : at + step])) for at in range(0, len(groups), step)]
        return CyclicState(frozenset(others), tuple(turns), seed)

    def plan(self, state: CyclicState, round_index: int) -> Plan:
        """Plan the layers on turn, and freeze the others."""
        everything = state.always.union(*state.turns)
        on_turn = self._turn(state, round_index)
        active = everything if on_turn is None else state.always | state.turns[on_turn]
        pass_rounds = max(len(state.turns), 1) * self.rounds_per_turn + self.full_rounds
        intervals = {name: 1 if name in active else pass_rounds for name in everything}
        return Plan(round_index, active, intervals, cycle_start=True, frozen=everything - active)

    def _turn(self, state: CyclicState, round_index: int) -> int | None:
        """Return the index of the group on turn in a round; None in a full round."""
        after, turns = round_index - self.opening_rounds, len(state.turns)
        if after < 0 or turns == 0:
            return None
        number, position = divmod(after, turns * self.rounds_per_turn + self.full_rounds)
        turn = position // self.rounds_per_turn
        if turn >= turns:
            return None
        if self.order == "random":
            return int(permutation(state.seed, "turns", turns, number)[turn])
        return turns - 1 - turn if self.order == "backward" else turn
