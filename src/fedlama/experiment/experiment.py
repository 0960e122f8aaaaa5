"""An experiment: everything that determines a run, as plain settings, and the federation built from it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fedlama.choices.aggregators import Aggregator, Mean
from fedlama.choices.availability import Always, Availability
from fedlama.choices.codecs import Codec, Float32
from fedlama.choices.samplers import AllClients, Sampler
from fedlama.choices.server_optimizers import Replace, ServerOptimizer
from fedlama.choices.solvers import SGD, LocalSolver
from fedlama.choices.strategies import FedLAMA, Strategy
from fedlama.core.deprecations import with_first_words
from fedlama.core.randomness import seed_of
from fedlama.core.validation import at_least, check_seed, one_of, refuse
from fedlama.data.arrays import Dataset
from fedlama.data.clients import TensorClients
from fedlama.data.transforms import Normalise, PadCropFlip
from fedlama.engines import ENGINES
from fedlama.errors import ConfigError, shown
from fedlama.experiment.architectures import MLP, Architecture
from fedlama.experiment.labelling import ByTensor
from fedlama.experiment.partitions import Dirichlet, Partitioner
from fedlama.experiment.sources import DataSource, Digits
from fedlama.federation.evaluation import TestSet
from fedlama.federation.federation import Federation, Weighting
from fedlama.federation.presets import authors

_NAME = re.compile(r"[\w-][\w.-]{0,99}")


@dataclass(frozen=True)
class Settings:
    """The keys of an experiment file that stand outside any section.

    Args:
        name: Names the run folder.
        seed: Decides every random draw, initial weights and partition included.
        local_steps: Budget K: local iterations of each active client over the whole run.
        batch_size: Samples per local step.
        normalise: Standardise images per ``"channel"`` or per ``"pixel"``, over the training images; ``"none"`` leaves
            inputs as they are (pixels scaled to [0, 1]).
        augment: Pad by 4, crop and flip training images.
        short_clients: Let clients with fewer samples than a batch train on short batches.
        weighting: Client weights p_i; see :class:`fedlama.Federation`.
        evaluate: See :class:`fedlama.Federation`.
        evaluate_every: Local steps between evaluations; None for a cycle of the strategy.
        engine: Name of the engine.
        device: Where to compute.
        preset: ``"paper"`` changes nothing; ``"authors"`` sets every switch to the authors' program's way.
    """

    name: str = "digits"
    seed: int = 0
    local_steps: int = 480
    batch_size: int = 16
    normalise: Literal["channel", "pixel", "none"] = "channel"
    augment: bool = False
    short_clients: bool = False
    weighting: Weighting = "samples"
    evaluate: Literal["global", "best_client"] = "global"
    evaluate_every: int | None = None
    engine: str = "auto"
    device: str = "cpu"
    preset: Literal["paper", "authors"] = "paper"

    def __post_init__(self) -> None:
        problems = at_least(self, 1, "local_steps", "batch_size")
        if self.evaluate_every is not None:
            problems += at_least(self, 1, "evaluate_every")
        if not _NAME.fullmatch(self.name):
            problems.append(
                f"name is {shown(self.name)}, but it names a folder; use up to 100 letters, digits, '-', '_' and '.'"
            )
        problems += check_seed(self.seed) + one_of(self, "engine", ENGINES)
        refuse(problems + one_of(self, "preset", ("paper", "authors")))


@dataclass(frozen=True)
class Experiment:
    """Settings and choices; see the sections of an experiment file."""

    settings: Settings
    data: DataSource
    partition: Partitioner
    model: Architecture
    layers: ByTensor
    strategy: Strategy[Any]
    solver: LocalSolver
    sampler: Sampler
    availability: Availability
    codec: Codec
    server_optimizer: ServerOptimizer
    aggregator: Aggregator

    def to_json(self) -> dict[str, object]:
        """Return the resolved configuration: every key with the value in force."""
        sections = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        settings = sections.pop("settings")
        if not isinstance(settings, dict):
            raise TypeError("settings are a dataclass")
        return {**settings, **sections}

    def digest(self, size: int = 4) -> str:
        """Return a hexadecimal digest of the resolved configuration: equal settings have equal digests.

        Names that changed since the first version count as they were then, so a rename moves no run folder.

        Args:
            size: Length in bytes.
        """
        text = json.dumps(with_first_words(self.to_json()), sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()


DEFAULTS: dict[str, Any] = {
    "data": Digits(),
    "partition": Dirichlet(clients=32, alpha=0.5),
    "model": MLP(),
    "layers": ByTensor(),
    "strategy": FedLAMA(base_interval=6, increase_factor=4),
    "solver": SGD(learning_rate=0.1),
    "sampler": AllClients(),
    "availability": Always(),
    "codec": Float32(),
    "server_optimizer": Replace(),
    "aggregator": Mean(),
}
"""What a section is when an experiment leaves it out."""


@dataclass(frozen=True)
class Material:
    """What the methods of a comparison share: data, clients and initial model.

    Attributes:
        dataset: The data set.
        clients: The partitioned training rows.
        model: The model with its initial weights.
    """

    dataset: Dataset
    clients: TensorClients
    model: nn.Module


def prepare(experiment: Experiment) -> Material:
    """Load the data, split them and initialise the model.

    Args:
        experiment: The experiment; its strategy does not matter here.

    Returns:
        What every method starts from.
    """
    settings = experiment.settings
    dataset = experiment.data.load()
    rows = experiment.partition.split(dataset, settings.seed, settings.batch_size)
    clients = TensorClients(
        dataset.train_x,
        dataset.train_y,
        rows,
        settings.batch_size,
        prepare=_preparation(settings, dataset),
        augment=PadCropFlip() if settings.augment else None,
        short_clients=settings.short_clients or settings.preset == "authors",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.seed, "model"))
        model = _build(experiment.model, dataset)
    return Material(dataset, clients, model)


def assemble(experiment: Experiment, material: Material) -> Federation:
    """Put an experiment's choices and the prepared material together.

    Args:
        experiment: The experiment.
        material: What :func:`prepare` made of it, or of another that differs in its strategy only.

    Returns:
        A federation that is ready to run.
    """
    settings, dataset = experiment.settings, material.dataset
    federation = Federation(
        model=material.model,
        clients=material.clients,
        strategy=experiment.strategy,
        local_steps=settings.local_steps,
        solver=experiment.solver,
        sampler=experiment.sampler,
        availability=experiment.availability,
        codec=experiment.codec,
        server_optimizer=experiment.server_optimizer,
        aggregator=experiment.aggregator,
        layers=experiment.layers.label(material.model),
        weighting=settings.weighting,
        test_set=TestSet(dataset.test_x, dataset.test_y, material.clients.prepare),
        evaluate_every=settings.evaluate_every,
        evaluate=settings.evaluate,
        seed=settings.seed,
        engine=settings.engine,
        device=settings.device,
    )
    return authors(federation) if settings.preset == "authors" else federation


def _build(architecture: Architecture, dataset: Dataset) -> nn.Module:
    try:
        return architecture.build(dataset)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"model {architecture.name!r} cannot be built ({reason}); choose smaller sizes") from error


def _preparation(settings: Settings, dataset: Dataset) -> Callable[[torch.Tensor], torch.Tensor] | None:
    images = dataset.train_x
    if images.ndim != 4:
        if settings.augment:
            raise ConfigError(
                f"augment is true, but the inputs of {dataset.name!r} have shape {tuple(images.shape[1:])} and are no "
                "images; set augment=false"
            )
        return None
    if settings.normalise == "none":
        return Normalise(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    fit = Normalise.per_channel if settings.normalise == "channel" else Normalise.per_pixel
    return fit(images)


def _plain(value: object) -> object:
    """Return settings as plain JSON types, a choice with its name."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {"name": value.name} if type(value) is not Settings and hasattr(value, "name") else {}
        return named | {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
