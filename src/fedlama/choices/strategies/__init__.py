"""In which rounds each layer is synchronised: one published method per file."""

from fedlama.choices.strategies.base import Courses, LayerStatistics, Plan, Strategy
from fedlama.choices.strategies.budget import Budget
from fedlama.choices.strategies.cyclic import Cyclic
from fedlama.choices.strategies.fedavg import FedAvg
from fedlama.choices.strategies.fedlama import FedLAMA
from fedlama.choices.strategies.fedluar import FedLUAR
from fedlama.choices.strategies.fixed import FixedIntervals
from fedlama.choices.strategies.partial import PartialAveraging
from fedlama.choices.strategies.pooled import Pooled

__all__ = [
    "Budget",
    "Courses",
    "Cyclic",
    "FedAvg",
    "FedLAMA",
    "FedLUAR",
    "FixedIntervals",
    "LayerStatistics",
    "PartialAveraging",
    "Plan",
    "Pooled",
    "Strategy",
]
