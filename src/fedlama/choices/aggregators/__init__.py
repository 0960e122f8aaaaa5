"""Guards against poisoned updates: how the clients' values of a layer become one, one rule per file."""

from fedlama.choices.aggregators.base import Aggregator, Combined, Mean
from fedlama.choices.aggregators.median import Median
from fedlama.choices.aggregators.norm_bound import NormBound
from fedlama.choices.aggregators.trimmed_mean import TrimmedMean

__all__ = ["Aggregator", "Combined", "Mean", "Median", "NormBound", "TrimmedMean"]
