"""The cohort's state as stacked tensors: one (clients, ...) tensor per tensor of the model, and per optimizer buffer.

Client k of the cohort is row k everywhere. Rows are dense in memory. Where it is asked for, convolution kernels are
channels-last within a row. So a row serves the kernels of a single client, and the whole stack serves batched kernels.

**Pending values.** A pass over all rows of a large model takes as long as averaging them, and what a synchronisation
writes is often replaced by the next cohort before any client uses it. So :meth:`Cohort.overwrite` and
:meth:`Cohort.reset_optimizer_state` write nothing: they record one client's value for all rows. One rule says when it
is written: everything that reads or changes rows goes through :meth:`Cohort.stacked`, which writes the tensor it
returns, or :meth:`Cohort.flush`, which writes all of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlama.choices.codecs import CodecState
from fedlama.choices.personal import OWN_SHARE
from fedlama.choices.solvers import OptimizerState
from fedlama.choices.solvers.exchanged import exchanges_of, extra_name
from fedlama.core.layers import Layer, TensorSpec
from fedlama.engines.api import LOCAL_VALUES, CohortState, EngineSetup, Values
from fedlama.engines.cohort.averaging import set_rows
from fedlama.engines.cohort.device_averaging import DeviceSynchronisation
from fedlama.engines.cohort.device_tables import has_triton
from fedlama.engines.cohort.kept import dropped_buffers, kept_values, without
from fedlama.engines.cohort.storage import Storage
from fedlama.engines.cohort.threads import WorkerThreads, cores
from fedlama.engines.divergence import loss_divergence
from fedlama.engines.uploads import Uploads, state_of


@dataclass(frozen=True)
class CohortSlice:
    """Neighbouring rows of the cohort, as views: the clients that one trainer advances at a time.

    Attributes:
        clients: The clients in these rows.
        values: Stacked tensors of the model, (rows, ...), by name.
        optimizer_state: Stacked optimizer buffers, (rows, ...) each, by kind; every list is aligned with
            `Cohort.names`. What the solver exchanges beside the model is among them.
        steps_done: Local steps that each client has made before.
        fresh: Whether the optimizer state of trained parameters counts as fresh, whatever the buffers hold.
    """

    clients: tuple[int, ...]
    values: Values
    optimizer_state: OptimizerState
    steps_done: tuple[int, ...]
    fresh: bool = False

    def part(self, rows: slice) -> CohortSlice:
        """Return some of these rows, as views."""
        clients = self.clients[rows]
        if len(clients) == len(self.clients):  # a view of every tensor takes a while
            return self
        return CohortSlice(
            clients,
            {name: value[rows] for name, value in self.values.items()},
            {kind: [buffer[rows] for buffer in buffers] for kind, buffers in self.optimizer_state.items()},
            self.steps_done[rows],
            self.fresh,
        )


class Cohort:
    """Holds the stacked state between rounds; the module's docstring says when pending values are written.

    Args:
        setup: The federation's fixed parts.
        storage: Where stacked tensors are allocated.
        channels_last: Whether tensors of four dimensions are stored channels-last within a row.

    Attributes:
        names: Parameters that require a gradient, in the model's order; optimizer buffers are aligned with them.
        clients: The clients of the cohort, row by row.
        uploads: The codec of uploads; its states are rows here like everything else.
        synchronisation: Averages and sets many tensors together; None where there is no CUDA or no Triton.
    """

    def __init__(self, setup: EngineSetup, storage: Storage, channels_last: bool) -> None:
        self.names = setup.parameter_names
        self.clients: tuple[int, ...] = ()
        self._values: Values = {}
        self._optimizer_state: OptimizerState = {}
        self._pending: dict[str, Tensor] = {}  # one client's value for every row
        self._pending_from = 0  # the first row whose optimizer state is to become fresh; len(clients) if none is
        self._fresh: OptimizerState = {}  # one client's fresh optimizer state
        self.uploads = Uploads(setup)
        self._codec_state: dict[str, Values] = {}
        self._kinds = [exchange.kind for exchange in exchanges_of(setup.solver)]
        self._factor_names = [spec.name for layer in setup.factor_layers for spec in layer.tensors]
        self._setup = setup
        self._storage = storage
        self._channels_last = channels_last
        self._local, self._first_kept = dropped_buffers(setup), kept_values(setup)
        self._steps_done: dict[int, int] = {}
        self._inactive: dict[int, dict[str, Values]] = {}  # what clients outside of the cohort keep
        self._threads = WorkerThreads(cores())
        together = setup.device.type == "cuda" and has_triton()
        self.synchronisation = DeviceSynchronisation(self._threads) if together else None

    def start_cohort(self, clients: Sequence[int], values: Mapping[str, Tensor]) -> None:
        """Replace the cohort; see :meth:`fedlama.engines.api.Engine.start_cohort`."""
        old, kept = len(self.clients), 0
        if self._setup.solver.state_scope == "client" or self._first_kept:
            self._put_aside()
        if self._setup.solver.state_scope == "slot":
            kept = min(old, len(clients))  # rows pass on what is never synchronised, and their optimizer state
        if len(clients) != old:
            self.flush()
            self._allocate(len(clients), values, kept)
        self.clients = tuple(clients)
        for name, value in self._local.items():
            self._values[name][kept:].copy_(value)
        for name, value in self._first_kept.items():
            self._values[name].copy_(value)
        self.overwrite(without(values, self._first_kept))
        self.reset_optimizer_state(kept)
        for kind, named in self.uploads.first.items():
            for name, value in named.items():
                self._codec_state[kind][name].copy_(value)
        if self._inactive:
            self._take_back()

    def _put_aside(self) -> None:
        """Copy what every client keeps while it is not in the cohort: optimizer state, and what `kept_values` names."""
        scoped = self._setup.solver.state_scope == "client"
        if scoped:
            self.flush()
        for row, client in enumerate(self.clients):
            kept = {
                kind: {name: buffer[row].clone() for name, buffer in zip(self.names, buffers, strict=True)}
                for kind, buffers in (self._optimizer_state if scoped else {}).items()
            }
            if self._first_kept:
                kept[LOCAL_VALUES] = {name: self._kept_row(name, row) for name in self._first_kept}
            self._inactive[client] = kept

    def _kept_row(self, name: str, row: int) -> Tensor:
        """Return a copy of one client's tensor that it keeps for the whole run."""
        return self._values[name][row].clone(memory_format=torch.contiguous_format)

    def _take_back(self) -> None:
        """Give clients that were in the cohort before what they kept."""
        returning = [row for row, client in enumerate(self.clients) if client in self._inactive]
        if returning:
            self.flush()
        for row in returning:
            kept = self._inactive.pop(self.clients[row])
            for name, value in kept.get(LOCAL_VALUES, {}).items():
                self._values[name][row].copy_(value)
            for kind in kept.keys() & self._optimizer_state.keys():
                named = kept[kind]
                for name, buffer in zip(self.names, self._optimizer_state[kind], strict=True):
                    buffer[row].copy_(named[name])

    def overwrite(self, values: Mapping[str, Tensor]) -> None:
        """Set tensors to one value on every client; pending until they are used.

        Args:
            values: One client's tensors by name; they must not be changed afterwards.
        """
        self._pending.update(values)

    def reset_optimizer_state(self, first: int = 0) -> None:
        """Make the optimizer state fresh from row `first` on; pending until it is used."""
        self._pending_from = min(self._pending_from, first)

    def stacked(self, name: str) -> Tensor:
        """Return one tensor of the model on all clients, (clients, ...)."""
        stacked = self._values[name]
        if name in self._pending:
            set_rows(stacked, self._pending.pop(name), self._threads)
        return stacked

    def write_pending(self) -> None:
        """Write all values that are pending; on CUDA in one launch, where their memory order allows it."""
        if self.synchronisation is not None and self._pending:
            for name in self.synchronisation.fill(self._values, self._pending):
                del self._pending[name]
            if self._pending:
                stacks = [self._values[name] for name in self._pending]
                values = [v.expand_as(s) for s, v in zip(stacks, self._pending.values(), strict=True)]
                torch._foreach_copy_(stacks, values)
                self._pending = {}
        for name in list(self._pending):
            self.stacked(name)

    def received_layers(self, layers: Sequence[Layer]) -> Values:
        """Return the tensors of layers as the server receives them, (clients, ...) by name."""
        self.write_pending()
        return {spec.name: self.received(layer, spec) for layer in layers for spec in layer.tensors}

    def received(self, layer: Layer, spec: TensorSpec) -> Tensor:
        """Return one tensor of a layer as the server receives it from all clients, (clients, ...).

        The codec's states move on where the layer is one of the round's plan.
        """
        if self.uploads.changes_nothing:  # the usual case, without a look at states and contexts
            return self.stacked(spec.name)
        state: CodecState = state_of(self._codec_state, spec.name)
        arrived = self.uploads.receive(layer, spec, self.stacked(spec.name), self.clients, state, self._threads)
        if arrived.counts:
            for kind, value in arrived.state.items():
                self._keep_codec_state(kind, spec.name, value)
        return arrived.values

    def _keep_codec_state(self, kind: str, name: str, value: Tensor) -> None:
        """Replace a state of the codec; where stacked tensors are on a disk, it is written there."""
        if self._storage.in_memory:
            self._codec_state[kind][name] = value
        else:
            self._codec_state[kind][name].copy_(value)

    def flush(self, caller_starts: Collection[int] = ()) -> bool:
        """Write all that is pending.

        Args:
            caller_starts: Positions in `names` of parameters whose optimizer state the caller sets itself, on all rows,
                if all rows are to be fresh: it saves a pass over buffers that the first local step overwrites.

        Returns:
            Whether that is so. Then these buffers hold arbitrary numbers until the caller has set them.
        """
        self.write_pending()
        left_out = set(caller_starts) if self._pending_from == 0 else set()
        for kind, fresh in self._fresh.items() if self._pending_from < len(self.clients) else ():
            for position, buffer in enumerate(fresh):
                if position not in left_out:
                    set_rows(self._optimizer_state[kind][position][self._pending_from :], buffer, self._threads)
        self._pending_from = len(self.clients)
        return bool(left_out)

    def view(self, fresh: bool = False) -> CohortSlice:
        """Return all rows, as views; call :meth:`flush` first.

        Args:
            fresh: What :meth:`flush` returned.
        """
        steps_done = tuple(self._steps_done.get(client, 0) for client in self.clients)
        values, state = dict(self._values), dict(self._optimizer_state)
        for kind in self._kinds:
            state[kind] = [values.pop(extra_name(kind, name)) for name in self.names]
        for name in (OWN_SHARE, *self._factor_names):  # the model has no such tensors
            values.pop(name, None)
        return CohortSlice(self.clients, values, state, steps_done, fresh)

    def add(self, values: Values) -> None:
        """Keep tensors that the clients have made of their models, (clients, ...) by name, until the next cohort."""
        self._values |= values

    def count(self, clients: Sequence[int], steps: int) -> None:
        """Record that clients have made `steps` more local steps."""
        for client in clients:
            self._steps_done[client] = self._steps_done.get(client, 0) + steps

    def client_values(self, client: int) -> Values:
        """Return a copy of one client's local model."""
        self.flush()
        row = self.clients.index(client)
        return {name: value[row].clone(memory_format=torch.contiguous_format) for name, value in self._values.items()}

    def state_dict(self) -> CohortState:
        """Return a copy of everything."""
        self.flush()
        dense = torch.contiguous_format
        optimizer_state = {
            kind: {name: b.clone(memory_format=dense) for name, b in zip(self.names, buffers, strict=True)}
            for kind, buffers in self._optimizer_state.items()
        }
        values = {name: value.clone(memory_format=dense) for name, value in self._values.items()}
        codec_state = {
            kind: {name: value.clone() for name, value in named.items()} for kind, named in self._codec_state.items()
        }
        return CohortState(
            self.clients,
            values,
            optimizer_state,
            dict(self._steps_done),
            codec_state=codec_state,
            inactive=dict(self._inactive),
        )

    def load_state_dict(self, state: CohortState) -> None:
        """Load what :meth:`state_dict` returned; what was pending is dropped."""
        local = {name: state.values[name][0] for name in self._local}
        synchronised = {name: stacked[0] for name, stacked in state.values.items() if name not in local}
        self._allocate(len(state.clients), synchronised, kept=0)
        self.clients, self._steps_done = state.clients, dict(state.steps_done)
        self._inactive = {client: {k: dict(n) for k, n in kinds.items()} for client, kinds in state.inactive.items()}
        self._pending, self._pending_from = {}, len(state.clients)
        for name, stacked in state.values.items():
            self._values[name].copy_(stacked)
        for kind, named in state.optimizer_state.items():
            for name, buffer in zip(self.names, self._optimizer_state[kind], strict=True):
                buffer.copy_(named[name])
        for kind, named in self._codec_state.items():
            for name, buffer in named.items():
                buffer.copy_(state_of(state.codec_state, name).get(kind, self.uploads.first[kind][name]))

    def _allocate(self, count: int, values: Mapping[str, Tensor], kept: int) -> None:
        """Allocate stacked tensors for `count` clients, and copy what the first `kept` rows pass on."""
        old_values, old_optimizer_state = self._values, self._optimizer_state
        given = {**self._local, **self._first_kept, **values}
        self._values = {name: self._stack(name, value, count) for name, value in given.items()}
        self._fresh = self._setup.solver.init([self._values[name][0] for name in self.names])
        self._optimizer_state = {
            kind: [self._stack(f"{kind} {name}", b, count) for name, b in zip(self.names, buffers, strict=True)]
            for kind, buffers in self._fresh.items()
        }
        self._codec_state = {
            kind: {
                name: self._storage.empty(f"{kind} {name}", (count, *value.shape), value.dtype)
                for name, value in named.items()
            }
            for kind, named in self.uploads.first.items()
        }
        if kept:
            for name in self._local:
                self._values[name][:kept].copy_(old_values[name][:kept])
            for kind, buffers in old_optimizer_state.items():
                for new, old in zip(self._optimizer_state[kind], buffers, strict=True):
                    new[:kept].copy_(old[:kept])

    def _stack(self, name: str, value: Tensor, count: int) -> Tensor:
        """Allocate room for `count` tensors like `value`, whose numbers are not copied."""
        if self._channels_last and value.dim() == 4:
            out, inner, height, width = value.shape
            dense = self._storage.empty(name, (count, out, height, width, inner), value.dtype)
            return dense.permute(0, 1, 4, 2, 3)  # (clients, out, inner, height, width)
        return self._storage.empty(name, (count, *value.shape), value.dtype)


def check_losses(setup: EngineSetup, rows: CohortSlice, losses: Sequence[float], round_index: int) -> None:
    """Refuse losses that are not finite.

    Args:
        setup: The federation's fixed parts.
        rows: The clients that were trained, and their state.
        losses: Their losses.
        round_index: The round.

    Raises:
        DivergenceError: Some loss is not finite. It names the first such client, and the first of its layers that is
            not finite.
    """
    for row, (client, loss) in enumerate(zip(rows.clients, losses, strict=True)):
        if math.isfinite(loss):
            continue
        values = {name: stacked[row] for name, stacked in rows.values.items()}
        raise loss_divergence(setup.trained_layers, round_index, client, values, loss)
