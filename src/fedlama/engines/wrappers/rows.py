"""Rows of a cohort's state: taking some out, joining two states, and restarting clients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from fedlama.engines.api import CohortState, EngineSetup, Values
from fedlama.engines.cohort.kept import dropped_buffers, kept_values, without
from fedlama.engines.uploads import first_states

_Group = Callable[[CohortState], Values]
"""Finds a group of stacked tensors in a state."""


def rows_of(state: CohortState, clients: Sequence[int]) -> CohortState:
    """Return some clients of a state, as copies in the given order.

    Args:
        state: The state.
        clients: The clients to return.
    """
    rows = torch.tensor([state.clients.index(client) for client in clients], dtype=torch.int64)

    def pick(value: Tensor) -> Tensor:
        return value.index_select(0, rows.to(value.device))

    return _mapped(replace(state, clients=tuple(clients)), lambda group, name: pick(group(state)[name]))


def joined(first: CohortState, second: CohortState) -> CohortState:
    """Return the clients of two states of one federation; everything else is the first state's.

    Args:
        first: The state whose clients come first.
        second: The state whose clients follow.
    """
    both = replace(first, clients=first.clients + second.clients)
    return _mapped(both, lambda group, name: torch.cat([group(state)[name] for state in (first, second)]))


def restarted(
    state: CohortState,
    clients: Sequence[int],
    setup: EngineSetup,
    values: Mapping[str, Tensor],
) -> CohortState:
    """Let some clients of a state start again, from the complete global model with fresh buffers.

    Buffers that belong to the client for the whole run (`state_scope` ``"client"``) stay as they are, and so do its
    local layers and the head of a personal model.

    Args:
        state: The state; overwritten in place.
        clients: The clients that start again.
        setup: The parts of the federation that do not change.
        values: The complete global model.

    Returns:
        The state.
    """
    common = without(values, kept_values(setup)) | dropped_buffers(setup)
    first = first_states(setup.layers, setup.codec, setup.device)
    names = setup.parameter_names
    for row in [state.clients.index(client) for client in clients]:
        for name, stacked in state.values.items():
            if name in common:
                stacked[row] = common[name]
        fresh = setup.solver.init([state.values[name][row] for name in names])
        for kind, named in state.optimizer_state.items() if setup.solver.state_scope != "client" else ():
            for name, buffer in zip(names, fresh[kind], strict=True):
                named[name][row] = buffer
        for kind, named in state.codec_state.items():
            for name, buffer in named.items():
                buffer[row] = first[kind][name]
    return state


def _mapped(state: CohortState, make: Callable[[_Group, str], Tensor]) -> CohortState:
    """Return a state whose stacked tensors are made from what finds their group in a state, and their name."""

    def made(group: _Group) -> Values:
        return {name: make(group, name) for name in group(state)}

    return replace(
        state,
        values=made(lambda state: state.values),
        optimizer_state={kind: made(_solver(kind)) for kind in state.optimizer_state},
        codec_state={kind: made(_codec(kind)) for kind in state.codec_state},
    )


def _solver(kind: str) -> _Group:
    return lambda state: state.optimizer_state[kind]


def _codec(kind: str) -> _Group:
    return lambda state: state.codec_state[kind]
