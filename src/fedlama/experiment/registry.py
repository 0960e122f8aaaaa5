"""The one registry: every choice that an experiment file can name, by section."""

from __future__ import annotations

from typing import Any, Final

from fedlama.choices.aggregators import Mean, Median, NormBound, TrimmedMean
from fedlama.choices.availability import Always, RandomAbsence, Trace
from fedlama.choices.codecs import Float16, Float32
from fedlama.choices.samplers import AllClients, UniformSampler
from fedlama.choices.server_optimizers import Replace, ServerAdam, ServerMomentum
from fedlama.choices.solvers import SGD, FedProx
from fedlama.choices.strategies import Cyclic, FedAvg, FedLAMA, FedLUAR, FixedIntervals
from fedlama.experiment import architectures, labelling, partitions, sources

_CHOICES: Final[dict[str, tuple[type[Any], ...]]] = {
    "data": (
        sources.Digits,
        sources.Idx,
        sources.MnistWriters,
        sources.Cifar,
        sources.Leaf,
        sources.Arrays,
        sources.Text,
        sources.HuggingFace,
    ),
    "partition": (partitions.IID, partitions.Dirichlet, partitions.Shards, partitions.Natural),
    "model": (
        architectures.MLP,
        architectures.LeafCNN,
        architectures.SmallCNN,
        architectures.ResNet20,
        architectures.WideResNet,
        architectures.CharTransformer,
    ),
    "layers": (labelling.ByTensor, labelling.ByModule, labelling.ByMapping),
    "strategy": (FedAvg, FedLAMA, FedLUAR, Cyclic, FixedIntervals),
    "solver": (SGD, FedProx),
    "sampler": (AllClients, UniformSampler),
    "availability": (Always, RandomAbsence, Trace),
    "codec": (Float32, Float16),
    "server_optimizer": (Replace, ServerMomentum, ServerAdam),
    "aggregator": (Mean, NormBound, Median, TrimmedMean),
}

REGISTRY: Final[dict[str, dict[str, type[Any]]]] = {
    section: {choice.name: choice for choice in choices} for section, choices in _CHOICES.items()
}
"""Section to name to the dataclass whose fields are the section's other keys."""
