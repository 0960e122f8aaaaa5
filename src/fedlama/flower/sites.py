"""Experiments whose data stay on their sites: ``data.path = "node:data"`` names a key of each node's configuration.

=============  ====================================================================================================
machine        what it loads
=============  ====================================================================================================
a node         the data that its own ``--node-config`` names. All training rows are its client's, and its test rows are
               the client's own test set
the server     an example of such data that ``server-config`` names: for shapes and classes, and its test rows for the
               server's own scores. How many samples clients have, it learns from them
=============  ====================================================================================================

Of the partition only the number of clients counts. Anything that the server would have to know of the sites' data is
refused when the run is submitted.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fedlama.core.paths import expanded
from fedlama.core.validation import refuse
from fedlama.data.arrays import Dataset
from fedlama.data.local_sets import LocalRows
from fedlama.data.partition.base import Partition
from fedlama.errors import ConfigError, printable, shown
from fedlama.experiment import Experiment, assemble, prepare
from fedlama.experiment.options import settings_of
from fedlama.federation.federation import Federation

_PREFIX = "node:"
_ON_NODE = "start its SuperNode with --node-config '{key}=\"/path/to/the/data\"' beside its other keys"
_ON_SERVER = (
    "the server needs an example of such data, for shapes and classes: put one on the SuperLink's machine and submit "
    "with --server-config '{key}=\"/path/there\"'"
)


@dataclass(frozen=True)
class SiteRows:
    """A partition in which one client has all rows of its site.

    The others are on other machines; a few rows are in their place, on which nothing is trained.

    Args:
        client: The site's client.
        clients: Number of clients.
        held_out: Share of rows that the experiment keeps out of training.
    """

    name: ClassVar[str] = "site"
    client: int
    clients: int
    held_out: float = 0.0

    def split(self, dataset: Dataset, seed: int, batch_size: int) -> Partition:
        """Return all rows for the site's client."""
        rows = np.arange(len(dataset.train_x), dtype=np.int64)
        others = rows[: int(batch_size / (1 - self.held_out)) + 2]
        return [rows if client == self.client else others for client in range(self.clients)]


def node_keys(experiment: Experiment) -> dict[str, str]:
    """Return the keys of the data that are on the nodes, each with the key of a node's configuration.

    Args:
        experiment: The experiment.
    """
    data = experiment.data
    values = {name: str(getattr(data, name)) for name in settings_of(type(data))}
    return {name: value.removeprefix(_PREFIX) for name, value in values.items() if value.startswith(_PREFIX)}


def site_misfits(experiment: Experiment) -> list[str]:
    """Report what an experiment with data on its sites asks for and the server cannot know, one sentence each.

    Args:
        experiment: The experiment.
    """
    keys, settings = node_keys(experiment), experiment.settings
    if not keys:
        return []
    field, key = next(iter(keys.items()))
    start = f"data.{field} is 'node:{key}', so the data are on the nodes alone, but"
    problems = [f"{start} no key is named; write data.{field}=node:data"] if not key else []
    if not isinstance(getattr(experiment.partition, "clients", None), int):
        problems.append(
            f"{start} partition.name is {experiment.partition.name!r}, expected the number of sites; set "
            "partition.name=iid and partition.clients"
        )
    if settings.validation_share:
        problems.append(
            f"{start} validation_share is {settings.validation_share}, which takes rows of all clients for the server; "
            "set it to 0, and use evaluate_clients=global for the sites' own scores"
        )
    if getattr(experiment.aggregator, "needs_factors", False):
        problems.append(
            f"{start} aggregator.name is {experiment.aggregator.name!r}, whose epochs over a client's data the server "
            "cannot count; choose another, or give data that the server has"
        )
    if settings.epochs is not None or settings.local_work.epochs is not None:
        problems.append(
            f"{start} the budget or the local work is in epochs, which the server cannot count; give rounds or "
            "local_steps"
        )
    return problems


def check_server_config(experiment: Experiment, text: str) -> None:
    """Refuse a run whose server has no example of the data on the nodes.

    Args:
        experiment: The experiment.
        text: The run's ``server-config``.

    Raises:
        ConfigError: A key is missing, or the text has another form.
    """
    _check_keys(experiment, parsed_config(text), "server-config", _ON_SERVER)


def site_federation(experiment: Experiment, node: Mapping[str, Any], client: int) -> Federation:
    """Return the federation as one site sees it: its client has the site's data.

    Args:
        experiment: The experiment.
        node: The node's configuration.
        client: The site's client.

    Raises:
        ConfigError: The node's configuration lacks a key.
        DataError: The data cannot be read.
    """
    sited = _sited(experiment, node, client, "the node's configuration", _ON_NODE)
    material = prepare(sited)
    if "test" not in material.clients.local_sets:
        dataset, none = material.dataset, np.empty(0, dtype=np.int64)
        rows = np.arange(len(dataset.test_x), dtype=np.int64)
        mine = [rows if number == client else none for number in range(len(material.clients))]
        material.clients.local_sets["test"] = LocalRows(dataset.test_x, dataset.test_y, mine)
    return assemble(sited, material)


def server_federation(experiment: Experiment, config: Mapping[str, Any]) -> Federation:
    """Return the federation as the server sees it, with an example of the data in the place of the clients.

    Args:
        experiment: The experiment.
        config: The keys of ``server-config``.

    Raises:
        ConfigError: A key is missing.
        DataError: The example cannot be read.
    """
    sited = _sited(experiment, config, 0, "server-config", _ON_SERVER)
    return assemble(sited, prepare(sited))


def _check_keys(experiment: Experiment, config: Mapping[str, Any], where: str, remedy: str) -> None:
    """Refuse a configuration that lacks a key of the data."""
    refuse(
        [
            f"data.{field} is 'node:{key}', but {where} has no {key!r}; {remedy.format(key=key)}"
            for field, key in node_keys(experiment).items()
            if not config.get(key)
        ]
    )


def _sited(experiment: Experiment, config: Mapping[str, Any], client: int, where: str, remedy: str) -> Experiment:
    """Return an experiment whose data are those of one machine."""
    _check_keys(experiment, config, where, remedy)
    keys, data = node_keys(experiment), experiment.data
    clients = int(getattr(experiment.partition, "clients"))  # noqa: B009  (checked when the run was submitted)
    if client >= clients:
        raise ConfigError(
            f"the node's partition-id is {client}, but partition.clients is {clients} (0 to {clients - 1}); correct it"
        )
    values = {field: str(config[key]) for field, key in keys.items()}
    typed = {n: expanded(v) if isinstance(getattr(data, n), Path) else v for n, v in values.items()}
    rows = SiteRows(client, clients, experiment.settings.client_test_share)
    return replace(experiment, data=replace(data, **typed), partition=rows)  # type: ignore[type-var]


def parsed_config(text: str) -> dict[str, str]:
    """Read keys as Flower's ``--node-config`` writes them.

    Args:
        text: Such as ``'data="/srv/example" site=3'``.

    Raises:
        ConfigError: It has another form.

    >>> parsed_config('data="/srv/my data" site=3')
    {'data': '/srv/my data', 'site': '3'}
    """
    try:
        parts = [part.partition("=") for part in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"server-config is {shown(text)}, which ends within a quote; close it") from error
    for name, equals, _ in parts:
        if not equals or not name:
            raise ConfigError(
                f"server-config has {printable(name)!r}, expected key=value; write 'data=\"/srv/example\"'"
            )
    return {name: value for name, _, value in parts}
