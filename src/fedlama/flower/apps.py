"""Flower's two apps, made from an experiment or from a user's own model and training function."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedlama.engines.api import EngineSetup
from fedlama.experiment import assemble, prepare
from fedlama.federation.federation import Federation
from fedlama.flower.client.respond import respond
from fedlama.flower.client.state import forget_old
from fedlama.flower.client.trainer import Local, LoopLocal
from fedlama.flower.protocol import NEVER, Introduction
from fedlama.flower.server.clients import RemoteClients
from fedlama.flower.settings import (
    DEFAULTS,
    aggregation_of,
    client_number,
    experiment_of,
    patience_of,
    state_folder,
    state_name,
)
from fedlama.flower.transport import GridChannel, answer_records, flower, introduction_records, read_order

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

MakeLocal = Callable[[int, Mapping[str, Any]], Local]
"""Makes a client's model and data from its number and the run's configuration."""
Build = Callable[[RemoteClients, Mapping[str, Any]], Federation]
"""Makes the federation from the clients and the run's configuration."""


def server_app(build: Build | None = None, *, clients: int = 0, config: Mapping[str, Any] | None = None) -> ServerApp:
    """Return a ServerApp.

    Args:
        build: Makes a federation of the user's own; by default the run's experiment is built.
        clients: Number of clients, for a federation of the user's own.
        config: What holds where the run's configuration says nothing; see :mod:`fedlama.flower.settings`.
    """
    app: ServerApp = flower("serverapp").ServerApp()
    base = {**DEFAULTS, **(config or {})}

    def main(grid: Grid, context: Context) -> None:
        # Not at the top: every order starts a new client process, which has no use for what the server imports.
        from fedlama.flower.deploy.federation import deploy_experiment, deploy_federation

        logging.getLogger("fedlama.flower").setLevel(logging.INFO)
        given = {**base, **context.run_config}
        channel, patience, out = GridChannel(grid), patience_of(given), Path(str(given["out"]))
        if build is None:
            finished = deploy_experiment(experiment_of(given), channel, out, patience, aggregation_of(given))
            print(f"fedlama: finished; the run folder is {finished.summary['run_folder']}")
        else:
            deploy_federation(lambda remote: build(remote, given), clients, channel, out, patience)
            print(f"fedlama: finished; the run folder is {out}")

    app.main()(main)
    return app


def client_app(
    make: MakeLocal | None = None, *, name: str = "own", config: Mapping[str, Any] | None = None
) -> ClientApp:
    """Return a ClientApp that keeps its model between rounds in a file of its own.

    Args:
        make: Makes the client's model and data; by default those of the run's experiment.
        name: Names the folder of the clients' states, for a federation of the user's own.
        config: What holds where the run's configuration says nothing; see :mod:`fedlama.flower.settings`.
    """
    app: ClientApp = flower("clientapp").ClientApp()
    base = {**DEFAULTS, **(config or {})}

    def local_of(context: Context) -> tuple[int, Local]:
        client, given = client_number(context.node_config), {**base, **context.run_config}
        return client, make(client, given) if make else experiment_client(client, str(given["experiment"]))

    def introduce(message: Message, context: Context) -> Message:
        client, local = local_of(context)
        return _reply(message, introduction_records(Introduction(client, local.samples)))

    def train(message: Message, context: Context) -> Message:
        client, local = local_of(context)
        given = {**base, **context.run_config}
        root, order = state_folder(context.node_config, given), read_order(message.content)
        folder = root / (name if make else state_name(given))
        answer = respond(order, local, folder / f"client-{client}.safetensors")
        if order.expected == NEVER:  # once in a while
            forget_old(root)
        return _reply(message, answer_records(answer))

    app.query()(introduce)
    app.train()(train)
    return app


def _reply(message: Message, records: RecordDict) -> Message:
    reply: Message = flower("app").Message(records, reply_to=message)
    return reply


@lru_cache(maxsize=4)
def experiment_client(client: int, text: str) -> Local:
    """Return a client of an experiment: its rows of the data, the model and the solver.

    Args:
        client: The client's number.
        text: The run's ``experiment``.
    """
    experiment = experiment_of({"experiment": text})
    federation = assemble(experiment, prepare(experiment))
    layers, clients = federation.layers, federation.clients
    if layers is None or isinstance(clients, list | tuple):
        raise TypeError("an assembled experiment has layers and a client source")
    device = torch.device(federation.device)
    setup = EngineSetup(
        federation.model,
        layers,
        clients,  # type: ignore[arg-type]
        federation.solver,
        federation.codec,
        federation.objective,
        federation.seed,
        device,
    )
    return LoopLocal(setup, client)
