"""The contract of local solvers: how a client turns gradients into steps.

A solver works on plain lists of tensors and uses element-wise operations only. So one object serves an engine that
holds one client's tensors and an engine that holds a whole cohort's, stacked along a leading dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Protocol

from torch import Tensor

OptimizerState = dict[str, list[Tensor]]
"""Buffers that live as long as a client's local model, such as momentum; each list is aligned with the parameters."""

StateScope = Literal["cohort", "slot", "round"]
"""How long buffers live. "cohort": a client keeps its own while its cohort lasts and begins with zeros when it joins.
"slot": as in the authors' program they stay in the cohort's slot and pass to the next client that is drawn into it.
"round": zeros at each round."""


class LocalSolver(Protocol):
    """Advances a client's parameters in place."""

    name: ClassVar[str]

    @property
    def state_scope(self) -> StateScope:
        """How long buffers live."""

    @property
    def uses_reference(self) -> bool:
        """Whether :meth:`step` needs the last synchronised global values."""

    def rate(self, step: int) -> float:
        """Learning rate of a local iteration, counted from 0 over the whole run (the paper's k - 1)."""

    def init(self, parameters: Sequence[Tensor]) -> OptimizerState:
        """Return fresh buffers for these parameters; they depend on the shapes alone, so one client's serve all."""

    def step(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        optimizer_state: OptimizerState,
        rate: float,
        decayed: Sequence[bool],
        reference: Sequence[Tensor],
    ) -> None:
        """Take one step in place.

        Args:
            parameters: What to move.
            gradients: Gradients of the loss, aligned with `parameters`; may be overwritten.
            optimizer_state: Buffers, aligned with `parameters`; updated in place.
            rate: Learning rate of this step.
            decayed: Per parameter, False for those of normalisation modules.
            reference: Last synchronised global values; empty unless :attr:`uses_reference`.
        """
