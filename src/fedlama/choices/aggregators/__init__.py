"""How the clients' values of a layer become one: one aggregator per file, the robust ones against poisoned updates."""

from fedlama.choices.aggregators.base import Aggregator, Combined
from fedlama.choices.aggregators.element_mean import ElementMean
from fedlama.choices.aggregators.fedlpa import FedLPA
from fedlama.choices.aggregators.mean import Mean
from fedlama.choices.aggregators.median import Median
from fedlama.choices.aggregators.norm_bound import NormBound
from fedlama.choices.aggregators.trimmed_mean import TrimmedMean

__all__ = ["Aggregator", "Combined", "ElementMean", "FedLPA", "Mean", "Median", "NormBound", "TrimmedMean"]
