"""A whole deployment on the server's side: build, resume, run, and leave a run folder behind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlama.core.records import Result
from fedlama.errors import ConfigError, FedlamaError
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.federation.federation import Federation, Run
from fedlama.federation.state import put_back, take
from fedlama.flower.policy import Patience
from fedlama.flower.server.aggregation import Aggregation
from fedlama.flower.server.clients import RemoteClients
from fedlama.flower.server.engine import Flower
from fedlama.flower.server.nodes import Roster
from fedlama.flower.transport import Channel
from fedlama.runs import Checkpoints, RunFolder, resume_point
from fedlama.runs.checkpoint import save_snapshot
from fedlama.runs.execute import Finished, folder_of, in_force, run_one
from fedlama.runs.network_log import NAME

_LOG = logging.getLogger("fedlama.flower")


def deploy_experiment(
    experiment: Experiment, channel: Channel, out: Path, patience: Patience, aggregation: Aggregation = "models"
) -> Finished:
    """Run an experiment over a channel into its run folder, from where an interrupted run of it stopped.

    Args:
        experiment: The experiment; its engine is replaced.
        channel: How the nodes are reached.
        out: Folder for the run folders.
        patience: The rules of waiting.
        aggregation: See :class:`fedlama.flower.Flower`.

    Returns:
        The finished run.
    """
    path = folder_of(experiment, out)
    federation = assemble(experiment, prepare(experiment))
    federation = deployable(federation, Flower(channel, patience, aggregation, path / NAME))
    with alone(path):
        return run_one(experiment, federation, experiment.strategy.base_interval, out, checkpoint_seconds=0.0)


def deploy_federation(
    build: Callable[[RemoteClients], Federation], clients: int, channel: Channel, path: Path, patience: Patience
) -> Result:
    """Run a federation of the user's own over a channel; the clients say how many samples they have.

    Args:
        build: Makes the federation.
        clients: Number of clients; all of them must introduce themselves first.
        channel: How the nodes are reached.
        path: The run folder.
        patience: The rules of waiting.

    Returns:
        The result.

    Raises:
        FedlamaError: Clients are missing.
    """
    roster = Roster(channel, clients)
    roster.gather(range(clients), patience.join, patience.poll)
    missing = sorted(set(range(clients)) - set(roster.samples))
    if missing:
        raise FedlamaError(
            f"after {patience.join:g} s the clients {', '.join(map(str, missing))} have not introduced themselves; "
            "start their SuperNodes, each with its own partition-id, or wait longer with join"
        )
    federation = build(RemoteClients([roster.samples[client] for client in range(clients)]))
    federation = deployable(federation, Flower(channel, patience, log=path / NAME))
    config: Mapping[str, Any] = {"seed": federation.seed, **in_force(federation)}
    with alone(path):
        found = resume_point(path, config, warn=_LOG.warning)
        before = found[1] if found else []
        with RunFolder(path, config, len(before)) as folder:
            run = Run(federation)
            if found:
                put_back(run, *found)
            saving = Checkpoints(folder, lambda target: save_snapshot(take(run), target), 0.0, lambda: False)
            result = run.to_end([folder, saving], before)
            folder.finish(result, {"method": result.method, "rounds": len(result.rounds)})
    return result


def deployable(federation: Federation, engine: Flower) -> Federation:
    """Put a federation behind a channel.

    Raises:
        ConfigError: It asks to look at single clients' models, which stay with them.
    """
    if federation.evaluate != "global" or federation.keep_client_models:
        raise ConfigError(
            "a deployment cannot look at single clients' models, they stay with them; set evaluate='global' and "
            "keep_client_models=False"
        )
    return replace(federation, engine=engine)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one server at a time work in a run folder.

    Raises:
        FedlamaError: Another one does.
    """
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    with (path / ".server.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FedlamaError(
                f"another server is running this very experiment in {path}; wait for it, or stop it with `flwr stop`"
            ) from error
        yield
