"""Taking a run's whole state between two rounds, and putting it back, so that it goes on bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter
from torch import Tensor

from fedlama.checkpoint import Snapshot
from fedlama.engines.base import CohortState
from fedlama.federation import Run
from fedlama.records import RoundRecord


def take(run: Run) -> Snapshot:
    """Take the state of a run that has done at least one round.

    Args:
        run: The run, between two rounds.

    Returns:
        Everything that the next rounds depend on; random draws need nothing but the round's number.
    """
    cohort = run.engine.export()
    server = {name: buffers for name, buffers in run.server_memory.items() if buffers}
    tensors = _prefixed("global", run.values) | _prefixed("update", run.last_update)
    tensors |= _prefixed("client", cohort.values)
    for kind, buffers in cohort.memory.items():
        tensors |= _prefixed(f"memory/{kind}", buffers)
    for name, kinds in server.items():
        tensors |= _prefixed(f"server/{name}", kinds)
    facts = {
        "strategy": TypeAdapter(type(run.state)).dump_python(run.state, mode="json"),
        "cohort": list(run.traffic.cohort),
        "changed": sorted(run.traffic.changed),
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
        KeyError: The snapshot is of another federation.
    """
    facts: Mapping[str, Any] = snapshot.facts
    tensors = _grouped(snapshot.tensors)
    run.round_index = snapshot.rounds_done
    run.state = TypeAdapter(type(run.state)).validate_python(facts["strategy"])
    run.traffic.cohort = tuple(facts["cohort"])
    run.traffic.changed = frozenset(facts["changed"])
    run.values = {name: tensors["global"][name].to(value.device) for name, value in run.values.items()}
    run.last_update = {name: value.to(run.values[name].device) for name, value in tensors.get("update", {}).items()}
    for record in before:
        run.ledger.extend(record.shipments)
    memory: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.get("memory", {}).items():
        kind, _, name = path.partition("/")
        memory.setdefault(kind, {})[name] = value
    for path, value in tensors.get("server", {}).items():
        name, _, kind = path.rpartition("/")
        run.server_memory.setdefault(name, {})[kind] = value.to(run.values[name].device)
    steps_done = {int(client): steps for client, steps in facts["steps_done"].items()}
    clients, values = tuple(facts["clients"]), tensors.get("client", {})
    run.engine.adopt(CohortState(clients, values, memory, steps_done, facts.get("engine", {})))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": value for name, value in tensors.items()}


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {}
    for path, value in tensors.items():
        group, _, name = path.partition("/")
        groups.setdefault(group, {})[name] = value
    return groups
