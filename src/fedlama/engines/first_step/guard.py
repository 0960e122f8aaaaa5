"""The check at the first step of an engine: what it asks, in which order, and the sentences that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fedlama.choices.solvers.local_update import LocalUpdate, all_at_once
from fedlama.engines.api import EngineSetup, RoundOrder
from fedlama.engines.cohort.cohort import CohortSlice
from fedlama.engines.cohort.sizes import intra_op_threads
from fedlama.engines.first_step.batches import rehearsal
from fedlama.engines.first_step.comparison import Disagreement, compare
from fedlama.engines.first_step.hidden_state import check_hidden_state
from fedlama.engines.first_step.plain import (
    ClientStart,
    PlainClient,
    StepOutcome,
    copied_or_same,
    starts_of,
    undisturbed,
    without_warnings,
)
from fedlama.engines.trainers.base import LocalSteps, Trainer

MOST_CLIENTS = 2
"""Rows that are looked at: one client, and one more with which a trainer or a solver could mix it up."""


def check_first_step(
    setup: EngineSetup, rows: CohortSlice, order: RoundOrder, names: Sequence[str], trainer: Trainer | None = None
) -> str | None:
    """Check the first step of an engine on copies; nothing of the run is changed.

    Args:
        setup: The federation's fixed parts.
        rows: What the first clients begin with; no more than `MOST_CLIENTS` of them are looked at.
        order: The round's order. Layers that it freezes are trained here, since later rounds train them, and so
            are those that the solver trains in later steps only.
        names: All parameters that require a gradient, in the model's order.
        trainer: What is compared with plain PyTorch; None for an engine that computes plainly itself.

    Returns:
        What the trainer does wrong, as a predicate; None if it agrees, or if the plain step itself fails, which
        the run will come to.

    Raises:
        ConfigError: The model, the loss or the solver remembers something that clients would share.
    """
    rows, setup = rows.part(slice(0, MOST_CLIENTS)), replace(setup, solver=all_at_once(setup.solver))
    whole = replace(order, steps=1, client_steps={}, plan=replace(order.plan, frozen=frozenset()))
    once = replace(LocalSteps.of(setup, names, whole), rates=(1.0,))
    # One thread: on a shared machine two threads inside a kernel wait for each other, far longer than they compute.
    with rehearsal(setup.clients) as possible, undisturbed(setup.device), intra_op_threads(1):
        if not possible or not rows.clients:
            return None
        with without_warnings():
            try:
                starts = starts_of(setup, rows, once, names)
                compared = starts if trainer is not None else starts[:1]
                outcomes = [PlainClient(setup).step(start, once) for start in compared]
            except Exception:  # of the user's model, loss or data: the engine's own step says whose and why
                return None
            check_hidden_state(setup, starts, once, outcomes[0])
        if trainer is None:
            return None
        disagreement = compare(setup, trainer, rows, list(zip(starts, outcomes, strict=True)), once)
        if disagreement is None:
            return None
        return _clause(setup, disagreement, starts, outcomes, once)


def _clause(
    setup: EngineSetup,
    disagreement: Disagreement,
    starts: Sequence[ClientStart],
    outcomes: Sequence[StepOutcome],
    work: LocalSteps,
) -> str:
    model = type(setup.model).__name__
    if disagreement.tensor is None:
        return f"cannot compute the model {model} ({disagreement.reason})"
    tensor = _described(setup.model, disagreement.tensor)
    first_step = f"in the first step of client {disagreement.client}, {tensor} differs"
    if _mixes_clients(setup, starts, outcomes, work):
        solver = type(setup.solver).__name__
        return (
            f"cannot use the solver {solver}, which does not move each client of a stack by itself, as element-wise "
            f"operations and fedlama.tensor_norms do ({first_step} {disagreement.reason})"
        )
    return f"does not compute the model {model} as PyTorch does ({first_step} {disagreement.reason})"


def _described(model: nn.Module, tensor: str) -> str:
    """Name a tensor, or a solver's buffer, and the module that holds it."""
    path = tensor.rpartition(" of ")[2].rpartition(".")[0]
    try:
        module = model.get_submodule(path)
    except AttributeError:  # the loss
        return tensor
    return f"{tensor} ({type(module).__name__})" if path or module is not model else tensor


def _mixes_clients(
    setup: EngineSetup, starts: Sequence[ClientStart], outcomes: Sequence[StepOutcome], work: LocalSteps
) -> bool:
    """Return whether the solver moves a client otherwise when it is given the clients' stacked tensors."""

    def stacked(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        aligned = zip(*parts, strict=True)
        return [torch.stack([part.to_dense() if part.is_sparse else part for part in rows]) for rows in aligned]

    before = [[start.values[name] for name in work.names] for start in starts]
    parameters = stacked(before)
    state = {kind: stacked([start.optimizer_state[kind] for start in starts]) for kind in starts[0].optimizer_state}
    gradients = stacked([outcome.gradients for outcome in outcomes])
    try:
        solver = copied_or_same(setup.solver)
        update = LocalUpdate(solver, setup.trained_layers, work.names, work.shared, setup.parameter_names)
        update(parameters, gradients, state, work.rates[0], work.reference)
    except Exception:  # it may not even take stacked tensors
        return True
    for name, parameter, begun in zip(work.names, parameters, before[0], strict=True):
        alone = outcomes[0].tensors[name]
        step, apart = (alone - begun).abs().double().norm(), (parameter[0] - alone).abs().double().norm()
        rounding = 1000 * torch.finfo(alone.dtype).eps
        if apart > rounding * (step + begun.abs().double().norm()):
            return True
    return False
