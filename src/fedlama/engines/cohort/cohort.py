"""The cohort's state as stacked tensors: one (clients, ...) tensor per tensor of the model, and per solver buffer.

Client k of the cohort is row k everywhere. Rows are dense in memory, convolution kernels channels-last inside a row
where that is asked for, so that a row serves a single client's kernels and the whole stack serves batched ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlama.choices.solvers import OptimizerState
from fedlama.engines.api import CohortState, EngineSetup, Values
from fedlama.engines.cohort.averaging import set_rows
from fedlama.engines.cohort.storage import Storage
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.errors import DivergenceError


@dataclass(frozen=True)
class Share:
    """A run of neighbouring rows of the cohort, as views: what one trainer advances at a time.

    Attributes:
        clients: Who sits in these rows.
        values: Stacked tensors, (rows, ...).
        optimizer_state: Solver buffers, (rows, ...), aligned with `Cohort.names`.
        steps_done: Local steps each client has made before.
        fresh: Whether solver buffers of what is trained count as fresh, whatever lies in them.
    """

    clients: tuple[int, ...]
    values: Values
    optimizer_state: OptimizerState
    steps_done: tuple[int, ...]
    fresh: bool = False


class Cohort:
    """Holds the stacked state between rounds.

    What all rows are to be set to is only noted at first, and written when somebody is about to look: at large models a
    pass over all rows costs as much as averaging them, and what a synchronisation leaves behind is often replaced by a
    new cohort before anyone has seen it.

    Args:
        setup: The federation's fixed parts.
        storage: Where to put the stacked tensors.
        channels_last: Whether kernels of four dimensions lie channels-last within a row.
    """

    def __init__(self, setup: EngineSetup, storage: Storage, channels_last: bool) -> None:
        model, device = setup.model, setup.device
        travelling = {spec.name for layer in setup.layers for spec in layer.tensors}
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.clients: tuple[int, ...] = ()
        self._values: Values = {}
        self._optimizer_state: OptimizerState = {}
        self._due: dict[str, Tensor] = {}  # one client's value for every row, not yet written
        self._stale = 0  # solver buffers are to be fresh from this row on, but not yet written
        self._fresh: OptimizerState = {}  # one row of them
        self._setup = setup
        self._storage = storage
        self._channels_last = channels_last
        self._local = {n: b.detach().clone().to(device) for n, b in model.named_buffers() if n not in travelling}
        self._steps_done: dict[int, int] = {}
        self._helpers = WorkerThreads(cores())

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; see :meth:`fedlama.engines.api.Engine.seat`."""
        old, kept = len(self.clients), 0
        if self._setup.solver.state_scope == "slot":
            kept = min(old, len(clients))  # what never travels, and momentum, pass on with the row
        if len(clients) != old:
            self.settle()
            self._allocate(len(clients), values, kept)
        self.clients = tuple(clients)
        for name, value in self._local.items():
            self._values[name][kept:].copy_(value)
        self.overwrite(values)
        self.renew(kept)

    def overwrite(self, values: Mapping[str, Tensor]) -> None:
        """Set tensors to one value on every client."""
        self._due.update(values)

    def renew(self, first: int = 0) -> None:
        """Begin with fresh solver buffers from row `first` on."""
        self._stale = min(self._stale, first)

    def rows(self, name: str) -> Tensor:
        """Return one tensor of the model on all clients."""
        stacked = self._values[name]
        if name in self._due:
            set_rows(stacked, self._due.pop(name), self._helpers)
        return stacked

    def settle(self) -> None:
        """Write whatever is due."""
        for name in list(self._due):
            self.rows(name)
        self._renew(range(len(self.names)))
        self.trained()

    def begin(self, trained: Sequence[int]) -> None:
        """Write whatever is due, but fresh solver buffers only of what is not trained.

        Where all rows are due fresh ones, shares say so from here on, and their trainers have to begin with them.

        Args:
            trained: Positions in `names` of what is trained.
        """
        if self._stale > 0:
            self.settle()
            return
        for name in list(self._due):
            self.rows(name)
        moving = set(trained)
        self._renew([position for position in range(len(self.names)) if position not in moving])

    def trained(self) -> None:
        """Book that solver buffers are no longer due: they were written, or every client was trained."""
        self._stale = len(self.clients)

    def _renew(self, positions: Iterable[int]) -> None:
        """Write fresh solver buffers, as far as they are due."""
        if self._stale < len(self.clients):
            for kind, buffers in self._fresh.items():
                for position in positions:
                    set_rows(self._optimizer_state[kind][position][self._stale :], buffers[position], self._helpers)

    def share(self, rows: slice) -> Share:
        """Return some rows as views; what was due must have been written, by :meth:`settle` or :meth:`begin`."""
        clients, values, optimizer_state = self.clients[rows], dict(self._values), dict(self._optimizer_state)
        if len(clients) < len(self.clients):  # a view of every tensor takes a while
            values = {name: value[rows] for name, value in values.items()}
            optimizer_state = {kind: [buffer[rows] for buffer in buffers] for kind, buffers in optimizer_state.items()}
        steps_done = tuple(self._steps_done.get(client, 0) for client in clients)
        return Share(clients, values, optimizer_state, steps_done, fresh=self._stale == 0)

    def count(self, clients: Sequence[int], steps: int) -> None:
        """Book that clients have made so many local steps."""
        for client in clients:
            self._steps_done[client] = self._steps_done.get(client, 0) + steps

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        self.settle()
        row = self.clients.index(client)
        return {name: value[row].clone(memory_format=torch.contiguous_format) for name, value in self._values.items()}

    def state_dict(self) -> CohortState:
        """Return a copy of everything."""
        self.settle()
        dense = torch.contiguous_format
        optimizer_state = {
            kind: {name: b.clone(memory_format=dense) for name, b in zip(self.names, buffers, strict=True)}
            for kind, buffers in self._optimizer_state.items()
        }
        values = {name: value.clone(memory_format=dense) for name, value in self._values.items()}
        return CohortState(self.clients, values, optimizer_state, dict(self._steps_done))

    def load_state_dict(self, state: CohortState) -> None:
        """Take up what was exported."""
        local = {name: state.values[name][0] for name in self._local}
        travelling = {name: stacked[0] for name, stacked in state.values.items() if name not in local}
        self._allocate(len(state.clients), travelling, kept=0)
        self.clients, self._steps_done = state.clients, dict(state.steps_done)
        self._due, self._stale = {}, len(state.clients)
        for name, stacked in state.values.items():
            self._values[name].copy_(stacked)
        for kind, named in state.optimizer_state.items():
            for name, buffer in zip(self.names, self._optimizer_state[kind], strict=True):
                buffer.copy_(named[name])

    def _allocate(self, count: int, values: Mapping[str, Tensor], kept: int) -> None:
        before, before_memory = self._values, self._optimizer_state
        self._values = {name: self._stack(name, value, count) for name, value in {**values, **self._local}.items()}
        for name in self._local:
            self._values[name][:kept].copy_(before[name][:kept]) if kept else None
        self._fresh = self._setup.solver.init([self._values[name][0] for name in self.names])
        self._optimizer_state = {
            kind: [self._stack(f"{kind} {name}", b, count) for name, b in zip(self.names, buffers, strict=True)]
            for kind, buffers in self._fresh.items()
        }
        for kind, buffers in before_memory.items() if kept else ():
            for new, old in zip(self._optimizer_state[kind], buffers, strict=True):
                new[:kept].copy_(old[:kept])

    def _stack(self, name: str, value: Tensor, count: int) -> Tensor:
        """Make room for `count` tensors like one; its values are not copied."""
        if self._channels_last and value.dim() == 4:
            out, inner, height, width = value.shape
            dense = self._storage.empty(name, (count, out, height, width, inner), value.dtype)
            return dense.permute(0, 1, 4, 2, 3)
        return self._storage.empty(name, (count, *value.shape), value.dtype)


def find_divergence(
    setup: EngineSetup, share: Share, losses: Sequence[float], round_index: int
) -> DivergenceError | None:
    """Name the first client whose loss has left the finite numbers, and its first layer that has.

    Args:
        setup: The federation's fixed parts.
        share: The rows that were trained.
        losses: Their losses.
        round_index: The round.
    """
    for row, (client, loss) in enumerate(zip(share.clients, losses, strict=True)):
        if loss - loss == 0.0:
            continue
        for layer in setup.layers:
            for spec in layer.tensors:
                if not torch.isfinite(share.values[spec.name][row]).all():
                    return DivergenceError(round_index, client, layer.name, f"{spec.name} is not finite")
        return DivergenceError(round_index, client, setup.layers[-1].name, f"the loss is {loss}")
    return None
