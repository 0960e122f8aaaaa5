"""Flower's two apps: of an experiment, or of the user's own model and training function.

An app of the user's own imports all that it needs from here::

    from fedlama.flower.apps import FunctionTrainer, LocalRound, RemoteClients, client_app, server_app
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlama.core.paths import expanded
from fedlama.errors import FedlamaError
from fedlama.experiment import assemble, prepare
from fedlama.experiment.loading import described
from fedlama.federation.federation import Federation
from fedlama.flower.client.function import FunctionTrainer
from fedlama.flower.client.respond import evaluate, refusal, respond
from fedlama.flower.client.state import forget_old
from fedlama.flower.client.trainer import ClientTrainer, LocalRound, LoopTrainer
from fedlama.flower.protocol import NEVER, ClientInfo, EvaluateReply, SecureReply
from fedlama.flower.server.nodes import RemoteClients
from fedlama.flower.settings import (
    DEFAULTS,
    aggregation_of,
    client_number,
    deciding,
    experiment_of,
    history_of,
    known_clients_of,
    plugins_folder,
    policy_of,
    secure_rules_of,
    state_folder,
    state_name,
)
from fedlama.flower.sites import node_keys, parsed_config, site_federation
from fedlama.flower.transport import (
    GridChannel,
    check_info_request,
    evaluated_records,
    flower_module,
    info_records,
    read_evaluate,
    read_request,
    read_secure,
    refusal_records,
    reply_records,
    secured_records,
)

if TYPE_CHECKING:
    from flwr.app import Context, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp

__all__ = ["NODE", "FunctionTrainer", "LocalRound", "RemoteClients", "client_app", "server_app"]

MakeTrainer = Callable[[int, Mapping[str, Any]], ClientTrainer]
"""Makes a client's model and data from its number and the run's configuration, which has the node's own under
:data:`NODE`."""
MakeFederation = Callable[[RemoteClients, Mapping[str, Any]], Federation]
"""Makes the federation from the clients and the run's configuration."""

NODE = "node"
"""Key of the node's configuration (``--node-config``), such as the folder of the site's data, for a client's maker."""
_LOG = logging.getLogger("fedlama.flower")


def server_app(
    build: MakeFederation | None = None, *, clients: int = 0, config: Mapping[str, Any] | None = None
) -> ServerApp:
    """Return a ServerApp.

    Args:
        build: Makes a federation of the user's own; by default the run's experiment is built.
        clients: Number of clients, for a federation of the user's own.
        config: Values of keys that the run's configuration leaves out; see :mod:`fedlama.flower.settings`.
    """
    app: ServerApp = flower_module("serverapp").ServerApp()
    base = {**DEFAULTS, **(config or {})}

    def main(grid: Grid, context: Context) -> None:
        # Not at the top: every request starts a new client process, which does not need what the server imports.
        from fedlama.flower.deploy.server_process import end_with_parent, recorded_failure

        _LOG.setLevel(logging.INFO)
        end_with_parent()
        given = {**base, **context.run_config}
        with recorded_failure(expanded(str(given["out"]))):
            deploy(grid, given)

    def deploy(grid: Grid, given: Mapping[str, Any]) -> None:
        from fedlama.flower.deploy.federation import Continuation, deploy_experiment, deploy_federation
        from fedlama.flower.server.engine import Flower

        engine = Flower(
            GridChannel(grid),
            policy_of(given),
            aggregation_of(given),
            known=known_clients_of(given),
            secure=secure_rules_of(given),
        )
        out, final = expanded(str(given["out"])), given["send-final"] is True
        continuation = Continuation(*history_of(given), deciding(given), final)
        if build is None:
            server = parsed_config(str(given["server-config"]))
            finished = deploy_experiment(experiment_of(given), engine, out, replace(continuation, server=server))
            print(f"fedlama: finished; the run folder is {finished.summary['run_folder']}")
        else:
            deploy_federation(lambda remote: build(remote, given), clients, engine, out, continuation)
            print(f"fedlama: finished; the run folder is {out}")

    app.main()(main)
    return app


