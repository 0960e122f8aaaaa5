"""The keys of a Flower run's configuration that fedlama reads, with their defaults.

Flower itself checks that a run sets only keys that its app lists.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from fedlama.core.paths import expanded
from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, did_you_mean, shown
from fedlama.experiment import Catalogue, Experiment, read, resolve
from fedlama.flower.secure.agreement import SecureRules
from fedlama.flower.server.aggregation import Aggregation
from fedlama.flower.server.known_clients import KnownClients, number_of, read_clients_file
from fedlama.flower.server.round import RoundPolicy
from fedlama.flower.sites import parsed_config

RunConfig = Mapping[str, Any]
NodeConfig = Mapping[str, Any]

_COPY = "copy the submitted file, and the files that it imports from its folder, to "
_ON_NODE = _COPY + "this node, or set plugins-dir in the node's --node-config"
_ON_SERVER = _COPY + "the SuperLink's machine, or submit the run with another --plugins-dir"

DEFAULTS: dict[str, str | float] = {
    "experiment": "digits",
    "out": "runs/flower",
    "state-dir": "",
    "deadline": 600.0,
    "min-replies": 0.5,
    "rejoin": "now",
    "join": 300.0,
    "poll": 0.5,
    "aggregation": "models",
    "secure-threshold": 0.6,
    "plugins-dir": "",
    "clients-file": "",
    "banned": "",
    "max-samples": 0,
    "keep-checkpoints": 10,
    "from-round": -1,
    "send-final": False,
    "server-config": "",
}
"""The keys that fedlama reads, as in an app's ``[tool.flwr.app.config]``; Flower lets a run change only keys in it."""


def experiment_of(config: RunConfig, node: NodeConfig | None = None) -> Experiment:
    """Return the experiment of a run.

    Args:
        config: The run's configuration; ``experiment`` is JSON, or the arguments of `fedlama run` on a command line:
            the name of an experiment that comes with the package, and settings to change.
        node: The node's configuration; None on the server.

    Raises:
        ConfigError: The experiment cannot be resolved, or code of the user's own is missing on this machine.
    """
    catalogue = Catalogue(plugins_folder(config, node), confined=True, remedy=_ON_SERVER if node is None else _ON_NODE)
    text = str(config.get("experiment", DEFAULTS["experiment"]))
    if not text.lstrip().startswith("{"):
        name, *overrides = text.split() or [text]
        return resolve(read(name, overrides, catalogue), catalogue)
    try:
        return resolve(json.loads(text), catalogue)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"the run's experiment is not valid JSON ({error}); submit it with `fedlama flower run`"
        ) from error


def aggregation_of(config: RunConfig) -> Aggregation:
    """Return how a run aggregates.

    Raises:
        ConfigError: The value is unknown.
    """
    given = str(config.get("aggregation", DEFAULTS["aggregation"]))
    if given not in get_args(Aggregation):
        raise ConfigError(f"aggregation is {shown(given)}{did_you_mean(given, get_args(Aggregation))}")
    return next(known for known in get_args(Aggregation) if known == given)


def secure_rules_of(config: RunConfig) -> SecureRules:
    """Return how many clients must stay under secure aggregation.

    Raises:
        ConfigError: The value is out of range.
    """
    return SecureRules(threshold={**DEFAULTS, **config}["secure-threshold"])


def policy_of(config: RunConfig) -> RoundPolicy:
    """Return how long a run waits, and for how many replies.

    Raises:
        ConfigError: A value is not a number, or out of range.
    """
    given = {**DEFAULTS, **config}
    numbers, problems = {}, []
    for key in ("deadline", "min-replies", "join", "poll"):
        try:
            numbers[key] = float(given[key])
        except (TypeError, ValueError):
            problems.append(f"{key} is {shown(given[key])}, expected a number; change it")
    refuse(problems)
    return RoundPolicy(
        deadline=numbers["deadline"],
        min_replies=numbers["min-replies"],
        rejoin=given["rejoin"],
        join=numbers["join"],
        poll=numbers["poll"],
    )


OPERATION = frozenset(DEFAULTS) - {"aggregation"}
"""Keys that say how a run is operated; all others decide its result, and are compared when it is resumed."""


def deciding(config: RunConfig) -> dict[str, object]:
    """Return the keys of a run's configuration that decide its result, of an app of the user's own.

    >>> deciding({"out": "runs", "deadline": 60.0, "aggregation": "models", "learning-rate": 0.1})
    {'aggregation': 'models', 'learning-rate': 0.1}
    """
    return {key: value for key, value in config.items() if key not in OPERATION}


