"""The same federation over a real network: Flower's transport behind the contract of engines.

Only :mod:`fedlama.flower.grid` and :mod:`fedlama.flower.apps` touch Flower, and only when they are used; everything
else here is plain Python and is tested without it.
"""

from fedlama.flower.engine import Flower, FlowerEngine
from fedlama.flower.patience import Patience

__all__ = ["Flower", "FlowerEngine", "Patience"]
