"""The state of a run between two rounds: taken whole, and loaded whole or not at all.

:meth:`fedlama.Run.state_dict` and :meth:`fedlama.Run.load_state_dict` are the way to call this module. A run that loads
a state continues bit for bit. Everything in a state is compared with the run first, because a checkpoint may be of
another run, or made by hand: the description of the federation, the names, shapes and dtypes of all tensors, and
whether the strategy can continue from its state.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from fedlama.choices.codecs import CodecState, shares_state
from fedlama.choices.strategies.base import LayerStatistics
from fedlama.core.layers import Layers
from fedlama.core.ledger import Ledger
from fedlama.core.records import RoundRecord
from fedlama.core.state_dicts import join, split
from fedlama.data.clients import ClientSource
from fedlama.engines.api import LOCAL_VALUES, CohortState, Engine, Values
from fedlama.engines.transfers import TransferPlanner
from fedlama.engines.uploads import first_states
from fedlama.errors import DataError, cut
from fedlama.federation.server import Server
from fedlama.federation.settings import FederationSettings
from fedlama.federation.stopping import BestModel
from fedlama.federation.stored_description import shown_differences
from fedlama.federation.strategy_state import restore_state, store_state


@dataclass(frozen=True)
class Snapshot:
    """The state of a run between two rounds.

    Attributes:
        rounds_done: Number of rounds done.
        tensors: All tensors, by names such as ``"global/fc.weight"``.
        facts: Everything else as plain JSON types, the federation's description included.
    """

    rounds_done: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object]


class RunState(Protocol):
    """What a run holds between rounds; :class:`fedlama.Run` is one."""

    federation: FederationSettings
    clients: ClientSource
    layers: Layers
    planner: TransferPlanner
    engine: Engine
    server: Server
    state: Any
    ledger: Ledger
    round_index: int
    best: BestModel | None


_Groups = Mapping[str, Mapping[str, Tensor]]


def take_state(run: RunState, description: Mapping[str, object]) -> Snapshot:
    """Return the state of a run that has done at least one round.

    Args:
        run: The run, between two rounds.
        description: The federation's description.

    Returns:
        Everything that the next rounds depend on; random draws depend on the round's number alone.
    """
    cohort, server = run.engine.state_dict(), run.server
    tensors = join({"global": server.values, "update": server.last_update, "client": cohort.values})
    kept = {  # copies: a server optimizer changes its buffers in place
        name: {kind: value.clone() for kind, value in kinds.items()} for name, kinds in server.optimizer_state.items()
    }
    tensors |= join({"memory": join(cohort.optimizer_state), "server": join(kept)})
    tensors |= join({"codec": join(cohort.codec_state), "sent": join(server.downloads.state)})
    tensors |= join({"coded": {name: _as_tensor(data) for name, data in server.downloads.coded.items()}})
    tensors |= join({"inactive": join({str(client): join(kinds) for client, kinds in cohort.inactive.items()})})
    facts = {
        "federation": dict(description),
        "strategy": store_state(run.federation.strategy, run.state),
        "cohort": list(run.planner.cohort),
        "changed": sorted(run.planner.changed),
        "clients": list(cohort.clients),
        "steps_done": {str(client): steps for client, steps in cohort.steps_done.items()},
        "engine": dict(cohort.facts),
    }
    if run.planner.losses:
        facts["losses"] = {str(client): loss for client, loss in run.planner.losses.items()}
    if run.best is not None:
        tensors, facts = tensors | join({"best": run.best.values}), {**facts, "best": run.best.to_json()}
    return Snapshot(run.round_index, tensors, facts)


def load_state(run: RunState, snapshot: Snapshot, before: Iterable[RoundRecord]) -> None:
    """Load a state into a run of the same federation.

    Args:
        run: A fresh run.
        snapshot: What :func:`take_state` returned.
        before: The records of the rounds done, from which the ledger is rebuilt.

    Raises:
        DataError: The snapshot is of another federation, or contradicts itself; the run's own state is as before.
    """
    try:
        _load(run, snapshot, before)
    # A forged state fails in many ways, in the strategy's and the engine's code too.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = cut(error, 600)
        raise DataError(
            f"the checkpoint of round {snapshot.rounds_done} is not one of this run "
            f"({type(error).__name__}: {reason}); give the run the settings of the checkpoint, or remove the run "
            "folder's checkpoints and start again"
        ) from error


def _load(run: RunState, snapshot: Snapshot, before: Iterable[RoundRecord]) -> None:
    facts: Mapping[str, Any] = snapshot.facts
    _check_federation(run, snapshot)
    groups = split(snapshot.tensors)
    state = restore_state(run.federation.strategy, run.state, facts["strategy"])
    cohort = _clients(run, facts["cohort"])
    changed = frozenset(facts["changed"])
    sent = {layer.name for layer in run.planner.sent}
    _check_known(changed, sent, "a layer")
    losses = {int(client): _finite(loss) for client, loss in facts.get("losses", {}).items()}
    _clients(run, list(losses))
    current, values, update = run.server.values, groups.get("global", {}), groups.get("update", {})
    if values.keys() != current.keys():
        raise ValueError("its tensors are not those of the model")
    _check_tensors(run, values)
    _check_tensors(run, update)
    server = split(groups.get("server", {}), at_last=True)
    for name, kinds in server.items():
        expected = run.server.buffer_like(name)
        if expected is not None:
            for value in kinds.values():
                _check_like(value, expected, name)
    states = _download_state(run, groups)
    coded = {name: bytes(value.numpy()) for name, value in groups.get("coded", {}).items()}
    _check_known(coded, sent, "a layer")
    _check_strategy(run, state, snapshot.rounds_done)
    records = list(before)
    best = _best(run, facts, groups, records)
    run.engine.load_state_dict(_cohort_state(run, facts, groups))  # the last thing that may fail
    run.round_index, run.state, run.best = snapshot.rounds_done, state, best
    run.planner.cohort, run.planner.changed, run.planner.losses = cohort, changed, losses
    run.server.values = {name: values[name].to(value.device) for name, value in current.items()}
    run.server.last_update = {name: value.to(current[name].device) for name, value in update.items()}
    run.server.optimizer_state = {
        name: {kind: value.to(current[name].device) for kind, value in kinds.items()} for name, kinds in server.items()
    }
    run.server.downloads.state, run.server.downloads.coded = states, coded
    for record in records:
        run.ledger.extend(record.transfers)


def _best(run: RunState, facts: Mapping[str, Any], groups: _Groups, records: list[RoundRecord]) -> BestModel | None:
    """Return the best model so far; None without a validation set."""
    if run.best is None:
        return None
    values = groups.get("best", {})
    _check_tensors(run, values)
    if values and values.keys() != run.server.values.keys():
        raise ValueError("the tensors of its best model are not those of the model")
    best = BestModel(run.federation.early_stopping)
    on_device = {name: value.to(run.server.values[name].device) for name, value in values.items()}
    best.load(facts["best"], on_device, records)
    return best


def _check_federation(run: RunState, snapshot: Snapshot) -> None:
    """Compare the description and the number of rounds with those of the run."""
    facts: Mapping[str, Any] = snapshot.facts
    changed = run.federation.differences(facts["federation"])
    if changed:
        raise ValueError(f"it is of another federation: {shown_differences(changed)}")
    rounds = run.federation.budget.rounds
    if not 0 < snapshot.rounds_done <= rounds:
        raise ValueError(f"its number of rounds is {snapshot.rounds_done}, expected 1 to {rounds}")


def _check_strategy(run: RunState, state: Any, round_index: int) -> None:  # noqa: ANN401  (the strategy's own)
    """Let the strategy plan and fold one round from its state; its methods are pure, so this changes nothing."""
    strategy, names = run.federation.strategy, {layer.name for layer in run.layers}
    plan = strategy.plan(state, round_index)
    _check_known(plan.upload | plan.recycle | plan.frozen, names, "a layer")
    if plan.intervals.keys() != names or not all(interval >= 1 for interval in plan.intervals.values()):
        raise ValueError("its intervals are not those of the layers")
    strategy.fold(state, plan, dict.fromkeys(plan.upload, LayerStatistics(1.0, 1.0, 1.0)))


def _cohort_state(run: RunState, facts: Mapping[str, Any], groups: _Groups) -> CohortState:
    clients = _clients(run, facts["clients"])
    if sorted(clients) != sorted(facts["cohort"]):
        raise ValueError("its models are not those of its cohort")
    values, optimizer_state = groups.get("client", {}), split(groups.get("memory", {}))
    known, personal = run.server.local | run.server.values | run.server.kept, run.server.kept.keys()
    if values and not run.server.values.keys() | personal <= values.keys():
        raise ValueError("it lacks tensors of its clients")
    for stacked in (values, *optimizer_state.values()):
        if any(value.shape[:1] != (len(clients),) for value in stacked.values()):
            raise ValueError("its tensors hold another number of clients than it names")
    for name, value in values.items():
        if name in known:
            _check_like(value[0], known[name], name)
    _check_buffers(run, optimizer_state)
    inactive = {int(client): split(buffers) for client, buffers in sorted(split(groups.get("inactive", {})).items())}
    if set(_clients(run, list(inactive))) & set(clients):
        raise ValueError("it keeps buffers of a client apart that is in its cohort")
    for kinds in inactive.values():
        kept = kinds.get(LOCAL_VALUES, {})
        if kept.keys() != personal:
            raise ValueError("it lacks values that a client outside of its cohort keeps")
        for name, value in kept.items():
            _check_like(value, run.server.kept[name], name)
        buffers = {kind: named for kind, named in kinds.items() if kind != LOCAL_VALUES}
        _check_buffers(run, split({name: buffer.unsqueeze(0) for name, buffer in join(buffers).items()}))
    steps_done = {int(client): _whole(steps) for client, steps in facts["steps_done"].items()}
    _clients(run, list(steps_done))
    shared = shares_state(run.federation.codec)  # then a server that holds no models keeps the states too
    codec_state = _codec_state(run, groups, len(clients)) if values or shared else {}
    return CohortState(clients, dict(values), optimizer_state, steps_done, dict(facts["engine"]), codec_state, inactive)


def _codec_state(run: RunState, groups: _Groups, clients: int) -> dict[str, Values]:
    """Return the states of the codec of uploads, stacked."""
    stored = split(groups.get("codec", {}))
    first = first_states(run.layers, run.federation.codec_in_force(), torch.device("cpu"))
    if {kind: named.keys() for kind, named in stored.items()} != {kind: n.keys() for kind, n in first.items()}:
        raise ValueError("its states of the codec are not those of this run's codec")
    for kind, named in stored.items():
        for name, value in named.items():
            _check_like(value, first[kind][name].expand(clients, *first[kind][name].shape), name)
    return stored


def _download_state(run: RunState, groups: _Groups) -> dict[str, CodecState]:
    """Return the states of the codec of downloads, each on its device."""
    current, stored = run.server.downloads.state, split(groups.get("sent", {}), at_last=True)
    if {name: state.keys() for name, state in stored.items()} != {name: s.keys() for name, s in current.items()}:
        raise ValueError("its states of the codec of downloads are not those of this run's codec")
    states: dict[str, CodecState] = {}
    for name, state in stored.items():
        for kind, value in state.items():
            _check_like(value, current[name][kind], name)
        states[name] = {kind: value.to(current[name][kind].device) for kind, value in state.items()}
    return states


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)


def _check_buffers(run: RunState, optimizer_state: _Groups) -> None:
    """Compare solver buffers, (clients, ...) by kind and parameter, with those that the solver makes."""
    if not optimizer_state:
        return
    trained = run.federation.trained_labelling()
    names = [spec.name for layer in trained for spec in layer.tensors if spec.trainable]
    known = run.server.local | run.server.values
    fresh = run.federation.solver.init([known[name] for name in names])
    for kind, stacked in optimizer_state.items():
        if kind not in fresh or stacked.keys() != set(names):
            raise ValueError("its solver buffers are not those of this solver")
        expected = dict(zip(names, fresh[kind], strict=True))
        for name, value in stacked.items():
            if (value.shape[1:], value.dtype) != (expected[name].shape, expected[name].dtype):
                raise ValueError(f"its solver buffer {kind!r} of {name!r} has another shape or dtype")


def _clients(run: RunState, given: list[object]) -> tuple[int, ...]:
    """Check clients' numbers."""
    numbers = tuple(_whole(client) for client in given)
    _check_known(numbers, range(len(run.clients)), "a client")
    if len(set(numbers)) < len(numbers):
        raise ValueError("it names a client twice")
    return numbers


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("it holds something else in place of a whole number of 0 or more")
    return value


def _finite(value: object) -> float:
    if not isinstance(value, float | int) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError("it holds something else in place of a finite number")
    return float(value)


def _check_known(given: Collection[object], known: Collection[object], what: str) -> None:
    if not all(name in known for name in given):
        raise ValueError(f"it names {what} that this run does not have")


def _check_tensors(run: RunState, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with those of the model."""
    for name, value in tensors.items():
        _check_like(value, run.server.values[name], name)


def _check_like(value: Tensor, expected: Tensor, name: str) -> None:
    """Compare a tensor's shape and dtype with those of another one."""
    if (value.shape, value.dtype) != (expected.shape, expected.dtype):
        raise ValueError(f"its tensor {name!r} is {value.dtype} {tuple(value.shape)}, expected {tuple(expected.shape)}")
