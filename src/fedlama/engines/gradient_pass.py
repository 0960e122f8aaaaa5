"""A pass over all of a client's data that adds up gradients, before its local steps; for solvers that ask for it.

The gradients of the batches of a client's first epoch, at the model with which the round begins, are added up with the
batches' shares of the samples. A batch that repeats samples, or one that a short epoch drops, counts as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlama.choices.solvers import LocalSolver, OptimizerState
from fedlama.choices.solvers.local_update import LocalUpdate
from fedlama.choices.solvers.options import NO_CLIPPING
from fedlama.core.local_work import epoch_of
from fedlama.core.trees import leaves
from fedlama.data.clients import as_batch
from fedlama.engines.api import EngineSetup
from fedlama.engines.trainers.base import LocalSteps


def gradient_kind(solver: LocalSolver) -> str | None:
    """Return the kind of buffers that a solver wants to hold full gradients; None for most solvers."""
    kind: str | None = getattr(solver, "gradient_pass", None)
    return kind


class _GradientSum(LocalUpdate):
    """Adds gradients to buffers in place of a step.

    Args:
        setup: The federation's fixed parts.
        names: The parameters that are trained.
        kind: The buffers' kind.
    """

    def __init__(self, setup: EngineSetup, names: Sequence[str], kind: str) -> None:
        super().__init__(setup.solver, setup.trained_layers, names)
        self._clipping, self._clips = NO_CLIPPING, False  # clipping is of steps, and this is none
        self._kind = kind

    def _step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        reference: Sequence[Tensor],
    ) -> None:
        torch._foreach_add_(optimizer_state[self._kind], list(gradients), alpha=rate)


class GradientPass:
    """Makes the steps of such passes, and remembers what they have in common.

    Args:
        setup: The federation's fixed parts; its solver asks for a pass.
        kind: What :func:`gradient_kind` returned.
    """

    def __init__(self, setup: EngineSetup, kind: str) -> None:
        self._setup, self.kind = setup, kind
        self._shares: dict[int, tuple[float, ...]] = {}
        self._sums: dict[tuple[str, ...], _GradientSum] = {}

    def steps(self, client: int, work: LocalSteps) -> LocalSteps:
        """Return the steps of a client's pass: the share of each batch takes the place of the learning rate.

        Args:
            client: The client; its data begin with step 0.
            work: The round's local steps.
        """
        if work.names not in self._sums:
            self._sums[work.names] = _GradientSum(self._setup, work.names, self.kind)
        shares = self._shares_of(client)
        return replace(work, steps=len(shares), rates=shares, update=self._sums[work.names])

    def _shares_of(self, client: int) -> tuple[float, ...]:
        if client not in self._shares:
            source, seed = self._setup.clients, self._setup.seed
            batches = (source.batch(client, step, seed) for step in range(epoch_of(source, client)))
            sizes = [len(next(iter(leaves(as_batch(batch))))) for batch in batches]
            self._shares[client] = tuple(size / sum(sizes) for size in sizes)
        return self._shares[client]
