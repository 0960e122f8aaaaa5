"""A whole deployment on the server's side: build or resume a federation, run it, and write its run folder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from fedlama.core.records import Result
from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, FedlamaError
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.federation.federation import Federation
from fedlama.federation.run import Run
from fedlama.flower.deploy.submit import misfits
from fedlama.flower.server.engine import Flower
from fedlama.flower.server.nodes import NodeRegistry, RemoteClients
from fedlama.runs import Checkpoints, RunFolder, resume_point
from fedlama.runs.checkpoint import save_snapshot
from fedlama.runs.configuration import federation_differences, in_force, provenance, replaced_data
from fedlama.runs.earlier import refuse_replaced_data
from fedlama.runs.execute import Finished, PlannedRun, RunOptions, run_one
from fedlama.runs.folder import decision_keys
from fedlama.runs.lock import FolderLock
from fedlama.runs.network_log import NAME
from fedlama.runs.reader import Config, stored_description

_LOG = logging.getLogger("fedlama.flower")


def deploy_experiment(experiment: Experiment, engine: Flower, out: Path) -> Finished:
    """Run an experiment over a channel into its run folder; an interrupted run is resumed.

    Args:
        experiment: The experiment; its engine is replaced.
        engine: The channel and the rules; the log is written into the run folder.
        out: Folder for the run folders.

    Returns:
        The finished run.

    Raises:
        ConfigError: The experiment asks for something that a deployment cannot do.
    """
    refuse(misfits(experiment))  # `flwr run` may have submitted it without `fedlama flower run`
    planned = PlannedRun.of(experiment, assemble(experiment, prepare(experiment)), out)
    planned = replace(planned, federation=deployable(planned.federation, engine, planned.folder))
    return run_one(planned, RunOptions(out, checkpoint_seconds=0.0))


def deploy_federation(build: Callable[[RemoteClients], Federation], clients: int, engine: Flower, path: Path) -> Result:
    """Run a federation of the user's own over a channel; the nodes report how many samples their clients have.

    Args:
        build: Makes the federation.
        clients: Number of clients; the nodes of all of them must be online first.
        engine: The channel and the rules; the log is written into the run folder.
        path: The run folder.

    Returns:
        The result.

    Raises:
        FedlamaError: Clients are missing, or another server runs this federation in the folder.
    """
    registry, policy = NodeRegistry(engine.channel, clients), engine.policy
    registry.wait_for(range(clients), policy.join, policy.poll)
    missing = sorted(set(range(clients)) - set(registry.samples))
    if missing:
        problems = f" ({'; '.join(registry.problems.values())})" if registry.problems else ""
        raise FedlamaError(
            f"after {policy.join:g} s no node serves the clients {', '.join(map(str, missing))}{problems}; start their "
            "SuperNodes, each with its own partition-id, or wait longer with join"
        )
    samples = [registry.samples[client] for client in range(clients)]
    federation = build(RemoteClients(samples, frozenset(registry.with_test_set)))
    federation = deployable(federation, engine, path)
    config = {"seed": federation.seed, **in_force(federation)}

    with FolderLock(path) as lock:
        refuse_replaced_data(path, lambda stored: replaced_data(stored, None, federation))
        point = resume_point(path, _Compared(federation), warn=_LOG.warning)
        before = point[1] if point else []
        with RunFolder(path, config, len(before), lock=lock) as folder:
            run = Run(federation)
            if point:
                run.load_state_dict(*point)
            saving = Checkpoints(folder, lambda at: save_snapshot(folder.sealed(run.state_dict()), at), 0.0)
            result = run.to_end([folder, saving], before)
            folder.finish(result, {"method": result.method, "rounds": len(result.rounds), **decision_keys(result)})
    return result


@dataclass(frozen=True)
class _Compared:
    """Compares a stored configuration with a federation of the user's own.

    Attributes:
        federation: The federation.
    """

    federation: Federation

    def differences(self, stored: Config) -> list[str]:
        """Return what differs, one clause each."""
        return federation_differences(stored_description(stored), self.federation)

    def provenance(self, stored: Config) -> list[str]:
        """Return what a user has to know of the stored run, one sentence each."""
        return provenance(stored, self.federation)


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
    if getattr(federation.strategy, "is_central", False):
        raise ConfigError(
            f"strategy is {federation.strategy.name!r}, which trains on the pooled data of all clients, but in a "
            "deployment these stay on their machines; choose another strategy"
        )
    return replace(federation, engine=replace(engine, log=path / NAME))
