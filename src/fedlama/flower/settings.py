"""The keys of a Flower run's configuration that fedlama reads, with their defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, did_you_mean, shown
from fedlama.experiment import Experiment, read, resolve
from fedlama.flower.policy import Patience
from fedlama.flower.server.aggregation import Aggregation

RunConfig = Mapping[str, Any]

DEFAULTS: dict[str, str | float] = {
    "experiment": "digits",
    "out": "runs/flower",
    "state-dir": "",
    "deadline": 600.0,
    "min-replies": 1.0,
    "rejoin": "now",
    "join": 300.0,
    "aggregation": "models",
}
"""What an app's ``[tool.flwr.app.config]`` holds: Flower lets a run override only keys that stand there."""


def experiment_of(config: RunConfig) -> Experiment:
    """Return the experiment of a run.

    Args:
        config: The run's configuration; ``experiment`` is JSON, or what stands behind `fedlama run` on a command line:
            the name of one that comes with the package, and settings to change.

    Raises:
        ConfigError: It cannot be resolved.
    """
    text = str(config.get("experiment", DEFAULTS["experiment"]))
    if not text.lstrip().startswith("{"):
        name, *overrides = text.split() or [text]
        return resolve(read(name, overrides))
    try:
        return resolve(json.loads(text))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the run's experiment is no JSON: {error}; submit it with `fedlama flower run`") from error


def aggregation_of(config: RunConfig) -> Aggregation:
    """Return how a run aggregates.

    Raises:
        ConfigError: There is no such way.
    """
    given = str(config.get("aggregation", DEFAULTS["aggregation"]))
    if given not in get_args(Aggregation):
        raise ConfigError(f"aggregation is {shown(given)}{did_you_mean(given, get_args(Aggregation))}")
    return "sums" if given == "sums" else "models"


def patience_of(config: RunConfig) -> Patience:
    """Return the rules of waiting of a run.

    Raises:
        ConfigError: A rule is no number, or out of range.
    """
    given = {**DEFAULTS, **config}
    numbers, problems = {}, []
    for key in ("deadline", "min-replies", "join"):
        try:
            numbers[key] = float(given[key])
        except (TypeError, ValueError):
            problems.append(f"{key} is {shown(given[key])}, but it must be a number; change it")
    refuse(problems)
    return Patience(
        deadline=numbers["deadline"],
        min_replies=numbers["min-replies"],
        rejoin=given["rejoin"],
        join=numbers["join"],
    )


def state_folder(node: Mapping[str, Any], config: RunConfig) -> Path:
    """Return the folder of a node's durable states.

    Args:
        node: The node's configuration; its ``state-dir`` comes first.
        config: The run's configuration; its ``state-dir`` comes next, then the variable FEDLAMA_STATE.
    """
    given = node.get("state-dir") or config.get("state-dir") or os.environ.get("FEDLAMA_STATE")
    return Path(str(given)).expanduser() if given else Path.home() / ".fedlama" / "state"


def state_name(config: RunConfig) -> str:
    """Return the name of the folder of a run's states on a node: the same experiment always has the same one.

    Args:
        config: The run's configuration.
    """
    experiment = experiment_of(config)
    return f"{experiment.settings.name}-{experiment.digest(8)}"


def client_number(node: Mapping[str, Any]) -> int:
    """Return the client that a node serves.

    Args:
        node: The node's configuration.

    Raises:
        ConfigError: It does not say.
    """
    number = node.get("partition-id")
    if not isinstance(number, int) or number < 0:
        raise ConfigError(
            f"the node's partition-id is {shown(number)}; start the SuperNode with --node-config 'partition-id=0', "
            "each node with its own number"
        )
    return number
