"""From an experiment to a federation: load the data, split them, initialise the model, put the choices together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from fedlama.core.global_generators import seed_torch
from fedlama.core.randomness import seed_of
from fedlama.data.arrays import Dataset, DataSource
from fedlama.data.clients import ClientSource, TensorClients, row_numbers
from fedlama.data.held_rows import hold_out
from fedlama.data.local_sets import LocalRows, Part, rows_of_groups
from fedlama.data.partition.base import Partition, Partitioner
from fedlama.data.transforms import Normalise, PadCropFlip
from fedlama.engines import ENGINES, Engine, EngineSetup
from fedlama.errors import ConfigError, DataError, FedlamaError
from fedlama.experiment.loading import described
from fedlama.experiment.options import name_of, origin_of, settings_of
from fedlama.experiment.settings import Experiment, Settings
from fedlama.federation.federation import Federation
from fedlama.federation.held_out import TestSet
from fedlama.federation.pooled import pooled
from fedlama.federation.presets import authors
from fedlama.federation.stopping import EarlyStopping
from fedlama.models.base import Architecture

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """What the methods of a comparison share: data, clients and initial model.

    Attributes:
        dataset: The data set.
        clients: The partitioned training rows.
        model: The model with its initial weights.
        validation_rows: The rows of the data set that are kept out of training as the validation set.
    """

    dataset: Dataset
    clients: TensorClients
    model: nn.Module
    validation_rows: Tensor | None = None

    @cached_property
    def test_set(self) -> TestSet:
        """The held-out rows."""
        return TestSet(self.dataset.test_x, self.dataset.test_y, self.clients.prepare)

    @cached_property
    def validation_set(self) -> TestSet | None:
        """The rows that decide on the best model and early stopping; None without any."""
        rows, data = self.validation_rows, self.dataset
        return None if rows is None else TestSet(data.train_x[rows], data.train_y[rows], self.clients.prepare)


def prepare(experiment: Experiment) -> Material:
    """Load the data, split them and initialise the model.

    Args:
        experiment: The experiment; its strategy makes no difference here.

    Returns:
        What every method of a comparison starts from.
    """
    settings = experiment.settings
    dataset = guarded("data", experiment.data, lambda: _load(experiment.data))
    if not isinstance(dataset, Dataset):
        raise ConfigError(
            f"data {name_of(experiment.data)!r} returned {_kind(dataset)}, expected a fedlama.data.Dataset; return one"
        )
    dataset = experiment.reduction.apply(dataset)
    split = guarded(
        "partition",
        experiment.partition,
        lambda: experiment.partition.split(dataset, settings.seed, settings.batch_size),
    )
    rows = _row_arrays(experiment.partition, split, len(dataset.train_x))
    rows, validation = hold_out(rows, settings.validation_share, settings.seed)
    rows, tested = hold_out(rows, settings.client_test_share, settings.seed, "client test")
    rows, validated = hold_out(rows, settings.client_validation_share, settings.seed, "client validation")
    local_sets = _local_sets(dataset, rows)
    if settings.client_validation_share:
        local_sets["validation"] = LocalRows(dataset.train_x, dataset.train_y, validated)
    if settings.client_test_share:
        local_sets["test"] = LocalRows(dataset.train_x, dataset.train_y, tested)
    clients = TensorClients(
        dataset.train_x,
        dataset.train_y,
        rows,
        settings.batch_size,
        prepare=_preparation(settings, dataset),
        augment=PadCropFlip() if settings.augment else None,
        short_clients=settings.short_clients or settings.preset == "authors",
        drop_last=settings.drop_last,
        local_sets=local_sets,
    )
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed_of(settings.seed, "model"))
        model = _build(experiment.model, dataset)
    held = torch.from_numpy(np.concatenate(validation)) if settings.validation_share else None
    return Material(dataset, clients, model, held)


def _row_arrays(partition: Partitioner, split: object, count: int) -> Partition:
    """Return what a partition returned as arrays; whether the rows exist is checked with the clients.

    Raises:
        ConfigError: It is not a sequence.
        DataError: It holds something else than a sequence of row numbers, or a mask, for each client.
    """
    if isinstance(split, str) or not isinstance(split, Sequence | np.ndarray):
        raise ConfigError(
            f"partition {name_of(partition)!r} returned {_kind(split)}, expected a list with the row numbers of each "
            "client; return one"
        )
    try:
        return [row_numbers(mine, count, client) for client, mine in enumerate(split)]
    except DataError as error:
        raise DataError(f"partition {name_of(partition)!r}: {error}") from error


def _load(source: DataSource) -> object:
    """Load the data; an error names the keys that say where they are."""
    try:
        return source.load()
    except DataError as error:
        paths = {
            key: getattr(source, key) for key in settings_of(type(source)) if isinstance(getattr(source, key), Path)
        }
        missing = [key for key in paths if f"data.{key}" not in str(error)]
        if not missing or origin_of(source) is not None:
            raise
        keys = " and ".join(f"data.{key}={paths[key]}" for key in missing)
        raise DataError(f"{error} (the experiment has {keys}; add data.{missing[0]}=... with your path)") from error


def _local_sets(dataset: Dataset, partition: Partition) -> dict[Part, LocalRows]:
    """Return the test rows of each client's own groups, where every group is on one client."""
    if dataset.groups is None or dataset.test_groups is None:
        return {}
    rows = rows_of_groups(dataset.groups.numpy(), dataset.test_groups.numpy(), partition)
    return {} if rows is None else {"test": LocalRows(dataset.test_x, dataset.test_y, rows)}


