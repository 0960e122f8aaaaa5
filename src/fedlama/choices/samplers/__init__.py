"""Who takes part, and for how long: one sampler per file."""

from fedlama.choices.samplers.base import AllClients, Sampler, UniformSampler

__all__ = ["AllClients", "Sampler", "UniformSampler"]
