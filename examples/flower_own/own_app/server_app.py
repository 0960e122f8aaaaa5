"""The ServerApp: FedLAMA over your own model."""

from collections.abc import Mapping
from typing import Any

from fedlama import Federation, FedLAMA
from fedlama.flower.apps import RemoteClients, server_app
from own_app.task import build


def federation(clients: RemoteClients, config: Mapping[str, Any]) -> Federation:
    """Return the federation; a round is one call of the training function, so intervals are 1 and 2 of these."""
    strategy = FedLAMA(base_interval=1, increase_factor=2)
    return Federation(build(), clients, strategy, rounds=config["rounds"], evaluate_clients="global")


app = server_app(federation, clients=4)
