"""The same federation over a real network, by Flower; never computes a round differently from the simulation.

Only :mod:`fedlama.flower.transport` and :mod:`fedlama.flower.apps` touch Flower, and only when they are used;
everything else here is plain Python and is tested without it.
"""

from fedlama.flower.policy import Patience
from fedlama.flower.server.engine import Flower, FlowerEngine

__all__ = ["Flower", "FlowerEngine", "Patience"]