def known_clients_of(config: RunConfig) -> KnownClients:
    """Return what a run's server knows of its clients beforehand.

    Args:
        config: The run's configuration: ``clients-file``, a file on this machine, ``banned``, and ``max-samples``.

    Raises:
        ConfigError: The file cannot be read, or a value is wrong.
    """
    given = {**DEFAULTS, **config}
    file, problems = str(given["clients-file"]), []
    known = read_clients_file(Path(file)) if file else KnownClients()
    names = [name.strip() for name in str(given["banned"]).split(",") if name.strip()]
    banned = {number for number in map(number_of, names) if number is not None}
    if len(banned) < len(names):
        problems.append(f"banned is {shown(given['banned'])}, expected clients' numbers such as '3,5'; correct it")
    most = _whole(given, "max-samples", 0, problems)
    refuse(problems)
    return replace(known, banned=known.banned | banned, most_samples=most)


def check_operation(config: RunConfig) -> None:
    """Refuse what the server would refuse of how a run is operated; its clients file is on the server's machine.

    Args:
        config: The run's configuration.

    Raises:
        ConfigError: Values are wrong; it has the problems of all of them.
    """
    problems: list[str] = []
    here = {key: value for key, value in config.items() if key != "clients-file"}
    for check in (aggregation_of, secure_rules_of, policy_of, history_of, known_clients_of, _server_config_of):
        try:
            check(here)
        except ConfigError as error:
            problems += error.problems
    refuse(problems)


def _server_config_of(config: RunConfig) -> dict[str, str]:
    return parsed_config(str(config.get("server-config", "")))


def history_of(config: RunConfig) -> tuple[int, int | None]:
    """Return how many checkpoints a run keeps, and the round from which it is computed again, None to continue it.

    Args:
        config: The run's configuration: ``keep-checkpoints`` and ``from-round``.

    Raises:
        ConfigError: A value is wrong.
    """
    given, problems = {**DEFAULTS, **config}, list[str]()
    keep, from_round = _whole(given, "keep-checkpoints", 0, problems), _whole(given, "from-round", -1, problems)
    refuse(problems)
    return keep, None if from_round < 0 else from_round


def _whole(given: RunConfig, key: str, lowest: int, problems: list[str]) -> int:
    """Return a whole number, or note that it is none."""
    value = given[key]
    if type(value) is not int or value < lowest:
        problems.append(f"{key} is {shown(value)}, expected a whole number of {lowest} or more; correct it")
        return lowest
    return value


def state_folder(node: NodeConfig, config: RunConfig) -> Path:
    """Return the folder of a node's durable states.

    Args:
        node: The node's configuration; its ``state-dir`` is used first.
        config: The run's configuration; its ``state-dir`` is used next, then the environment variable FEDLAMA_STATE.
    """
    given = node.get("state-dir") or config.get("state-dir") or os.environ.get("FEDLAMA_STATE")
    return expanded(str(given)) if given else Path.home() / ".fedlama" / "state"


def plugins_folder(config: RunConfig, node: NodeConfig | None = None) -> Path:
    """Return the folder in which files with options of the user's own are on a machine.

    A node never takes it from the run: the node's owner decides which files can be executed.

    Args:
        config: The run's configuration; its ``plugins-dir`` counts on the server.
        node: The node's configuration, whose ``plugins-dir`` counts on the node; None on the server. Without one, both
            use the environment variable FEDLAMA_PLUGINS, then the current folder.
    """
    given = (config if node is None else node).get("plugins-dir") or os.environ.get("FEDLAMA_PLUGINS")
    return expanded(str(given)) if given else Path.cwd()


def state_name(config: RunConfig, node: NodeConfig) -> str:
    """Return the name of the folder of a run's states on a node; an experiment always has the same one.

    Args:
        config: The run's configuration.
        node: The node's configuration.
    """
    experiment = experiment_of(config, node)
    return f"{experiment.settings.name}-{experiment.digest(8)}"


def client_number(node: NodeConfig) -> int:
    """Return the client that a node serves.

    Args:
        node: The node's configuration.

    Raises:
        ConfigError: The node's configuration has no valid number.
    """
    number = node.get("partition-id")
    if not isinstance(number, int) or number < 0:
        raise ConfigError(
            f"the node's partition-id is {shown(number)}, expected a whole number of 0 or more; start the SuperNode "
            "with --node-config 'partition-id=0', each node with its own number"
        )
    return number
