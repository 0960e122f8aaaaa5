"""Which clients take part, and for how long: one sampler per file."""

from fedlama.choices.samplers.all_clients import AllClients
from fedlama.choices.samplers.base import Sampler, checked_cohort
from fedlama.choices.samplers.informed import InformedSampler, Population, is_informed, looks_at_losses
from fedlama.choices.samplers.power_of_choice import PowerOfChoice
from fedlama.choices.samplers.uniform import UniformSampler
from fedlama.choices.samplers.weighted import WeightedSampler

__all__ = [
    "AllClients",
    "InformedSampler",
    "Population",
    "PowerOfChoice",
    "Sampler",
    "UniformSampler",
    "WeightedSampler",
    "checked_cohort",
    "is_informed",
    "looks_at_losses",
]
