"""The sections of an experiment that hold a choice: where their options are, the contract, and the default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedlama.choices.aggregators import Aggregator, Mean
from fedlama.choices.availability import Always, Availability
from fedlama.choices.codecs import Codec, Float32
from fedlama.choices.samplers import AllClients, Sampler
from fedlama.choices.server_optimizers import Replace, ServerOptimizer
from fedlama.choices.solvers import SGD, LocalSolver
from fedlama.choices.strategies import FedLAMA, Strategy
from fedlama.choices.tasks import Classification, Task
from fedlama.core.labelling import ByTensor, Labelling
from fedlama.data.arrays import DataSource
from fedlama.data.digits import Digits
from fedlama.data.partition.base import Partitioner
from fedlama.data.partition.dirichlet import Dirichlet
from fedlama.data.reduction import Reduction
from fedlama.experiment.options import options as options
from fedlama.models.base import Architecture
from fedlama.models.mlp import MLPSettings


@dataclass(frozen=True)
class Section:
    """A section of an experiment.

    Args:
        room: The package whose modules hold the section's options; see :func:`fedlama.core.registry.registered`.
        contract: What an option must be able to do.
        default: The choice of an experiment that leaves the section out.
        function: The contract's one method and its arguments, where a function of the user's own will do.
        fields: Settings that every option needs, each with the method that makes it needless when it is overridden.
        added: Whether version 0.1 did not have the section; its default is then left out of digests, which name run
            folders.
        shared: Settings that go with every option, beside its own; an option's own key of the same name comes first.
    """

    room: str
    contract: type[Any]
    default: Any
    function: tuple[str, tuple[str, ...]] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    added: bool = False
    shared: type[Any] | None = None


SECTIONS: dict[str, Section] = {
    "data": Section("fedlama.data", DataSource, Digits(), ("load", ()), shared=Reduction),
    "partition": Section(
        "fedlama.data.partition",
        Partitioner,
        Dirichlet(clients=32, alpha=0.5),
        ("split", ("dataset", "seed", "batch_size")),
    ),
    "model": Section("fedlama.models", Architecture, MLPSettings(), ("build", ("dataset",))),
    "task": Section("fedlama.choices.tasks", Task, Classification(), ("loss", ("output", "batch")), added=True),
    "layers": Section("fedlama.core.labelling", Labelling, ByTensor(), ("label", ("model",))),
    "strategy": Section(
        "fedlama.choices.strategies",
        Strategy,
        FedLAMA(base_interval=6, increase_factor=4),
        fields={"base_interval": ""},
    ),
    "solver": Section("fedlama.choices.solvers", LocalSolver, SGD(learning_rate=0.1), fields={"learning_rate": "rate"}),
    "sampler": Section("fedlama.choices.samplers", Sampler, AllClients()),
    "availability": Section("fedlama.choices.availability", Availability, Always()),
    "codec": Section("fedlama.choices.codecs", Codec, Float32()),
    "server_optimizer": Section("fedlama.choices.server_optimizers", ServerOptimizer, Replace()),
    "aggregator": Section("fedlama.choices.aggregators", Aggregator, Mean()),
}
"""Sections by name, in the order in which a configuration is written."""
