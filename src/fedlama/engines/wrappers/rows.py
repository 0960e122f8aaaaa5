"""Rows of a cohort's state: taking some out, joining two states, and restarting clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlama.engines.api import CohortState, EngineSetup, Values


def rows_of(state: CohortState, clients: Sequence[int]) -> CohortState:
    """Return some clients of a state, as copies in the given order.

    Args:
        state: The state.
        clients: The clients to return.
    """
    rows = torch.tensor([state.clients.index(client) for client in clients], dtype=torch.int64)

    def pick(value: Tensor) -> Tensor:
        return value.index_select(0, rows.to(value.device))

    return _mapped(replace(state, clients=tuple(clients)), lambda kind, name: pick(_tensor(state, kind, name)))


def joined(first: CohortState, second: CohortState) -> CohortState:
    """Return the clients of two states of one federation; everything else is the first state's.

    Args:
        first: The state whose clients come first.
        second: The state whose clients follow.
    """
    both = replace(first, clients=first.clients + second.clients)
    return _mapped(both, lambda kind, name: torch.cat([_tensor(state, kind, name) for state in (first, second)]))


def restarted(
    state: CohortState,
    clients: Sequence[int],
    setup: EngineSetup,
    values: Mapping[str, Tensor],
    local: Mapping[str, Tensor],
) -> CohortState:
    """Let some clients of a state start again, from the complete global model with fresh solver buffers.

    Args:
        state: The state; overwritten in place.
        clients: The clients that start again.
        setup: The parts of the federation that do not change.
        values: The complete global model.
        local: Initial values of the buffers that never leave a client.

    Returns:
        The state.
    """
    names = [name for name, parameter in setup.model.named_parameters() if parameter.requires_grad]
    for row in [state.clients.index(client) for client in clients]:
        for name, stacked in state.values.items():
            stacked[row] = values[name] if name in values else local[name]
        fresh = setup.solver.init([state.values[name][row] for name in names])
        for kind, named in state.optimizer_state.items():
            for name, buffer in zip(names, fresh[kind], strict=True):
                named[name][row] = buffer
    return state


def _tensor(state: CohortState, kind: str | None, name: str) -> Tensor:
    return state.values[name] if kind is None else state.optimizer_state[kind][name]


def _mapped(state: CohortState, make: Callable[[str | None, str], Tensor]) -> CohortState:
    """Return a state whose stacked tensors are made from their kind (None for the models) and their name."""
    values: Values = {name: make(None, name) for name in state.values}
    optimizer_state = {
        kind: {name: make(kind, name) for name in named} for kind, named in state.optimizer_state.items()
    }
    return replace(state, values=values, optimizer_state=optimizer_state)
