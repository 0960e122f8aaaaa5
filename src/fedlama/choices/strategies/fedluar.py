"""FedLUAR: some layers are not uploaded; the server applies their previous update again.

Kim, Kang and Lee, "Layer-wise Update Aggregation with Recycling for Communication-Efficient Federated Learning",
NeurIPS 2025 (arXiv 2503.11146). After each round every uploaded layer gets the score s_l = ||Delta_l|| / ||x_l||. The
layers to recycle next are drawn without replacement, with probabilities proportional to 1 / s_l. A recycled layer keeps
its score, and it may be recycled again. Only uploads are saved: clients receive the whole model in every round.

As in the authors' program only weight tensors (`Layer.adaptive`) are recycled, and 1e-6 is added to ||x_l||. What the
score gains is measured by controls: the rules ``"random"``, ``"round-robin"`` and ``"size"``, which recycle as many
layers, or with ``match="bytes"`` layers of about as many bytes as the score would have chosen. What recycling itself
gains is measured by ``fill="freeze"``, under which the skipped layers keep their value; the bytes are the same.

The cost that the authors' program prints is off by one round: it counts a layer when the next round's draw leaves it
out of recycling, so the first round is not counted and one that is never run is. :meth:`FedLUAR.figures` has it beside
the true cost, and the server's memory as in the paper's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np

from fedlama.choices.strategies.base import Courses, LayerStatistics, Plan, Strategy
from fedlama.core.deprecations import LEFT_OUT_AT_DEFAULT
from fedlama.core.layers import Layers
from fedlama.core.randomness import generator, permutation
from fedlama.core.registry import register
from fedlama.core.validation import normalise_numbers, one_of, refuse, whole
from fedlama.errors import ConfigError

Rule = Literal["score", "random", "round-robin", "size"]

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
        sizes: Parameters of every layer.
        ages: For how many rounds in a row each candidate has been recycled, those at 0 left out.
        counted: How often each candidate was not drawn, which the authors' program counts as sent.
        draws: How often layers were drawn.
    """

    names: tuple[str, ...]
    candidates: tuple[str, ...]
    scores: Mapping[str, float]
    recycle: frozenset[str]
    seed: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    ages: Mapping[str, int] = field(default_factory=dict)
    counted: Mapping[str, int] = field(default_factory=dict)
    draws: int = 0