def client_app(
    make: MakeTrainer | None = None,
    *,
    name: str = "own",
    config: Mapping[str, Any] | None = None,
    mods: Sequence[Any] = (),
) -> ClientApp:
    """Return a ClientApp that keeps its model in a file between rounds.

    Args:
        make: Makes the client's model and data; by default those of the run's experiment.
        name: Names the folder of the clients' states, for a federation of the user's own.
        config: Values of keys that the run's configuration leaves out; see :mod:`fedlama.flower.settings`.
        mods: Flower's mods, around every message. Those that change arrays do not fit: a message has packed layers.
    """
    app: ClientApp = flower_module("clientapp").ClientApp(mods=list(mods))
    base = {**DEFAULTS, **(config or {})}

    def trainer_of(context: Context) -> tuple[int, ClientTrainer]:
        client, given = client_number(context.node_config), {**base, **context.run_config}
        if make:
            return client, make(client, {**given, NODE: dict(context.node_config)})
        site = tuple(sorted(context.node_config.items()))
        plugins = plugins_folder(given, context.node_config)
        return client, experiment_trainer(client, str(given["experiment"]), plugins, site)

    def inform(message: Message, context: Context) -> Message:
        try:
            check_info_request(message.content)
            client, trainer = trainer_of(context)
            records = info_records(ClientInfo(client, trainer.samples, trainer.has_test_set))
        except Exception as error:  # code of the user's own can raise anything
            records = refusal_records(_reason(error))
        return _reply(message, records)

    def train(message: Message, context: Context) -> Message:
        request, given = read_request(message.content), {**base, **context.run_config}
        try:
            client, trainer = trainer_of(context)
            root, folder = _states(context, given, name if make else "")
            reply = respond(request, trainer, folder / f"client-{client}.safetensors")
            if request.answered_round == NEVER:  # rare, so most rounds do not pay for it
                forget_old(root)
        except Exception as error:  # code of the user's own can raise anything
            reply = refusal(request, _reason(error))
        return _reply(message, reply_records(reply))

    def score(message: Message, context: Context) -> Message:
        request, given = read_evaluate(message.content), {**base, **context.run_config}
        try:
            reply = evaluate(request, trainer_of(context)[1], _states(context, given, name if make else "")[1])
        except Exception as error:  # code of the user's own can raise anything
            reply = EvaluateReply(request.round_index, request.client, detail=_reason(error))
        return _reply(message, evaluated_records(reply))

    app.query()(inform)
    _answer_secure(app, base, name if make else "")
    app.evaluate()(score)
    app.train()(train)
    return app


def _answer_secure(app: ClientApp, base: Mapping[str, Any], name: str) -> None:
    """Let an app answer the stages of secure aggregation.

    Args:
        app: The app.
        base: Values of keys that the run's configuration leaves out.
        name: Of the folder of the clients' states; empty for that of the experiment.
    """

    def secure(message: Message, context: Context) -> Message:
        from fedlama.flower.client.secrets import agree  # only where it is used, because it needs more libraries

        request, given = read_secure(message.content), {**base, **context.run_config}
        try:
            client = client_number(context.node_config)
            folder = _states(context, given, name)[1]
            reply = agree(replace(request, client=client), folder / f"client-{client}.safetensors")
        except Exception as error:  # a damaged disk can raise anything
            reply = SecureReply(
                request.agreement, request.stage, request.round_index, request.client, detail=_reason(error)
            )
        return _reply(message, secured_records(reply))

    app.query("secure")(secure)


def _states(context: Context, given: Mapping[str, Any], name: str) -> tuple[Path, Path]:
    """Return the folder of a node's states, and that of a run in it, which has a name or that of its experiment."""
    root = state_folder(context.node_config, given)
    return root, root / (name or state_name(given, context.node_config))


def _reason(error: Exception) -> str:
    """Return the sentence for the server; the whole traceback of the user's code stays in the node's own log."""
    if isinstance(error, FedlamaError):
        _LOG.error("this node cannot take part: %s", error)
        return str(error)
    _LOG.exception("this node cannot take part")
    return f"{described(error)}; correct the code on this node"


def _reply(message: Message, records: RecordDict) -> Message:
    reply: Message = flower_module("app").Message(records, reply_to=message)
    return reply


@lru_cache(maxsize=4)
def experiment_trainer(
    client: int, text: str, plugins: Path | None = None, site: tuple[tuple[str, Any], ...] = ()
) -> ClientTrainer:
    """Return the trainer of a client of an experiment: its rows of the data, the model and the solver.

    Args:
        client: The client's number.
        text: The run's ``experiment``.
        plugins: The node's folder of files with options of the user's own; by default the current folder.
        site: The items of the node's configuration, for experiments whose data are on the sites.
    """
    experiment = experiment_of({"experiment": text}, {"plugins-dir": str(plugins or "")})
    if node_keys(experiment):
        federation = site_federation(experiment, dict(site), client)
    else:
        federation = assemble(experiment, prepare(experiment))
    return LoopTrainer(federation.engine_setup(), client)
