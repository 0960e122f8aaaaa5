"""The beginning of a round with personal models: heads are blended, trained alone, and scored.

:mod:`fedlama.choices.personal` says what a client does. Engines that serve it have a class attribute
``personalises = True``. They do not overwrite heads with global values; a client finds those in the round's order.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlama.choices.personal import OWN_SHARE, Personal, blend
from fedlama.choices.solvers import OptimizerState
from fedlama.choices.solvers.local_update import LocalUpdate
from fedlama.core.local_work import epoch_of
from fedlama.core.scores import Score
from fedlama.engines.api import EngineSetup, RoundOrder, Values
from fedlama.engines.cohort.kept import blended_names
from fedlama.engines.trainers.base import LocalSteps


class HeadSteps(LocalUpdate):
    """Plain SGD for the head: no momentum, decay, groups or correction, whatever the solver."""

    def _step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        reference: Sequence[Tensor],
    ) -> None:
        torch._foreach_add_(list(parameters), list(gradients), alpha=-rate)


class PersonalPhase:
    """What an engine does for personal models, apart from taking steps.

    Args:
        setup: The federation's fixed parts.
        personal: The settings.

    Attributes:
        names: The parameters of heads: they are blended, and never overwritten.
    """

    def __init__(self, setup: EngineSetup, personal: Personal) -> None:
        self._setup, self._personal = setup, personal
        self.names = blended_names(setup.layers)
        self._layer_of = {spec.name: layer.name for layer in setup.layers for spec in layer.tensors}
        self._model = copy.deepcopy(setup.model)
        self._updates: dict[tuple[str, ...], HeadSteps] = {}

    @classmethod
    def of(cls, setup: EngineSetup) -> PersonalPhase | None:
        """Return the phase of a federation; None without personal models."""
        return None if setup.personal is None else cls(setup, setup.personal)

    def blend(self, values: Mapping[str, Tensor], order: RoundOrder) -> None:
        """Blend the heads that the server changed, in place.

        Args:
            values: The clients' tensors, (clients, ...) by name.
            order: The round's order.
        """
        names = [name for name in self.names if self._layer_of[name] in order.lacking]
        blend(values, order.values, names, values[OWN_SHARE])

    def work(self, work: LocalSteps) -> LocalSteps:
        """Return the steps of the head's training, of which :meth:`part` takes a client's number.

        Args:
            work: The round's local steps.
        """
        pairs = zip(work.trained, work.names, strict=True)
        chosen = [(position, name) for position, name in pairs if name in self.names]
        names = tuple(name for _, name in chosen)
        if names not in self._updates:
            setup = self._setup
            self._updates[names] = HeadSteps(setup.solver, setup.trained_layers, names, None, setup.parameter_names)
        trained = tuple(position for position, _ in chosen)
        return replace(work, trained=trained, names=names, reference=(), shared={}, update=self._updates[names])

    def part(self, work: LocalSteps, steps: int) -> LocalSteps:
        """Return such steps of a length, all with the rate of the round's first step.

        Args:
            work: What :meth:`work` returned.
            steps: How many.
        """
        rate = work.rates[0] * self._personal.head_rate_factor
        return replace(work, steps=steps, rates=(rate,) * steps)

    def steps(self, client: int) -> int:
        """Return in how many steps a client trains its head."""
        epochs = self._personal.head_epochs
        return max(1, round(epochs * epoch_of(self._setup.clients, client))) if epochs else 0

    def score(self, client: int, values: Values, tests: bool) -> Score | None:
        """Measure a client's a, in place, and return the score of its model.

        Args:
            client: The client.
            values: Its tensors; its a is overwritten.
            tests: Whether the score on its own test set is wanted.
        """
        personal, scorer = self._personal, self._setup.scorer
        assert scorer is not None  # as the federation has personal models
        self._model.load_state_dict(values, strict=False)
        score = scorer(self._model, client, "test") if tests or personal.accuracy_from == "test" else None
        share = personal.own_share
        if share is None:
            measured = score if personal.accuracy_from == "test" else scorer(self._model, client, "validation")
            share = 0.0 if measured is None or measured.accuracy is None else measured.accuracy
        values[OWN_SHARE].fill_(share)
        return score if tests else None
