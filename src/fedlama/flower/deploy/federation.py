"""A whole deployment on the server's side: build or resume a federation, run it, and write its run folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fedlama.core.records import Result
from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, FedlamaError
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.federation.callbacks import Callback, RoundCallback
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run
from fedlama.federation.state import RunState
from fedlama.flower.deploy.compared import Compared, refuse_other_settings, summary_of
from fedlama.flower.deploy.fit import misfits, strategy_problems
from fedlama.flower.server.engine import Flower
from fedlama.flower.server.nodes import NodeRegistry, RemoteClients
from fedlama.flower.sites import node_keys, server_federation
from fedlama.runs import Checkpoints, RunFolder, resume_point
from fedlama.runs.autosave import take_back
from fedlama.runs.checkpoint import save_snapshot, write_atomically
from fedlama.runs.configuration import replaced_data
from fedlama.runs.earlier import refuse_replaced_data
from fedlama.runs.execute import Finished, Observer, PlannedRun, RunOptions, folder_of, run_one
from fedlama.runs.lock import FolderLock
from fedlama.runs.network_log import NAME

CLIENTS = "clients.json"
"""Name of the file in a run folder with what the nodes said of their clients when the run started."""
_LOG = logging.getLogger("fedlama.flower")


@dataclass(frozen=True)
class Continuation:
    """How a deployment goes on with what its run folder holds.

    Attributes:
        keep: Checkpoints to keep, beside the two that a resumed run needs, also after the run has finished.
        from_round: Take the run back, and compute it again from this round on; None to continue it.
        settings: The run's configuration that decides its result, of an app of the user's own; a folder with a run of
            other settings is refused.
        final: Send the final model to all clients that are online.
        server: What the server has of the keys that name data on the nodes; see :mod:`fedlama.flower.sites`.
    """

    keep: int = 0
    from_round: int | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    final: bool = False
    server: Mapping[str, str] = field(default_factory=dict)

    @property
    def callbacks(self) -> list[Callback]:
        """What is called as the run goes on."""
        return [OfferFinal()] if self.final else []


class OfferFinal(Callback):
    """Sends the final model to the clients when the run ends."""

    def on_run_start(self, run: RunState) -> None:
        """Keep the run."""
        self._run: Any = run

    def on_run_end(self, result: Result) -> None:
        """Send the global values."""
        self._run.engine.offer_final(dict(self._run.values), len(result.rounds) - 1)


class _Watching(Observer):
    """Calls callbacks of a deployment's own."""

    def __init__(self, callbacks: Sequence[RoundCallback]) -> None:
        self._callbacks = callbacks

    def watch(self, run: PlannedRun) -> AbstractContextManager[Sequence[RoundCallback]]:
        """Return the callbacks."""
        return nullcontext(self._callbacks)


_CONTINUE = Continuation()


def deploy_experiment(
    experiment: Experiment, engine: Flower, out: Path, continuation: Continuation = _CONTINUE
) -> Finished:
    """Run an experiment over a channel into its run folder; an interrupted run is resumed.

    Args:
        experiment: The experiment; its engine is replaced.
        engine: The channel and the rules; the log is written into the run folder.
        out: Folder for the run folders.
        continuation: How to go on with what the run folder holds.

    Returns:
        The finished run.

    Raises:
        ConfigError: The experiment asks for something that a deployment cannot do.
    """
    refuse(misfits(experiment, engine.aggregation))  # `flwr run` may have submitted it without `fedlama flower run`
    if node_keys(experiment):
        federation = server_federation(experiment, continuation.server)
        path = folder_of(experiment, out)
        path.mkdir(parents=True, exist_ok=True)
        known = _introduced(engine, len(federation.clients), path / CLIENTS)
        write_atomically(path / CLIENTS, json.dumps(known.to_json()).encode())
        federation = replace(federation, clients=known)
    else:
        federation = assemble(experiment, prepare(experiment))
    planned = PlannedRun.of(experiment, federation, out)
    keep, from_round = continuation.keep, continuation.from_round
    engine = replace(engine, went_back=from_round is not None)
    planned = replace(planned, federation=deployable(planned.federation, engine, planned.folder))
    options = RunOptions(out, checkpoint_seconds=0.0, history=keep, from_round=from_round)
    return run_one(planned, options, _Watching(continuation.callbacks))


