"""The server's own list of its clients: which node may serve each client, how much it weighs, and who is banned.

Without the list the server believes what the nodes say: any registered node can be any client, with any number of
samples. The list is a TOML file on the SuperLink's machine, named by the run's key ``clients-file``::

    [clients.0]
    node = 5137021879215638112   # printed by `flwr supernode register`; the node with this key, and no other
    samples = 420                # the client's weight, whatever the node says
    key = "SHA256:..."           # for people; Flower has checked the key
    name = "hospital A"          # for people

    [clients.3]
    banned = true                # never asked
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlama.core.paths import expanded
from fedlama.core.validation import refuse
from fedlama.errors import ConfigError, did_you_mean, printable, shown

_KEYS = ("node", "samples", "key", "name", "banned")
_MOST_BYTES = 1 << 20
_MOST_DIGITS = 9  # of a client's number


@dataclass(frozen=True)
class KnownClients:
    """What the server knows of its clients beforehand.

    Attributes:
        nodes: Client to the only node that may serve it; clients that are not named may be served by any node that no
            other client is bound to.
        samples: Client to its fixed number of training samples.
        banned: Clients that are never asked.
        most_samples: A larger number of samples that a node claims counts as this one; 0 for no limit.
    """

    nodes: Mapping[int, int] = field(default_factory=dict)
    samples: Mapping[int, int] = field(default_factory=dict)
    banned: frozenset[int] = frozenset()
    most_samples: int = 0

    def weighed(self, client: int, claimed: int) -> int:
        """Return the number of samples that counts for a client.

        Args:
            client: The client.
            claimed: The number that its node claims.

        >>> known = KnownClients(samples={0: 5}, most_samples=100)
        >>> known.weighed(0, 9), known.weighed(1, 9), known.weighed(1, 2**53 - 1)
        (5, 9, 100)
        """
        if client in self.samples:
            return self.samples[client]
        return min(claimed, self.most_samples) if self.most_samples else claimed

    def problems(self, clients: int) -> list[str]:
        """Return which numbers are not those of a client, one sentence each.

        Args:
            clients: Number of clients of the run.
        """
        named = {"banned": self.banned, "the clients file": self.nodes.keys() | self.samples.keys()}
        return [
            f"{where} names client {number}, expected 0 to {clients - 1}: clients are counted from 0; correct it"
            for where, numbers in named.items()
            for number in sorted(numbers)
            if number >= clients
        ]

    def misfit(self, client: int, node: int) -> str:
        """Return why a node may not serve a client, as the end of a sentence; empty where it may.

        Args:
            client: The client.
            node: The node.
        """
        bound = self.nodes.get(client)
        if bound is not None and bound != node:
            return f"which the clients file binds to node {bound}"
        owner = next((number for number, owned in self.nodes.items() if owned == node), client)
        return "" if owner == client else f"but the clients file binds it to client {owner}"


def number_of(text: str) -> int | None:
    """Return the client's number that a text is, None if it is none; each number has one spelling.

    >>> number_of("12"), number_of("012"), number_of("-1")
    (12, None, None)
    """
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    return int(text) if is_number and str(int(text)) == text else None


def read_clients_file(path: Path) -> KnownClients:
    """Read a clients file.

    Args:
        path: The file.

    Raises:
        ConfigError: It cannot be read, or is not as described above; holds every problem.
    """
    where = printable(path)
    try:
        with expanded(str(path)).open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ConfigError(f"the clients file {where} has more than 1 MiB; shorten it")
        content = tomllib.loads(text.decode())
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"the clients file {where} cannot be read ({reason}); correct clients-file") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the clients file {where} is not valid TOML ({error}); correct it") from error
    tables = content.get("clients", {})
    others = [key for key in content if key != "clients"]
    problems = [f"{where}: {key} is not known; write [clients.0], [clients.1], ..." for key in others]
    if not isinstance(tables, dict):
        problems.append(f"{where}: clients is {shown(tables)}, expected tables; write [clients.0], [clients.1], ...")
    entries: dict[int, Mapping[str, Any]] = {}
    for name, table in tables.items() if isinstance(tables, dict) else ():
        number = number_of(name)
        if number is None or not isinstance(table, dict):
            problems.append(f"{where}: clients.{name} is not the table of a client; write [clients.0]")
            continue
        entries[number] = table
        problems += _misfits(f"{where}: clients.{name}", table)
    refuse(problems)
    nodes = {client: entry["node"] for client, entry in entries.items() if "node" in entry}
    doubles = sorted(client for client, node in nodes.items() if list(nodes.values()).count(node) > 1)
    if doubles:
        raise ConfigError(f"{where}: the clients {', '.join(map(str, doubles))} have the same node; give each its own")
    return KnownClients(
        nodes=nodes,
        samples={client: entry["samples"] for client, entry in entries.items() if "samples" in entry},
        banned=frozenset(client for client, entry in entries.items() if entry.get("banned")),
    )


def _misfits(where: str, entry: Mapping[str, Any]) -> list[str]:
    problems = [f"{where}.{key} is not known{did_you_mean(key, _KEYS)}" for key in entry if key not in _KEYS]
    for key, highest in (("node", 2**64), ("samples", 2**53)):
        value = entry.get(key, 1)
        if type(value) is not int or not 1 <= value < highest:
            problems.append(f"{where}.{key} is {shown(value)}, expected a whole number of 1 or more; correct it")
    if type(entry.get("banned", False)) is not bool:
        problems.append(f"{where}.banned is {shown(entry['banned'])}, expected true or false; correct it")
    return problems
