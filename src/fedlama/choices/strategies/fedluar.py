"""FedLUAR: some layers are not sent; the server moves them by their previous update again.

Kim, Kang and Lee, "Layer-wise Update Aggregation with Recycling for Communication-Efficient Federated Learning",
NeurIPS 2025 (arXiv 2503.11146). After each round every layer that came up gets the score
s_l = ||Delta_l|| / ||x_l||; the layers to recycle next are drawn without replacement with probabilities proportional
to 1 / s_l. A recycled layer keeps its score, and it may be recycled again. Only uploads are saved: clients receive the
whole model in every round.

As in the authors' program only weight tensors (`Layer.adaptive`) are recycled, and 1e-6 is added to ||x_l||.
The rules ``"random"`` and ``"round-robin"`` are the controls that show what the score is worth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from fedlama.choices.strategies.base import LayerStatistics, Plan
from fedlama.core.layers import Layers
from fedlama.core.randomness import generator
from fedlama.core.validation import at_least, one_of, refuse, whole
from fedlama.errors import ConfigError

Rule = Literal["score", "random", "round-robin"]

_NORM_GUARD = 1e-6  # added to ||x_l|| by the authors' program
_SMALLEST_SCORE = 1e-30  # a layer that did not move at all stays drawable: 1 / s_l must be finite


@dataclass(frozen=True)
class FedLUARState:
    """What FedLUAR carries from round to round.

    Attributes:
        names: All layers.
        candidates: Layers that may be recycled, in the model's order.
        scores: The latest s_l of the candidates that have come up at least once.
        recycle: Layers to recycle in the next round.
        seed: The run's seed, for the draws.
    """

    names: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[str, float]
    recycle: frozenset[str]
    seed: int


@dataclass(frozen=True)
class FedLUAR:
    """Recycle the updates of `recycled_layers` layers in every round after the first.

    Args:
        base_interval: Local steps per round.
        recycled_layers: Number of layers to recycle, the paper's delta.
        rule: ``"score"`` as published, or a control: ``"random"`` (uniform) or ``"round-robin"``.
    """

    name: ClassVar[str] = "fedluar"
    base_interval: int
    recycled_layers: int
    rule: Rule = "score"

    def __post_init__(self) -> None:
        problems = whole(self, "base_interval", "recycled_layers")
        problems = problems or at_least(self, 1, "base_interval") + at_least(self, 0, "recycled_layers")
        refuse(problems + one_of(self, "rule", ("score", "random", "round-robin")))

    @property
    def local_steps(self) -> int:
        """Local steps in one round."""
        return self.base_interval

    @property
    def cycle_rounds(self) -> int:
        """Every round starts from one global model."""
        return 1

    @property
    def measures_discrepancy(self) -> bool:
        """The score needs only what the server has."""
        return False

    @property
    def recycles(self) -> bool:
        """The server keeps the latest update of every layer."""
        return True

    def init(self, layers: Layers, seed: int) -> FedLUARState:
        """Start with nothing to recycle.

        Raises:
            ConfigError: More layers are to be recycled than there are candidates to leave one over.
        """
        candidates = tuple(layer.name for layer in layers if layer.adaptive)
        if self.recycled_layers >= max(len(candidates), 1):
            raise ConfigError(
                f"FedLUAR: recycled_layers is {self.recycled_layers}, but only {len(candidates)} layers of the model "
                f"may be recycled and one at least must travel; choose {max(len(candidates) - 1, 0)} or fewer"
            )
        return FedLUARState(tuple(layer.name for layer in layers), candidates, {}, frozenset(), seed)

    def plan(self, state: FedLUARState, round_index: int) -> Plan:
        """Upload everything but the recycled layers."""
        upload = frozenset(state.names) - state.recycle
        return Plan(round_index, upload, dict.fromkeys(state.names, 1), cycle_start=True, recycle=state.recycle)

    def fold(self, state: FedLUARState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> FedLUARState:
        """Refresh the scores of what came up and draw the next recycling set."""
        scores = dict(state.scores)
        for name in state.candidates:
            if name in statistics:
                scores[name] = statistics[name].update_norm / (statistics[name].value_norm + _NORM_GUARD)
        state = replace(state, scores=scores)
        return replace(state, recycle=self._draw(state, plan.round_index + 1))

    def _draw(self, state: FedLUARState, round_index: int) -> frozenset[str]:
        count, total = self.recycled_layers, len(state.candidates)
        if count == 0:
            return frozenset()
        if self.rule == "round-robin":
            first = (round_index - 1) * count
            return frozenset(state.candidates[(first + k) % total] for k in range(count))
        weights = np.ones(total)
        if self.rule == "score":
            weights = 1.0 / np.array([max(state.scores[name], _SMALLEST_SCORE) for name in state.candidates])
        draw = generator(state.seed, "fedluar", round_index)
        picked = draw.choice(total, size=count, replace=False, p=weights / weights.sum())
        return frozenset(state.candidates[index] for index in picked)