def deploy_federation(
    build: Callable[[RemoteClients], Federation],
    clients: int,
    engine: Flower,
    path: Path,
    continuation: Continuation = _CONTINUE,
) -> Result:
    """Run a federation of the user's own over a channel; the nodes report how many samples their clients have.

    The numbers of samples are written into the run folder when the run starts, and stay as they are for the whole run.

    Args:
        build: Makes the federation.
        clients: Number of clients; the nodes of all of them must have been online once.
        engine: The channel and the rules; the log is written into the run folder.
        path: The run folder.
        continuation: How to go on with what the run folder holds.

    Returns:
        The result.

    Raises:
        DataError: The folder holds a run with other settings.
        FedlamaError: Clients are missing, or another server runs this federation in the folder.
    """
    with FolderLock(path) as lock:
        known = _introduced(engine, clients, path / CLIENTS)
        federation = build(known)
        engine = replace(engine, went_back=continuation.from_round is not None)
        federation = deployable(federation, engine, path)
        compared = Compared(federation, continuation.settings)
        refuse_replaced_data(path, lambda stored: replaced_data(stored, None, federation))
        refuse_other_settings(path, compared)
        if continuation.from_round is not None:
            take_back(path, continuation.from_round)
        point = resume_point(path, compared, warn=_LOG.warning)
        before = point[1] if point else []
        with RunFolder(path, compared.config, len(before), lock=lock) as folder:
            write_atomically(path / CLIENTS, json.dumps(known.to_json()).encode())
            run = Run(federation)
            if point:
                run.load_state_dict(*point)

            def save(target: Path) -> Path:
                return save_snapshot(folder.sealed(run.state_dict()), target, keep=2 + continuation.keep)

            result = run.to_end([folder, *continuation.callbacks, Checkpoints(folder, save, 0.0)], before)
            folder.finish(result, summary_of(result), keep_checkpoints=continuation.keep > 0)
    return result


def _introduced(engine: Flower, clients: int, path: Path) -> RemoteClients:
    """Return what the nodes have said of their clients, when the run started or now."""
    registry, policy = NodeRegistry(engine.channel, clients, engine.known), engine.policy
    known = RemoteClients.from_file(path, clients)
    if known is not None:
        return known
    wanted = [client for client in range(clients) if client not in engine.known.banned]
    registry.wait_for(wanted, policy.join, policy.poll)
    missing = sorted(set(wanted) - set(registry.samples))
    if missing:
        problems = f" ({'; '.join(registry.problems.values())})" if registry.problems else ""
        raise FedlamaError(
            f"after {policy.join:g} s no node serves the clients {', '.join(map(str, missing))}{problems}; start their "
            "SuperNodes, each with its own partition-id, or wait longer with join"
        )
    samples = [registry.samples.get(client, 1) for client in range(clients)]  # of a banned client nothing counts
    return RemoteClients(samples, frozenset(registry.with_test_set))


def deployable(federation: Federation, engine: Flower, path: Path) -> Federation:
    """Return the federation with its clients behind a channel.

    Args:
        federation: The federation.
        engine: The channel and the rules.
        path: The run folder, which gets the engine's log.

    Raises:
        ConfigError: The federation reads single clients' models, which stay on their machines.
    """
    if federation.evaluate != "global" or federation.keep_client_models:
        raise ConfigError(
            "a deployment cannot read single clients' models, which stay on their machines; set evaluate='global' and "
            "keep_client_models=False"
        )
    refuse(strategy_problems(federation.strategy))
    return replace(federation, engine=replace(engine, log=path / NAME))