def assemble(experiment: Experiment, material: Material) -> Federation:
    """Put an experiment's choices and the prepared material together.

    Args:
        experiment: The experiment.
        material: What :func:`prepare` returned for it, or for an experiment that differs in its strategy only.

    Returns:
        A federation that is ready to run.
    """
    settings = experiment.settings
    federation = Federation(
        model=material.model,
        clients=material.clients,
        strategy=experiment.strategy,
        local_steps=settings.local_steps,
        rounds=settings.rounds,
        epochs=settings.epochs,
        local_work=settings.local_work,
        privacy=settings.privacy,
        personal=settings.personal,
        micro_batch_size=settings.micro_batch_size,
        solver=experiment.solver,
        sampler=experiment.sampler,
        availability=experiment.availability,
        codec=experiment.codec,
        server_optimizer=experiment.server_optimizer,
        aggregator=experiment.aggregator,
        layers=guarded("layers", experiment.layers, lambda: experiment.layers.label(material.model)),
        weighting=settings.weighting,
        task=experiment.task,
        test_set=material.test_set,
        evaluate_every=settings.evaluate_every,
        evaluate=settings.evaluate,
        seed=settings.seed,
        engine=_engine(experiment),
        device=settings.device,
        evaluate_clients=settings.evaluate_clients,
        validation_set=material.validation_set,
        early_stopping=(None if settings.patience is None else EarlyStopping(settings.patience, settings.min_delta)),
    )
    federation = authors(federation) if settings.preset == "authors" else federation
    return pooled(federation) if getattr(experiment.strategy, "is_central", False) else federation


def _engine(experiment: Experiment) -> str | Callable[[EngineSetup], Engine]:
    """Return the experiment's engine in its precision.

    Raises:
        ConfigError: The engine has no mixed precision.
    """
    settings = experiment.settings
    engine = experiment.engine or settings.engine
    if settings.precision == "float32":
        return engine
    factory: Any = ENGINES.get(engine) if isinstance(engine, str) else None
    if factory is None or "precision" not in getattr(factory, "__dataclass_fields__", {}):
        raise ConfigError(
            f"precision is {settings.precision!r}, but engine {settings.engine!r} computes in the model's own numbers; "
            "choose engine 'stacked', 'workers' or 'auto', or precision 'float32'"
        )
    made: Callable[[EngineSetup], Engine] = replace(factory, precision=settings.precision)
    return made


def comparable(experiment: Experiment, clients: ClientSource) -> Experiment:
    """Return an experiment whose budget is in local steps, so that methods with rounds of other lengths compare at it.

    Args:
        experiment: The experiment; its own strategy gives the length of a round.
        clients: Its clients.

    Raises:
        ConfigError: The budget is in epochs, and the clients do not know theirs.
    """
    settings = experiment.settings
    if settings.local_steps is not None:
        return experiment
    budget = settings.budget.resolve(experiment.strategy.local_steps, clients, settings.local_work)
    settings = replace(settings, local_steps=budget.local_steps, rounds=None, epochs=None)
    return replace(experiment, settings=settings)


def with_rounds_of(variant: Experiment, tau: int) -> Experiment:
    """Return a method's experiment with as much local work per local step of the clock as the reference has.

    A baseline whose rounds are phi times as long does phi times the epochs in a round.

    Args:
        variant: The method's experiment, with its own strategy.
        tau: Local steps of a round of the reference, to which the local work of the settings belongs.
    """
    work, steps = variant.settings.local_work, variant.strategy.local_steps
    if work.is_equal or steps == tau:
        return variant
    return replace(variant, settings=replace(variant.settings, local_work=work.scaled(steps / tau)))


def guarded(section: str, option: object, call: Callable[[], T]) -> T:
    """Call an option of a section; an error in code of the user's own is reported with its file and line.

    Args:
        section: The section.
        option: Its option.
        call: What to call.

    Raises:
        ConfigError: Code of the user's own failed.
    """
    try:
        return call()
    except FedlamaError:
        raise
    except Exception as error:
        origin = origin_of(option)
        if origin is None:
            raise
        raise ConfigError(
            f"{section} {origin.reference!r} failed: {described(error, origin.file)}; correct it there"
        ) from error


def _build(architecture: Architecture, dataset: Dataset) -> nn.Module:
    try:
        model = guarded("model", architecture, lambda: architecture.build(dataset))
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(f"model {architecture.name!r} cannot be built ({reason}); choose smaller sizes") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model {name_of(architecture)!r} returned {_kind(model)}, expected a torch.nn.Module; return one"
        )
    return model


def _kind(value: object) -> str:
    return "nothing" if value is None else f"an object of the class {type(value).__name__}"


def _preparation(settings: Settings, dataset: Dataset) -> Callable[[torch.Tensor], torch.Tensor] | None:
    images = dataset.train_x
    if images.ndim != 4:
        if settings.augment:
            raise ConfigError(
                f"augment is true, but the inputs of {dataset.name!r} have shape {tuple(images.shape[1:])}, expected "
                "images (C, H, W); set augment=false"
            )
        return None
    if settings.normalise == "none":
        return Normalise(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
    fit = Normalise.per_channel if settings.normalise == "channel" else Normalise.per_pixel
    return fit(images)
