"""In which rounds each layer is synchronised: one published method per file."""

from fedlama.choices.strategies.adacomm import AdaComm
from fedlama.choices.strategies.base import Courses, LayerStatistics, Plan, Strategy
from fedlama.choices.strategies.budget import Budget
from fedlama.choices.strategies.cyclic import Cyclic
from fedlama.choices.strategies.fedavg import FedAvg
from fedlama.choices.strategies.fedlama import FedLAMA
from fedlama.choices.strategies.fedldf import FedLDF
from fedlama.choices.strategies.fedlp import FedLP
from fedlama.choices.strategies.fedluar import FedLUAR
from fedlama.choices.strategies.fixed import FixedIntervals
from fedlama.choices.strategies.partial import PartialAveraging
from fedlama.choices.strategies.pooled import Pooled

__all__ = [
    "AdaComm",
    "Budget",
    "Courses",
    "Cyclic",
    "FedAvg",
    "FedLAMA",
    "FedLDF",
    "FedLP",
    "FedLUAR",
    "FixedIntervals",
    "LayerStatistics",
    "PartialAveraging",
    "Plan",
    "Pooled",
    "Strategy",
]
