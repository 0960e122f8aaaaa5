"""The same federation over a real network, by Flower; never computes a round differently from the simulation.

protocol.py     the messages and the channel that carries them
transport.py    the channel over Flower's Grid
settings.py     the keys of a run's configuration
apps.py         the ServerApp and the ClientApp
server/         the engine: requests, a round's messages, the check of replies, averaging
client/         a node's side: its trainer, its durable state, its reply to a request
deploy/         whole deployments: on a server, on this machine, and Flower's programs

Only transport.py and apps.py import Flower, and only when they are used; the rest is plain Python and is tested
without it.
"""

from fedlama.flower.server.engine import Flower, FlowerEngine
from fedlama.flower.server.round import RoundPolicy

__all__ = ["Flower", "FlowerEngine", "RoundPolicy"]
