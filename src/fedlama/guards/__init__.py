"""Guards against poisoned updates: how the clients' values of a layer become one, one rule per file."""

from fedlama.guards.base import Combined, Guard
from fedlama.guards.median import Median
from fedlama.guards.no_guard import NoGuard
from fedlama.guards.norm_bound import NormBound
from fedlama.guards.trimmed_mean import TrimmedMean

__all__ = ["Combined", "Guard", "Median", "NoGuard", "NormBound", "TrimmedMean"]
