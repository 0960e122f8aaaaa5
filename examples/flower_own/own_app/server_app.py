"""The ServerApp: FedLAMA over your own model."""

from collections.abc import Mapping
from typing import Any

from fedlama import Federation, FedLAMA
from fedlama.flower.apps import RemoteClients, server_app
from own_app.task import build


def federation(clients: RemoteClients, config: Mapping[str, Any]) -> Federation:
    """Return the federation: eight rounds of five local steps by default."""
    steps = 5
    return Federation(build(), clients, FedLAMA(steps, increase_factor=2), local_steps=steps * int(config["rounds"]))


app = server_app(federation, clients=4)
