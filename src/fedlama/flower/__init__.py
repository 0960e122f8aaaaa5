"""The same federation over a real network, by Flower; never computes a round differently from the simulation.

protocol.py     the messages and the channel that carries them
payloads.py     layers to bytes and back
transport.py    the channel over Flower's Grid
limits.py       how large a reply may be, before it is fetched
settings.py     the keys of a run's configuration
sites.py        experiments whose data stay on their sites
apps.py         the ServerApp and the ClientApp
server/         the engine: requests, a round's messages, the check of replies, averaging
client/         a node's side: its trainer, its durable state, its reply to a request
secure/         secure aggregation: numbers in fixed point, keys, masks, and what does not go with it
deploy/         whole deployments: on a server, on this machine, and Flower's programs
dropin/         for apps that have a Flower strategy already: FedLAMA in its place, and a mod around the ClientApp

Only transport.py, apps.py and dropin/strategy.py import Flower, and only when they are used; limits.py and
deploy/warm_node.py replace or wrap parts of it that are not public. The rest is plain Python and is tested without it.
"""

from typing import TYPE_CHECKING

from fedlama.core.later import imported_later

if TYPE_CHECKING:
    from fedlama.flower.dropin.mod import fedlama_mod
    from fedlama.flower.dropin.strategy import FedLAMAStrategy
    from fedlama.flower.server.engine import Flower, FlowerEngine
    from fedlama.flower.server.round import RoundPolicy

__all__ = ["FedLAMAStrategy", "Flower", "FlowerEngine", "RoundPolicy", "fedlama_mod"]

_HOMES = {
    "fedlama.flower.dropin.mod": "fedlama_mod",
    "fedlama.flower.dropin.strategy": "FedLAMAStrategy",
    "fedlama.flower.server.engine": "Flower FlowerEngine",
    "fedlama.flower.server.round": "RoundPolicy",
}

__getattr__ = imported_later(globals(), _HOMES)