@register("strategy")
@dataclass(frozen=True)
class FedLUAR(Strategy[FedLUARState]):
    """Recycle the updates of `recycled_layers` layers in every round after the first.

    Args:
        base_interval: Local steps per round; 1 or more.
        recycled_layers: Number of layers to recycle, the paper's delta; 0 or more.
        rule: ``"score"`` as published, or a control: ``"random"`` (uniform), ``"round-robin"`` or ``"size"`` (the
            largest layers, which needs `max_age`).
        fill: What a skipped layer becomes: ``"recycle"`` repeats its latest update, as published; ``"freeze"`` keeps
            its value.
        match: Whether a control skips `recycled_layers` layers (``"count"``), or layers of about as many parameters as
            the score would skip in that round (``"bytes"``).
        max_age: For how many rounds in a row a layer may be recycled, 1 or more; then it is uploaded. None for no
            bound, as published.

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
    fill: Literal["recycle", "freeze"] = field(default="recycle", metadata=LEFT_OUT_AT_DEFAULT)
    match: Literal["count", "bytes"] = field(default="count", metadata=LEFT_OUT_AT_DEFAULT)
    max_age: int | None = field(default=None, metadata=LEFT_OUT_AT_DEFAULT)

    def __post_init__(self) -> None:
        normalise_numbers(self)
        problems = whole(self, "base_interval", minimum=1) + whole(self, "recycled_layers", minimum=0)
        problems += whole(self, *(["max_age"] if self.max_age is not None else []), minimum=1)
        problems += one_of(self, "rule", ("score", "random", "round-robin", "size"))
        problems += one_of(self, "fill", ("recycle", "freeze")) + one_of(self, "match", ("count", "bytes"))
        if self.rule == "size" and self.max_age is None:
            problems.append(
                "FedLUAR: rule is 'size' without max_age, so the largest layers would never be uploaded; set max_age "
                "to a number of rounds"
            )
        if self.rule == "score" and self.match == "bytes":
            problems.append(
                "FedLUAR: match is 'bytes', which compares a control with the score, but rule is 'score'; choose rule "
                "'random', 'round-robin' or 'size', or match='count'"
            )
        refuse(problems)

    @property
    def recycles(self) -> bool:
        """Whether the server keeps the latest update of every layer."""
        return self.fill == "recycle"

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
        sizes = {layer.name: layer.parameters for layer in layers}
        return FedLUARState(tuple(layer.name for layer in layers), candidates, {}, frozenset(), seed, sizes)

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
        return self._advanced(replace(state, scores=scores), plan.round_index + 1)

    def figures(self, state: FedLUARState, active: int, rounds: int) -> dict[str, float]:
        """Return what else belongs into a run's summary, by label.

        Args:
            state: The state after the last round.
            active: Clients in a cohort.
            rounds: Rounds done.

        Returns:
            The cost in percent as the authors' program prints it, of runs in which every round counted; the memory in
            MiB that the server needs at once for the clients' updates, a (d - recycled) float32 numbers as in the
            paper's table, of the next round; and for how many rounds the oldest update has been repeated.
        """
        sizes = state.sizes
        if not sizes or not state.draws:
            return {}
        counted = sum(size * state.counted.get(name, state.draws) for name, size in sizes.items())
        received = sum(size for name, size in sizes.items() if name not in state.recycle)
        figures = {
            "server memory, MiB": active * received * 4 / 2**20,
            "oldest update, rounds": float(max(state.ages.values(), default=0)),
        }
        if state.draws == rounds:  # not in a run that an earlier version began
            figures["cost as the authors print it, %"] = 100.0 * counted / (rounds * sum(sizes.values()))
        return figures

    def bounds(self, layers: Layers, rounds: int, seed: int) -> Courses | None:
        """Return the courses that recycle the smallest and the largest layers in every round after the first.

        The controls draw without the scores, so their one course is exact, if they do not match the score's bytes. With
        a bound on the age, the first course recycles nothing, since some layers may be barred. For a subclass with
        another :meth:`fold`, which may recycle in another way, it is None.
        """
        if type(self).fold is not FedLUAR.fold:
            return None
        start = self.init(layers, seed)
        if self.rule != "score" and self.match == "count":
            return (self._control_course(start, rounds),)
        extremes = list(self._extremes(layers)) if self.match == "count" else [frozenset(start.candidates)]
        if self.max_age is not None or self.match == "bytes":
            extremes.append(frozenset())
        return tuple(self._course(start, [group] * rounds) for group in extremes)

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

    def _control_course(self, state: FedLUARState, rounds: int) -> Iterator[Plan]:
        """Yield the plans of a control, which does not look at what training shows."""
        for index in range(rounds):
            yield self.plan(state, index)
            state = self._advanced(state, index + 1)

    def _advanced(self, state: FedLUARState, round_index: int) -> FedLUARState:
        """Return the state with the layers that a round recycles, given those that the round before it recycled."""
        ages = {name: state.ages.get(name, 0) + 1 for name in state.candidates if name in state.recycle}
        free = [name for name in state.candidates if self.max_age is None or ages.get(name, 0) < self.max_age]
        recycle = self._draw(state, free, round_index)
        counted = {name: state.counted.get(name, 0) + (name not in recycle) for name in state.candidates}
        return replace(state, recycle=recycle, ages=ages, counted=counted, draws=state.draws + 1)

    def _draw(self, state: FedLUARState, free: Sequence[str], round_index: int) -> frozenset[str]:
        """Return the layers to recycle in a round after the first.

        Args:
            state: The state, for the scores.
            free: The candidates that are not too old.
            round_index: The round.
        """
        count = min(self.recycled_layers, len(free))
        if count == 0:
            return frozenset()
        if self.rule == "score" or self.match == "bytes":
            weights = 1.0 / np.array([max(state.scores[name], _SMALLEST_SCORE) for name in free])
            chosen = self._picked(state, free, weights, count, round_index)
            return chosen if self.rule == "score" else self._as_many_bytes(state, free, chosen, round_index)
        if self.rule == "random":
            return self._picked(state, free, np.ones(len(free)), count, round_index)
        return frozenset(self._ordered(state, free, round_index)[:count])

    def _picked(
        self, state: FedLUARState, free: Sequence[str], weights: np.ndarray[Any, Any], count: int, round_index: int
    ) -> frozenset[str]:
        """Draw layers one after another without replacement, with probabilities in proportion to their weights."""
        draw = generator(state.seed, "fedluar", round_index)
        picked = draw.choice(len(free), size=count, replace=False, p=weights / weights.sum())
        return frozenset(free[index] for index in picked)

    def _ordered(self, state: FedLUARState, free: Sequence[str], round_index: int) -> list[str]:
        """Return candidates in the order in which a control takes them."""
        total = len(state.candidates)
        if self.rule == "random":
            return [free[index] for index in permutation(state.seed, "fedluar control", len(free), round_index)]
        if self.rule == "size":
            return sorted(free, key=lambda name: -state.sizes[name])
        first = (round_index - 1) * self.recycled_layers
        turns = [state.candidates[(first + k) % total] for k in range(total)]
        return [name for name in turns if name in set(free)]

    def _as_many_bytes(
        self, state: FedLUARState, free: Sequence[str], chosen: frozenset[str], round_index: int
    ) -> frozenset[str]:
        """Return layers in the control's order, of about as many parameters as the score's choice.

        A layer is left out where it would miss that number by more than without it; the next ones are tried too, since
        layers differ in size.
        """
        goal, total, picked = sum(state.sizes[name] for name in chosen), 0, set[str]()
        for name in self._ordered(state, free, round_index):
            if abs(total + state.sizes[name] - goal) < abs(total - goal):
                total += state.sizes[name]
                picked.add(name)
        return frozenset(picked)
