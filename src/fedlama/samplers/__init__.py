"""Who takes part, and for how long: one sampler per file."""

from fedlama.samplers.all_clients import AllClients
from fedlama.samplers.base import Sampler
from fedlama.samplers.uniform import UniformSampler

__all__ = ["AllClients", "Sampler", "UniformSampler"]
