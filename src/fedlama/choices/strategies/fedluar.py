"""FedLUAR: some layers are not uploaded; the server applies their previous update again.

Kim, Kang and Lee, "Layer-wise Update Aggregation with Recycling for Communication-Efficient Federated Learning",
NeurIPS 2025 (arXiv 2503.11146). After each round every uploaded layer gets the score s_l = ||Delta_l|| / ||x_l||. The
layers to recycle next are drawn without replacement, with probabilities proportional to 1 / s_l. A recycled layer keeps
its score, and it may be recycled again. Only uploads are saved: clients receive the whole model in every round.

As in the authors' program only weight tensors (`Layer.adaptive`) are recycled, and 1e-6 is added to ||x_l||. The rules
``"random"`` and ``"round-robin"`` are controls, to measure what the score gains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from fedlama.choices.strategies.base import Courses, LayerStatistics, Plan, Strategy
from fedlama.core.layers import Layers
from fedlama.core.randomness import generator
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole
from fedlama.errors import ConfigError

Rule = Literal["score", "random", "round-robin"]

_NORM_GUARD = 1e-6  # added to ||x_l|| by the authors' program
_SMALLEST_SCORE = 1e-30  # a layer that did not move at all stays drawable: 1 / s_l must be finite


@dataclass(frozen=True)
class FedLUARState:
    """FedLUAR's state between rounds.

    Attributes:
        names: All layers.
        candidates: Layers that may be recycled, in the model's order.
        scores: The latest s_l of the candidates that were uploaded at least once.
        recycle: Layers to recycle in the next round.
        seed: The run's seed, for the draws.
    """

    names: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[str, float]
    recycle: frozenset[str]
    seed: int


@register("strategy")
@dataclass(frozen=True)
class FedLUAR(Strategy[FedLUARState]):
    """Recycle the updates of `recycled_layers` layers in every round after the first.

    Args:
        base_interval: Local steps per round; 1 or more.
        recycled_layers: Number of layers to recycle, the paper's delta; 0 or more.
        rule: ``"score"`` as published, or a control: ``"random"`` (uniform) or ``"round-robin"``.

    Raises:
        ConfigError: A value is out of range.

    Example:
        >>> from fedlama.core.layers import Layer
        >>> fedluar = FedLUAR(base_interval=6, recycled_layers=1, rule="round-robin")
        >>> state = fedluar.init((Layer("conv", (), adaptive=True), Layer("dense", (), adaptive=True)), seed=0)
        >>> for index in range(3):
        ...     plan = fedluar.plan(state, index)
        ...     print(sorted(plan.upload), sorted(plan.recycle))
        ...     state = fedluar.fold(state, plan, {})
        ['conv', 'dense'] []
        ['dense'] ['conv']
        ['conv'] ['dense']
    """

    name: ClassVar[str] = "fedluar"
    base_interval: int
    recycled_layers: int
    rule: Rule = "score"

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", minimum=1) + whole(self, "recycled_layers", minimum=0)
        refuse(problems + one_of(self, "rule", ("score", "random", "round-robin")))

    @property
    def recycles(self) -> bool:
        """True: the server keeps the latest update of every layer."""
        return True

    def init(self, layers: Layers, seed: int) -> FedLUARState:
        """Return the state of the first round, in which nothing is recycled.

        Raises:
            ConfigError: `recycled_layers` leaves no candidate to upload.
        """
        candidates = tuple(layer.name for layer in layers if layer.adaptive)
        if self.recycled_layers >= max(len(candidates), 1):
            raise ConfigError(
                f"FedLUAR: recycled_layers is {self.recycled_layers}, but only {len(candidates)} layers of the model "
                f"may be recycled and one at least must be uploaded; choose {max(len(candidates) - 1, 0)} or fewer"
            )
        return FedLUARState(tuple(layer.name for layer in layers), candidates, {}, frozenset(), seed)

    def plan(self, state: FedLUARState, round_index: int) -> Plan:
        """Plan the upload of all layers but the recycled ones."""
        upload = frozenset(state.names) - state.recycle
        return Plan(round_index, upload, dict.fromkeys(state.names, 1), cycle_start=True, recycle=state.recycle)

    def fold(self, state: FedLUARState, plan: Plan, statistics: Mapping[str, LayerStatistics]) -> FedLUARState:
        """Update the scores of the uploaded layers and draw the layers to recycle next."""
        scores = dict(state.scores)
        for name in state.candidates:
            if name in statistics:
                scores[name] = statistics[name].update_norm / (statistics[name].value_norm + _NORM_GUARD)
        state = replace(state, scores=scores)
        return replace(state, recycle=self._draw(state, plan.round_index + 1))

    def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
        """Return the courses that recycle the smallest and the largest layers in every round after the first.

        The controls draw without the scores, so their one course is exact. For a subclass with another :meth:`fold`,
        which may recycle in another way, it is None.
        """
        if type(self).fold is not FedLUAR.fold:
            return None
        start = self.init(layers, seed)
        if self.rule == "score":
            courses = [[group] * rounds for group in self._extremes(layers)]
        else:
            courses = [[self._draw(start, index) for index in range(rounds)]]
        return tuple(self._course(start, recycled) for recycled in courses)

    def _extremes(self, layers: Layers) -> Iterable[frozenset[str]]:
        """Return the groups of layers whose recycling saves the least and the most, by parameters and by bytes.

        The two orders differ where a layer has buffers: they take bytes but do not count in the paper's cost.
        """
        candidates = [layer for layer in layers if layer.adaptive]
        by_parameters = sorted(candidates, key=lambda layer: layer.parameters)
        by_bytes = sorted(candidates, key=lambda layer: sum(s.size * s.dtype.itemsize for s in layer.tensors))
        count, total = self.recycled_layers, len(candidates)
        groups = [group for order in (by_parameters, by_bytes) for group in (order[:count], order[total - count :])]
        return dict.fromkeys(frozenset(layer.name for layer in group) for group in groups)

    def _course(self, state: FedLUARState, recycled: Sequence[frozenset[str]]) -> Iterator[Plan]:
        """Yield the plans of a run that recycles the given layers in each round but the first."""
        for index, group in enumerate(recycled):
            yield self.plan(replace(state, recycle=group) if index else state, index)

    def _draw(self, state: FedLUARState, round_index: int) -> frozenset[str]:
        """Return the layers to recycle in a round after the first."""
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
