"""When each layer travels, and what the server makes of it: one published method per file."""

from fedlama.strategies.base import LayerStatistics, Plan, Strategy
from fedlama.strategies.cyclic import Cyclic
from fedlama.strategies.fedavg import FedAvg
from fedlama.strategies.fedlama import FedLAMA
from fedlama.strategies.fedluar import FedLUAR
from fedlama.strategies.fixed import FixedIntervals

__all__ = ["Cyclic", "FedAvg", "FedLAMA", "FedLUAR", "FixedIntervals", "LayerStatistics", "Plan", "Strategy"]
