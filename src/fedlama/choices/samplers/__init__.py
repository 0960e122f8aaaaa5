"""Which clients take part, and for how long: one sampler per file."""

from fedlama.choices.samplers.all_clients import AllClients
from fedlama.choices.samplers.base import Sampler
from fedlama.choices.samplers.uniform import UniformSampler

__all__ = ["AllClients", "Sampler", "UniformSampler"]
