"""Taking a run's whole state between two rounds, and putting it back, so that it goes on bit for bit.

A state is put back whole or not at all: everything in it is compared with the run first, because a checkpoint may have
been swapped for another run's, or made by somebody else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from fedlama.choices.strategies.base import LayerStatistics
from fedlama.core.records import RoundRecord
from fedlama.engines.api import CohortState
from fedlama.errors import DataError, cut
from fedlama.federation.run import Run


@dataclass(frozen=True)
class Snapshot:
    """A run between two rounds.

    Attributes:
        rounds_done: Number of rounds done.
        tensors: All tensors by name.
        facts: Everything else, as plain JSON types.
    """

    rounds_done: int
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, object]


_Groups = Mapping[str, Mapping[str, Tensor]]


def take(run: Run) -> Snapshot:
    """Take the state of a run that has done at least one round.

    Args:
        run: The run, between two rounds.

    Returns:
        Everything that the next rounds depend on; random draws need nothing but the round's number.
    """
    cohort = run.engine.state_dict()
    server = {name: buffers for name, buffers in run.server.optimizer_state.items() if buffers}
    tensors = _prefixed("global", run.values) | _prefixed("update", run.server.last_update)
    tensors |= _prefixed("client", cohort.values)
    for kind, buffers in cohort.optimizer_state.items():
        tensors |= _prefixed(f"memory/{kind}", buffers)
    for name, kinds in server.items():
        tensors |= _prefixed(f"server/{name}", kinds)
    facts = {
        "federation": _described(run),
        "strategy": TypeAdapter(type(run.state)).dump_python(run.state, mode="json"),
        "cohort": list(run.planner.cohort),
        "changed": sorted(run.planner.changed),
        "clients": list(cohort.clients),
        "steps_done": {str(client): steps for client, steps in cohort.steps_done.items()},
        "engine": dict(cohort.facts),
    }
    return Snapshot(run.round_index, tensors, facts)


def put_back(run: Run, snapshot: Snapshot, before: Iterable[RoundRecord]) -> None:
    """Put a state into a run of the same federation.

    Args:
        run: A fresh run.
        snapshot: What :func:`take` returned.
        before: The records of the rounds done, from which the ledger is rebuilt.

    Raises:
        DataError: The snapshot is of another federation, or contradicts itself; the run's own state is as before.
    """
    try:
        _put_back(run, snapshot, before)
    # What is wrong with a forged state shows in many ways, in the strategy's and the engine's code too.
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = cut(error)
        raise DataError(
            f"the checkpoint of round {snapshot.rounds_done} is not one of this run "
            f"({type(error).__name__}: {reason}); remove the run folder's checkpoints and start again"
        ) from error


def _put_back(run: Run, snapshot: Snapshot, before: Iterable[RoundRecord]) -> None:
    facts: Mapping[str, Any] = snapshot.facts
    groups = _grouped(snapshot.tensors)
    if facts["federation"] != _described(run) or not 0 < snapshot.rounds_done <= run.federation.rounds:
        raise ValueError("its settings, seed or number of rounds differ")
    state = TypeAdapter(type(run.state)).validate_python(facts["strategy"])
    cohort = _clients(run, facts["cohort"])
    changed = frozenset(facts["changed"])
    _subset(changed, {layer.name for layer in run.layers}, "a layer")
    values, update = groups.get("global", {}), groups.get("update", {})
    if values.keys() != run.values.keys():
        raise ValueError("its tensors are not those of the model")
    _check_shapes(run, values)
    _check_shapes(run, update)
    server = _pairs(groups.get("server", {}), last=True)
    for kind in {kind for kinds in server.values() for kind in kinds}:
        _check_shapes(run, {name: kinds[kind] for name, kinds in server.items()})
    _rehearse(run, state, snapshot.rounds_done)
    run.engine.load_state_dict(_cohort_state(run, facts, groups))  # the last thing that may fail
    run.round_index, run.state = snapshot.rounds_done, state
    run.planner.cohort, run.planner.changed = cohort, changed
    run.server.values = {name: values[name].to(value.device) for name, value in run.values.items()}
    run.server.last_update = {name: value.to(run.values[name].device) for name, value in update.items()}
    run.server.optimizer_state = {
        name: {kind: value.to(run.values[name].device) for kind, value in kinds.items()}
        for name, kinds in server.items()
    }
    for record in before:
        run.ledger.extend(record.transfers)


def _described(run: Run) -> dict[str, object]:
    """Tell a federation from others with the same model: its seed, budget and choices, as far as they are plain."""
    federation = run.federation
    described: dict[str, object] = {
        "seed": federation.seed,
        "local_steps": federation.local_steps,
        "clients": len(run.clients),
    }
    for section in ("strategy", "solver", "sampler", "codec", "server_optimizer"):
        choice = getattr(federation, section)
        plain = {field.name: getattr(choice, field.name) for field in (fields(choice) if is_dataclass(choice) else ())}
        numbers = {name: value for name, value in plain.items() if isinstance(value, (bool, int, float, str))}
        described[section] = {"name": choice.name, **numbers}
    return described


def _rehearse(run: Run, state: Any, round_index: int) -> None:  # noqa: ANN401  (the strategy's own)
    """See that the strategy can go on from its state; its methods are pure, so nothing comes of it."""
    strategy, names = run.federation.strategy, {layer.name for layer in run.layers}
    plan = strategy.plan(state, round_index)
    _subset(plan.upload | plan.recycle | plan.frozen, names, "a layer")
    if plan.intervals.keys() != names or not all(interval >= 1 for interval in plan.intervals.values()):
        raise ValueError("its intervals are not those of the layers")
    strategy.fold(state, plan, dict.fromkeys(plan.upload, LayerStatistics(1.0, 1.0, 1.0)))


def _cohort_state(run: Run, facts: Mapping[str, Any], groups: _Groups) -> CohortState:
    clients = _clients(run, facts["clients"])
    if sorted(clients) != sorted(facts["cohort"]):
        raise ValueError("its models are not those of its cohort")
    values, optimizer_state = groups.get("client", {}), _pairs(groups.get("memory", {}), last=False)
    if values and not run.values.keys() <= values.keys():
        raise ValueError("it lacks tensors of its clients")
    for stacked in (values, *optimizer_state.values()):
        if any(value.shape[:1] != (len(clients),) for value in stacked.values()):
            raise ValueError("its clients are not as many as it says")
        _check_shapes(run, {name: value[0] for name, value in stacked.items() if name in run.values})
    steps_done = {int(client): _whole(steps) for client, steps in facts["steps_done"].items()}
    _clients(run, list(steps_done))
    return CohortState(clients, dict(values), optimizer_state, steps_done, dict(facts["engine"]))


def _clients(run: Run, given: list[object]) -> tuple[int, ...]:
    """Read clients' numbers."""
    numbers = tuple(_whole(client) for client in given)
    _subset(numbers, range(len(run.clients)), "a client")
    if len(set(numbers)) < len(numbers):
        raise ValueError("it names a client twice")
    return numbers


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("it holds something else where a number of 0 or more belongs")
    return value


def _subset(given: Collection[object], known: Collection[object], what: str) -> None:
    if not all(one in known for one in given):
        raise ValueError(f"it names {what} that this run does not have")


def _check_shapes(run: Run, tensors: Mapping[str, Tensor]) -> None:
    """Compare tensors with those of the model."""
    for name, value in tensors.items():
        own = run.values[name]
        if (value.shape, value.dtype) != (own.shape, own.dtype):
            raise ValueError(f"its tensor {name!r} is {value.dtype} {tuple(value.shape)}, not {tuple(own.shape)}")


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        group, _, name = path.partition("/")
        groups.setdefault(group, {})[name] = value
    return groups


def _pairs(tensors: Mapping[str, Tensor], *, last: bool) -> dict[str, dict[str, Tensor]]:
    """Take ``first/second`` apart, at the last stroke or at the first one."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        first, _, second = path.rpartition("/") if last else path.partition("/")
        pairs.setdefault(first, {})[second] = value
    return pairs
